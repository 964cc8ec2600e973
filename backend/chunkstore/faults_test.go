package chunkstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

const block = backend.ChecksumBlock

var testChunk = backend.ChunkRef{ID: 0x1234, Size: modelChunkSize}

const testChunkPath = storeDir + "/34/0000000000001234"

// rig is a store on a crashfs with short words for what the tests do.
type rig struct {
	*testing.T
	fs    *crashfs.FS
	store *chunkstore.Store
}

func newRig(t *testing.T, opts crashfs.Options) *rig {
	r := &rig{T: t, fs: crashfs.New(opts)}
	r.open()
	t.Cleanup(func() {
		r.fs.OnCall(nil)
		_ = r.store.Close()
	})
	return r
}

func (r *rig) open() {
	r.Helper()
	s, err := chunkstore.Open(r.fs, storeDir, smallOptions())
	if err != nil {
		r.Fatal(err)
	}
	r.store = s
}

// reopen closes cleanly and opens again.
func (r *rig) reopen() {
	r.Helper()
	if err := r.store.Close(); err != nil {
		r.Fatal(err)
	}
	r.open()
}

func (r *rig) do(kind backend.OpKind, off int64, data []byte, flags backend.Flags) error {
	return backendtest.Do(r.store, &backend.Op{Kind: kind, Flags: flags, Volume: 1, Chunk: testChunk, Off: off, Len: int64(len(data)), Data: data})
}

func (r *rig) write(off int64, data []byte) {
	r.Helper()
	if err := r.do(backend.OpWrite, off, data, 0); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) flush() error { return r.do(backend.OpFlush, 0, nil, 0) }

func (r *rig) read(off, length int64) ([]byte, error) {
	p := bytes.Repeat([]byte{0xEE}, int(length))
	err := r.do(backend.OpRead, off, p, 0)
	return p, err
}

func (r *rig) wantError(what string, got, want error) {
	r.Helper()
	if !errors.Is(got, want) {
		r.Errorf("%s: got error %v, expected %v", what, got, want)
	}
}

func (r *rig) wantContent(off int64, want []byte) {
	r.Helper()
	got, err := r.read(off, int64(len(want)))
	if err != nil || !bytes.Equal(got, want) {
		r.Errorf("read of %d at %d: error %v, content as expected: %v", len(want), off, err, bytes.Equal(got, want))
	}
}

func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	fill(p, seed, 0)
	return p
}

func failOn(kind crashfs.OpKind, err error) func(crashfs.Call) error {
	return func(c crashfs.Call) error {
		if c.Op == kind {
			return err
		}
		return nil
	}
}

func TestFailedSyncPoisonsTheChunk(t *testing.T) {
	for _, tc := range []struct {
		name string
		kind crashfs.OpKind
	}{{"data", crashfs.OpSyncData}, {"directory", crashfs.OpSyncDir}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, crashfs.Options{})
			r.write(0, content(1, block))
			r.fs.OnCall(failOn(tc.kind, unix.EIO))
			r.wantError("flush", r.flush(), backend.ErrIO)
			r.fs.OnCall(nil)
			// The disk is well again, but what it dropped stays dropped.
			for range 3 {
				r.wantError("later flush", r.flush(), backend.ErrIO)
			}
			r.wantError("FUA", r.do(backend.OpWrite, 0, content(2, block), backend.FlagFUA), backend.ErrIO)
			r.wantError("write", r.do(backend.OpWrite, 0, content(2, block), 0), backend.ErrIO)
			r.wantContent(0, content(1, block))
			r.store.EvictAll()
			r.wantError("flush after eviction", r.flush(), backend.ErrIO)

			other := &backend.Op{Kind: backend.OpWrite, Volume: 2, Chunk: backend.ChunkRef{ID: 9, Size: modelChunkSize}, Len: block, Data: content(3, block), Flags: backend.FlagFUA}
			if err := backendtest.Do(r.store, other); err != nil {
				t.Errorf("another volume: %v", err)
			}
			if err := r.do(backend.OpTrim, 0, make([]byte, modelChunkSize), 0); err != nil {
				t.Errorf("trim: %v", err)
			}
			err := r.flush()
			if tc.kind == crashfs.OpSyncDir {
				r.wantError("flush of a name in a directory that failed", err, backend.ErrIO)
			} else if err != nil {
				t.Errorf("flush after the trim, with no data left to lose: %v", err)
			}
		})
	}
}

func TestFailedDirtyMarkChangesNothing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault error
		kind  crashfs.OpKind
		want  error
	}{
		{"mark cannot be written", unix.ENOSPC, crashfs.OpWrite, backend.ErrNoSpace},
		{"mark cannot be synced", unix.EIO, crashfs.OpSyncData, backend.ErrIO},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, crashfs.Options{})
			r.write(0, content(1, block))
			r.reopen()
			r.fs.OnCall(failOn(tc.kind, tc.fault))
			r.wantError("write", r.do(backend.OpWrite, 0, content(2, block), 0), tc.want)
			r.fs.OnCall(nil)
			r.wantContent(0, content(1, block))
		})
	}
}

func TestDiskErrorsHaveTheirSentinel(t *testing.T) {
	for _, tc := range []struct {
		fault, want error
	}{{unix.ENOSPC, backend.ErrNoSpace}, {unix.EDQUOT, backend.ErrNoSpace}, {unix.EIO, backend.ErrIO}, {unix.EROFS, backend.ErrReadOnly}, {unix.EMFILE, backend.ErrIO}} {
		for _, kind := range []crashfs.OpKind{crashfs.OpCreate, crashfs.OpWrite} {
			t.Run(fmt.Sprintf("%v at %v", tc.fault, kind), func(t *testing.T) {
				r := newRig(t, crashfs.Options{})
				r.fs.OnCall(failOn(kind, tc.fault))
				r.wantError("write", r.do(backend.OpWrite, 0, content(1, block), 0), tc.want)
				r.fs.OnCall(nil)
				r.wantContent(0, make([]byte, block))
				r.write(0, content(2, block)) // and it works once the disk does
				r.reopen()
				r.wantContent(0, content(2, block))
			})
		}
	}
}

func TestReadErrorOfTheDiskIsAnIOError(t *testing.T) {
	r := newRig(t, crashfs.Options{MissEvery: 1})
	r.write(0, content(1, block))
	r.fs.OnCall(failOn(crashfs.OpRead, unix.EIO))
	_, err := r.read(0, block)
	r.wantError("read", err, backend.ErrIO)
	r.fs.OnCall(nil)
	r.wantContent(0, content(1, block))
}

// TestPartialWriteKeepsTableAndDataTogether fails writes after any number of
// bytes: what is read afterwards is old or new by sector, never an error.
func TestPartialWriteKeepsTableAndDataTogether(t *testing.T) {
	for _, stored := range []int{0, 512, block - 512, block, block + 1024, 3 * block} {
		for _, off := range []int64{0, 512} {
			t.Run(fmt.Sprintf("stored=%d/off=%d", stored, off), func(t *testing.T) {
				r := newRig(t, crashfs.Options{})
				old, fresh := content(1, 8*block), content(2, 4*block)
				r.write(0, old)
				r.fs.OnCall(failOn(crashfs.OpWrite, &crashfs.PartialError{N: stored, Err: unix.ENOSPC}))
				r.wantError("write", r.do(backend.OpWrite, off, fresh, 0), backend.ErrNoSpace)
				r.fs.OnCall(nil)
				want := bytes.Clone(old)
				copy(want[off:], fresh[:stored])
				r.wantContent(0, want)
				if err := r.flush(); err != nil {
					t.Fatal(err)
				}
				r.reopen()
				r.wantContent(0, want)
			})
		}
	}
}

func TestPartialPunchKeepsTableAndDataTogether(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	want := content(1, 8*block)
	r.write(0, want)
	r.fs.OnCall(failOn(crashfs.OpPunch, &crashfs.PartialError{N: 2 * block, Err: unix.EIO}))
	r.wantError("trim", r.do(backend.OpTrim, block, make([]byte, 4*block), 0), backend.ErrIO)
	r.fs.OnCall(nil)
	clear(want[block : 3*block])
	r.wantContent(0, want)
	r.reopen()
	r.wantContent(0, want)
}

// TestTrimThatReachedTheDiskBeforeItsTableIsAHole: reconciling takes zeros for
// freed space, else every crash would make a thin chunk look thicker.
func TestTrimThatReachedTheDiskBeforeItsTableIsAHole(t *testing.T) {
	r := newRig(t, crashfs.Options{Unit: 4096})
	r.write(0, content(1, block))
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if err := r.do(backend.OpTrim, 0, make([]byte, block), 0); err != nil {
		t.Fatal(err)
	}
	seen := make(map[bool]int)
	for seed := range uint64(50) {
		after := &rig{T: t, fs: r.fs.Crash(seed)}
		after.open()
		op := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: testChunk, Len: block, Data: make([]byte, block)}
		if err := backendtest.Do(after.store, op); err != nil {
			t.Fatal(err)
		}
		freed := bytes.Equal(op.Data, make([]byte, block))
		if op.Hole != freed {
			t.Errorf("seed %d: the block is zeros: %v, Hole: %v", seed, freed, op.Hole)
		}
		seen[freed]++
		if err := after.store.Close(); err != nil {
			t.Error(err)
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("outcomes %v: both were to be met", seen)
	}
}

func TestFullDiskRecoversWithoutRestart(t *testing.T) {
	r := newRig(t, crashfs.Options{Capacity: 40 << 10})
	var err error
	written := 0
	for ; err == nil && written < 16; written++ {
		err = r.do(backend.OpWrite, int64(written)*block, content(uint64(written+1), block), 0)
	}
	r.wantError("write to a full disk", err, backend.ErrNoSpace)
	written--
	if err := r.flush(); err != nil {
		t.Fatalf("flush on a full disk: %v", err)
	}
	for i := range written {
		r.wantContent(int64(i)*block, content(uint64(i+1), block))
	}
	if err := r.do(backend.OpTrim, 0, make([]byte, 2*block), 0); err != nil {
		t.Fatalf("trim on a full disk: %v", err)
	}
	r.write(int64(written)*block, content(99, block))
	r.reopen()
	r.wantContent(int64(written)*block, content(99, block))
}

// TestRandomFaultsNeverMakeChecksumErrors lets any call fail at random: content
// may then be old or new by sector, but it is never unreadable.
func TestRandomFaultsNeverMakeChecksumErrors(t *testing.T) {
	for seed := range uint64(40) {
		r := newRig(t, crashfs.Options{MissEvery: 4})
		rng := rand.New(rand.NewPCG(seed, 4))
		var calls atomic.Uint64
		fault := func(c crashfs.Call) error {
			if h := (calls.Add(1) + seed*977) * 0x9e3779b97f4a7c15 >> 40 % 12; h == 0 && c.Op == crashfs.OpWrite {
				return &crashfs.PartialError{N: c.Len / 1024 * 512, Err: unix.ENOSPC}
			} else if h <= 1 && c.Op != crashfs.OpRead && c.Op != crashfs.OpSyncData && c.Op != crashfs.OpSyncDir {
				return unix.EIO
			}
			return nil
		}
		for i := range 120 {
			r.fs.OnCall(fault)
			off := rng.Int64N(modelChunkSize/512) * 512
			p := content(uint64(i+1), int(min(rng.Int64N(40)*512, modelChunkSize-off)))
			kind := []backend.OpKind{backend.OpWrite, backend.OpWrite, backend.OpTrim, backend.OpZero, backend.OpFlush}[rng.IntN(5)]
			err := r.do(kind, off, p, 0)
			if errors.Is(err, backend.ErrChecksum) {
				t.Fatalf("seed %d, step %d: %v: %v", seed, i, kind, err)
			}
			if rng.IntN(10) == 0 {
				r.store.EvictAll()
			}
			r.fs.OnCall(nil)
			if _, err := r.read(0, modelChunkSize); err != nil {
				t.Fatalf("seed %d, step %d: read after %v with error %v: %v", seed, i, kind, err, err)
			}
		}
		_ = r.store.Close()
	}
}
