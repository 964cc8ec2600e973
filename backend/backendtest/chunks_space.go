package backendtest

import (
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

func (t *chunksTest) trimFrees() { t.frees(backend.OpTrim, 0) }

func (t *chunksTest) zeroFrees() { t.frees(backend.OpZero, 0) }

// frees checks that freeing three quarters of a full chunk gives about as much
// space back, at odd borders, and that exactly the range reads as zeros.
func (t *chunksTest) frees(kind backend.OpKind, flags backend.Flags) {
	t.Helper()
	ref := t.chunk()
	model := pattern(1, chunkSize)
	t.write(ref, 0, model)
	t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
	before := t.usageOf(ref)
	if before < chunkSize {
		t.Fatalf("a full chunk of %d takes %d bytes", chunkSize, before)
	}
	const off, length = sector, chunkSize * 3 / 4
	op := t.op(kind, ref, off, length)
	op.Flags = flags
	t.must(op)
	clear(model[off : off+length])
	t.wantContent(ref, 0, model)
	if after := t.usageOf(ref); before-after < chunkSize/2 {
		t.Errorf("%v of %d freed %d bytes", kind, length, before-after)
	}
	if exts := t.extents(ref, block, length-block); !slices.Equal(exts, []backend.Extent{{Length: length - block, Hole: true}}) {
		t.Errorf("extents after %v are %v", kind, exts)
	}
}

func (t *chunksTest) trimWhole() {
	ref := t.chunk()
	t.write(ref, 0, pattern(1, chunkSize))
	t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
	t.must(t.op(backend.OpTrim, ref, 0, chunkSize))
	if n := t.usageOf(ref); n != 0 {
		t.Errorf("a chunk takes %d bytes after all of it was trimmed", n)
	}
	if _, hole := t.read(ref, 0, chunkSize); !hole {
		t.Error("a trimmed chunk is not a hole")
	}
	again := pattern(2, 3*sector)
	t.write(ref, block, again)
	t.wantContent(ref, block, again)
	t.wantContent(ref, 0, make([]byte, block))
	t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
}

func (t *chunksTest) trimMissing() {
	for _, kind := range []backend.OpKind{backend.OpTrim, backend.OpZero} {
		for _, length := range []int64{sector, block, chunkSize} {
			ref := t.chunk()
			t.must(t.op(kind, ref, 0, length))
			if n := t.usageOf(ref); n != 0 {
				t.Errorf("%v of %d made a chunk of %d bytes", kind, length, n)
			}
		}
	}
}

func (t *chunksTest) zeroKeeps() {
	for _, written := range []bool{false, true} {
		ref := t.chunk()
		if written {
			t.write(ref, 0, pattern(1, chunkSize))
		}
		op := t.op(backend.OpZero, ref, sector, chunkSize-2*sector)
		op.Flags = backend.FlagNoHole
		t.must(op)
		t.wantContent(ref, sector, make([]byte, chunkSize-2*sector))
		t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
		if n := t.usageOf(ref); n < chunkSize {
			t.Errorf("after zeroing without holes (written before: %v) the chunk takes %d bytes of %d", written, n, chunkSize)
		}
		if exts := t.extents(ref, 0, chunkSize); !slices.Equal(exts, []backend.Extent{{Length: chunkSize}}) {
			t.Errorf("extents after zeroing without holes (written before: %v) are %v", written, exts)
		}
	}
}

func (t *chunksTest) fastZero() {
	ref := t.chunk()
	model := pattern(1, chunkSize)
	t.write(ref, 0, model)
	op := t.op(backend.OpZero, ref, 0, 2*block)
	op.Flags = backend.FlagFastZero | backend.FlagNoHole
	t.wantError(op, backend.ErrNotSupported)
	t.wantContent(ref, 0, model)

	op = t.op(backend.OpZero, ref, 0, 2*block)
	op.Flags = backend.FlagFastZero
	if err := Do(t.chunks, op); err == nil {
		clear(model[:2*block])
	}
	t.wantContent(ref, 0, model) // zeroed, or refused and unchanged
}

func (t *chunksTest) usage() {
	a, b, missing := t.chunk(), t.chunk(), t.chunk()
	if n := t.usageOf(); n != 0 {
		t.Errorf("no chunks take %d bytes", n)
	}
	t.write(a, 0, pattern(1, chunkSize))
	t.write(b, 0, pattern(2, block))
	t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
	na, nb := t.usageOf(a), t.usageOf(b)
	if na < chunkSize || nb < block {
		t.Errorf("usage is %d for %d bytes and %d for %d", na, chunkSize, nb, block)
	}
	if nb >= na {
		t.Errorf("a chunk with one block takes %d bytes, a full one %d: chunks are not thin", nb, na)
	}
	if sum := t.usageOf(a, missing, b); sum != na+nb {
		t.Errorf("usage of both is %d, expected %d", sum, na+nb)
	}
}

func (t *chunksTest) deleteFrees() {
	kept, a, b, missing := t.chunk(), t.chunk(), t.chunk(), t.chunk()
	for _, ref := range []backend.ChunkRef{kept, a, b} {
		t.write(ref, 0, pattern(uint64(ref.ID), chunkSize))
	}
	for range 2 { // the second time all of them are missing
		if err := t.chunks.Delete(t.Context(), t.volume, []backend.ChunkRef{a, missing, b}); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		if n := t.usageOf(a, b); n != 0 {
			t.Errorf("deleted chunks take %d bytes", n)
		}
	}
	t.wantContent(a, 0, make([]byte, chunkSize))
	t.wantContent(kept, 0, pattern(uint64(kept.ID), chunkSize))
	t.must(t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0))
}
