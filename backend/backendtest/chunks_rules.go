package backendtest

import (
	"bytes"
	"errors"
	"math"

	"github.com/opencurve/curve-nbd/backend"
)

func (t *chunksTest) flushAndFUA() {
	flush := t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0)
	t.must(flush) // a volume never written
	ref := t.chunk()
	for i, kind := range []backend.OpKind{backend.OpWrite, backend.OpZero, backend.OpTrim, backend.OpRead} {
		op := t.op(kind, ref, 0, block)
		op.Flags = backend.FlagFUA
		if kind == backend.OpWrite || kind == backend.OpRead {
			op.Data = pattern(uint64(i), block)
		}
		t.must(op)
		t.must(flush)
	}
	if err := SubmitAndWait(t.chunks, flush); err != nil {
		t.Fatalf("submitted flush with nothing to do: %v", err)
	}
}

func (t *chunksTest) emptyRanges() {
	ref, missing := t.chunk(), t.chunk()
	model := pattern(1, chunkSize)
	t.write(ref, 0, model)
	for _, kind := range []backend.OpKind{backend.OpRead, backend.OpWrite, backend.OpZero, backend.OpTrim} {
		for _, off := range []int64{0, block, chunkSize} {
			t.must(t.op(kind, ref, off, 0))
			t.must(t.op(kind, missing, off, 0))
		}
	}
	t.wantContent(ref, 0, model)
	if n := t.usageOf(missing); n != 0 {
		t.Errorf("empty operations made a chunk of %d bytes", n)
	}
}

func (t *chunksTest) badOps() {
	ref := t.chunk()
	model := pattern(1, chunkSize)
	t.write(ref, 0, model)
	bad := []struct {
		name string
		edit func(*backend.Op)
	}{
		{"offset not on a sector", func(op *backend.Op) { op.Off = 100 }},
		{"length not in sectors", func(op *backend.Op) { op.Len, op.Data = 100, op.Data[:100] }},
		{"negative offset", func(op *backend.Op) { op.Off = -sector }},
		{"negative length", func(op *backend.Op) { op.Len = -sector }},
		{"past the end", func(op *backend.Op) { op.Off = chunkSize }},
		{"across the end", func(op *backend.Op) { op.Off, op.Len, op.Data = chunkSize-sector, block, op.Data[:block] }},
		{"offset that overflows", func(op *backend.Op) { op.Off = math.MaxInt64 - 511 }},
		{"length that overflows", func(op *backend.Op) { op.Off, op.Len = sector, math.MaxInt64-511 }},
		{"chunk of no size", func(op *backend.Op) { op.Chunk.Size = 0 }},
		{"chunk of odd size", func(op *backend.Op) { op.Chunk.Size = chunkSize + block }},
		{"chunk too large", func(op *backend.Op) { op.Chunk.Size = backend.MaxChunkSize * 2 }},
		{"chunk too small", func(op *backend.Op) { op.Chunk.Size = backend.MinChunkSize / 2 }},
	}
	for _, kind := range []backend.OpKind{backend.OpRead, backend.OpWrite, backend.OpZero, backend.OpTrim} {
		for _, tc := range bad {
			for _, run := range []func(backend.Chunks, *backend.Op) error{Do, SubmitAndWait} {
				op := t.op(kind, ref, 0, block)
				op.Data = bytes.Repeat([]byte{0xBB}, block)
				tc.edit(op)
				if kind == backend.OpZero || kind == backend.OpTrim {
					op.Data = nil
				}
				if err := run(t.chunks, op); !errors.Is(err, backend.ErrInvalid) {
					t.Errorf("%v, %s: got error %v, expected %v", kind, tc.name, err, backend.ErrInvalid)
				}
			}
		}
	}
	for _, kind := range []backend.OpKind{backend.OpRead, backend.OpWrite} {
		op := t.op(kind, ref, 0, block)
		op.Data = make([]byte, sector)
		t.wantError(op, backend.ErrInvalid)
	}
	t.wantError(t.op(0, ref, 0, block), backend.ErrInvalid)
	t.wantError(t.op(200, ref, 0, block), backend.ErrInvalid)
	t.wantContent(ref, 0, model)
}

func (t *chunksTest) badExtents() {
	ref := t.chunk()
	t.write(ref, 0, pattern(1, block))
	for _, at := range []struct{ off, length int64 }{{-sector, block}, {0, -sector}, {chunkSize, sector}, {100, sector}, {0, 100}, {sector, math.MaxInt64 - 511}} {
		if exts, err := t.chunks.Extents(t.Context(), t.volume, ref, at.off, at.length, nil); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Extents of %d at %d: got %v, %v; expected %v", at.length, at.off, exts, err, backend.ErrInvalid)
		}
	}
}

func (t *chunksTest) everyOp(ref backend.ChunkRef) []*backend.Op {
	ops := []*backend.Op{
		t.op(backend.OpRead, ref, 0, block), t.op(backend.OpWrite, ref, 0, block), t.op(backend.OpZero, ref, 0, block),
		t.op(backend.OpTrim, ref, 0, block), t.op(backend.OpTrim, ref, 0, chunkSize), t.op(backend.OpFlush, backend.ChunkRef{}, 0, 0),
		t.op(backend.OpWrite, ref, 0, block), t.op(backend.OpZero, ref, 0, block),
	}
	for _, op := range ops {
		if op.Kind == backend.OpRead || op.Kind == backend.OpWrite {
			op.Data = bytes.Repeat([]byte{0xBB}, block)
		}
	}
	ops[len(ops)-2].Flags = backend.FlagFUA
	ops[len(ops)-1].Flags = backend.FlagNoHole
	return ops
}

func (t *chunksTest) staleEpoch() {
	ref, missing := t.chunk(), t.chunk()
	model := pattern(1, chunkSize)
	t.epoch = 5
	t.write(ref, 0, model)
	t.epoch = 4
	for _, target := range []backend.ChunkRef{ref, missing} {
		for _, op := range t.everyOp(target) {
			t.wantError(op, backend.ErrStaleEpoch)
			if err := SubmitAndWait(t.chunks, op); !errors.Is(err, backend.ErrStaleEpoch) {
				t.Errorf("submitted %s: got error %v, expected %v", describe(op), err, backend.ErrStaleEpoch)
			}
		}
	}
	t.epoch = 5
	t.wantContent(ref, 0, model)
	t.epoch = 6
	t.wantContent(ref, 0, model)
}

func (t *chunksTest) separateEpochs() {
	t.epoch = 9
	a := t.chunk()
	t.write(a, 0, pattern(1, block))
	t.volume, t.epoch = t.volume+1, 1
	b := t.chunk()
	t.write(b, 0, pattern(2, block))
	t.wantContent(b, 0, pattern(2, block))
}

func (t *chunksTest) everyKindRaises() {
	for i, op := range t.everyOp(t.chunk()) {
		t.epoch = backend.Epoch(10 + 2*i)
		op.Epoch = t.epoch
		t.must(op)
		late := t.op(backend.OpRead, t.chunk(), 0, block)
		late.Data, late.Epoch = make([]byte, block), t.epoch-1
		t.wantError(late, backend.ErrStaleEpoch)
	}
}

func (t *chunksTest) dataNotKept() {
	ref := t.chunk()
	data := pattern(1, 4*block)
	want := bytes.Clone(data)
	t.write(ref, 0, data)
	clear(data)
	t.wantContent(ref, 0, want)
	got, _ := t.read(ref, 0, 4*block)
	t.write(ref, 0, pattern(2, 4*block))
	t.wantEqual(ref, 0, got, want)
}

func (t *chunksTest) opReuse() {
	ref := t.chunk()
	op := t.op(backend.OpRead, ref, 0, block)
	op.Data = make([]byte, block)
	t.must(op)
	if !op.Hole {
		t.Error("read of nothing: Hole is not set")
	}
	op.Kind, op.Data = backend.OpWrite, pattern(1, block)
	t.must(op)
	op.Kind, op.Data = backend.OpRead, make([]byte, block)
	t.must(op)
	if op.Hole {
		t.Error("Hole is left from an earlier use")
	}
	t.wantEqual(ref, 0, op.Data, pattern(1, block))
	op.Off = 100
	t.wantError(op, backend.ErrInvalid)
	op.Off = 0
	t.must(op)
}

func (t *chunksTest) closed() {
	ref := t.chunk()
	t.write(ref, 0, pattern(1, block))
	if err := t.chunks.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for _, op := range t.everyOp(ref) {
		t.wantError(op, backend.ErrClosed)
		if err := SubmitAndWait(t.chunks, op); !errors.Is(err, backend.ErrClosed) {
			t.Errorf("submitted %s: got error %v, expected %v", describe(op), err, backend.ErrClosed)
		}
	}
	if _, err := t.chunks.Extents(t.Context(), t.volume, ref, 0, block, nil); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("Extents: got error %v, expected %v", err, backend.ErrClosed)
	}
	if _, err := t.chunks.Usage(t.Context(), []backend.ChunkRef{ref}); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("Usage: got error %v, expected %v", err, backend.ErrClosed)
	}
	if err := t.chunks.Delete(t.Context(), t.volume, []backend.ChunkRef{ref}); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("Delete: got error %v, expected %v", err, backend.ErrClosed)
	}
}
