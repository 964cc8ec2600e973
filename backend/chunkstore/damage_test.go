package chunkstore_test

import (
	"bytes"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestBitRotInCleanChunkIsNeverReturned(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	data := content(1, 4*block)
	r.write(0, data)
	r.reopen()
	_, _, dataOff := chunkstore.Layout(modelChunkSize)
	if err := r.fs.Flip(testChunkPath, dataOff+block+100, 3); err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct{ off, length int64 }{{0, 4 * block}, {block, block}, {block + 512, 512}} {
		got, err := r.read(at.off, at.length)
		r.wantError("read of a damaged block", err, backend.ErrChecksum)
		if in := at.off % block; bytes.Contains(got, data[block+in+512:block+in+1024]) {
			t.Error("data of the damaged block was returned")
		}
	}
	r.wantError("write of part of a damaged block", r.do(backend.OpWrite, block, content(2, 512), 0), backend.ErrChecksum)
	r.wantError("trim of part of a damaged block", r.do(backend.OpTrim, block, make([]byte, 512), 0), backend.ErrChecksum)
	r.wantContent(0, data[:block])
	r.wantContent(2*block, data[2*block:])
	if n := r.store.Stats().ChecksumErrors; n < 3 {
		t.Errorf("%d checksum errors counted", n)
	}
	r.write(block, content(3, block)) // all of the block anew: healed
	r.wantContent(block, content(3, block))
}

func TestDamagedMetadataOfCleanChunkIsNoticed(t *testing.T) {
	tableOff, sealOff, _ := chunkstore.Layout(modelChunkSize)
	for _, tc := range []struct {
		name   string
		damage func(*crashfs.FS) error
	}{
		{"flipped magic", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, 0, 1) }},
		{"flipped state", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, 12, 0) }},
		{"flipped chunk id", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, 16, 0) }},
		{"flipped reserved byte", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, 300, 7) }},
		{"flipped sum", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, 510, 7) }},
		{"wiped header", func(fs *crashfs.FS) error { return fs.Wipe(testChunkPath, 0, 512) }},
		{"flipped table entry", func(fs *crashfs.FS) error { return fs.Flip(testChunkPath, tableOff+1, 0) }},
		{"wiped table", func(fs *crashfs.FS) error { return fs.Wipe(testChunkPath, tableOff, 64) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, crashfs.Options{})
			r.write(0, content(1, 4*block))
			r.reopen()
			if err := tc.damage(r.fs); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := r.read(0, block)
				r.wantError("read", err, backend.ErrChecksum)
				r.wantError("write", r.do(backend.OpWrite, 0, content(2, block), 0), backend.ErrChecksum)
			}
			// Trimming all of it is the way to get rid of it.
			if err := r.do(backend.OpTrim, 0, make([]byte, modelChunkSize), 0); err != nil {
				t.Fatal(err)
			}
			r.wantContent(0, make([]byte, modelChunkSize))
			r.write(0, content(3, block))
			r.reopen()
			r.wantContent(0, content(3, block))
		})
	}
	t.Run("a wiped seal loses nothing", func(t *testing.T) {
		r := newRig(t, crashfs.Options{})
		r.write(0, content(1, block))
		r.reopen()
		if err := r.fs.Wipe(testChunkPath, sealOff, 512); err != nil {
			t.Fatal(err)
		}
		r.wantContent(0, content(1, block))
	})
}

func TestFileOfAnotherChunkIsRefused(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	r.write(0, content(1, block))
	other := testChunk
	other.Size *= 2
	err := backendtest.Do(r.store, &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: other, Len: 512, Data: make([]byte, 512)})
	r.wantError("another chunk size", err, backend.ErrInvalid)
	err = backendtest.Do(r.store, &backend.Op{Kind: backend.OpRead, Volume: 2, Chunk: testChunk, Len: 512, Data: make([]byte, 512)})
	r.wantError("another volume", err, backend.ErrInvalid)
	r.reopen()
	err = backendtest.Do(r.store, &backend.Op{Kind: backend.OpWrite, Volume: 2, Chunk: testChunk, Len: 512, Data: make([]byte, 512)})
	r.wantError("another volume, chunk not open", err, backend.ErrInvalid)
	r.wantContent(0, content(1, block))
}
