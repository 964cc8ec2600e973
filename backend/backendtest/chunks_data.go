package backendtest

import (
	"bytes"
	"math/rand/v2"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	sector = 512
	block  = backend.ChecksumBlock
)

func (t *chunksTest) unwrittenReadsAsZeros() {
	ref := t.chunk()
	for _, at := range []struct{ off, length int64 }{{0, sector}, {sector, 3 * sector}, {0, chunkSize}, {chunkSize - block, block}} {
		data, hole := t.read(ref, at.off, at.length)
		t.wantEqual(ref, at.off, data, make([]byte, at.length))
		if !hole {
			t.Errorf("read of %d at %d of a chunk never written: Hole is not set", at.length, at.off)
		}
	}
	if n := t.usageOf(ref); n != 0 {
		t.Errorf("reading made the chunk take %d bytes", n)
	}
	t.write(ref, block, pattern(1, sector))
	t.wantContent(ref, 0, make([]byte, block))
	t.wantContent(ref, block+sector, make([]byte, chunkSize-block-sector))
}

// randomChangesMatchModel is the long test: any mix of operations, at any
// alignment, by either path, against a plain array.
func (t *chunksTest) randomChangesMatchModel() {
	const rounds = 1500
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	refs := []backend.ChunkRef{t.chunk(), t.chunk(), t.chunk()}
	models := make([][]byte, len(refs))
	for i := range models {
		models[i] = make([]byte, chunkSize)
	}
	for round := range rounds {
		i := r.IntN(len(refs))
		off, length := randomRange(r)
		op := t.op([]backend.OpKind{backend.OpWrite, backend.OpWrite, backend.OpZero, backend.OpTrim, backend.OpRead, backend.OpRead, backend.OpFlush}[r.IntN(7)], refs[i], off, length)
		part := models[i][off : off+length]
		switch op.Kind {
		case backend.OpWrite:
			op.Data = pattern(uint64(round), length)
			copy(part, op.Data)
		case backend.OpZero:
			op.Flags = []backend.Flags{0, backend.FlagNoHole, backend.FlagFastZero}[r.IntN(3)]
			clear(part)
		case backend.OpTrim:
			clear(part)
		case backend.OpRead:
			op.Data = bytes.Repeat([]byte{0xEE}, int(length))
		}
		if r.IntN(8) == 0 {
			op.Flags |= backend.FlagFUA
		}
		run := Do
		if r.IntN(2) == 0 {
			run = SubmitAndWait
		}
		if err := run(t.chunks, op); err != nil {
			t.Fatalf("round %d: %s: %v", round, describe(op), err)
		}
		if op.Kind == backend.OpRead {
			t.wantEqual(refs[i], off, op.Data, part)
		}
	}
	for i, ref := range refs {
		t.wantContent(ref, 0, models[i])
		t.wantExtentsMatch(ref, models[i])
	}
}

// wantExtentsMatch checks that the extents cover the chunk and that no hole
// lies over data.
func (t *chunksTest) wantExtentsMatch(ref backend.ChunkRef, model []byte) {
	t.Helper()
	var off int64
	for _, e := range t.extents(ref, 0, chunkSize) {
		if e.Hole && !bytes.Equal(model[off:off+e.Length], make([]byte, e.Length)) {
			t.Fatalf("%v: extents say hole for %d at %d, where there is data", ref.ID, e.Length, off)
		}
		off += e.Length
	}
	if off != chunkSize {
		t.Fatalf("%v: extents cover %d bytes of %d", ref.ID, off, chunkSize)
	}
}

// randomRange favours what is awkward: single sectors, block borders, the
// chunk's end, the whole chunk.
func randomRange(r *rand.Rand) (off, length int64) {
	unit := int64(sector)
	if r.IntN(3) == 0 {
		unit = block
	}
	if r.IntN(40) == 0 {
		return 0, chunkSize
	}
	limit := []int64{1, 4, 12, 64, chunkSize / unit}[r.IntN(5)]
	length = (r.Int64N(min(limit, chunkSize/unit)) + 1) * unit
	off = r.Int64N((chunkSize-length)/unit+1) * unit
	if r.IntN(10) == 0 {
		off = chunkSize - length
	}
	return off, length
}

func (t *chunksTest) everyAlignmentReadsBack() {
	ref := t.chunk()
	model := make([]byte, chunkSize)
	seed := uint64(0)
	for head := int64(0); head < 8; head++ {
		for sectors := int64(1); sectors <= 18; sectors++ {
			seed++
			off := int64(seed%5)*block + head*sector
			data := pattern(seed, sectors*sector)
			t.write(ref, off, data)
			copy(model[off:], data)
			t.wantContent(ref, off, data)
		}
	}
	t.wantContent(ref, 0, model)
}

func (t *chunksTest) wholeChunkReadsBack() {
	ref := t.chunk()
	data := pattern(1, chunkSize)
	t.write(ref, 0, data)
	t.wantContent(ref, 0, data)
	if exts := t.extents(ref, 0, chunkSize); !slices.Equal(exts, []backend.Extent{{Length: chunkSize}}) {
		t.Errorf("extents of a full chunk are %v", exts)
	}
}

func (t *chunksTest) extremeChunkSizes() {
	for _, size := range []int64{backend.MinChunkSize, backend.MaxChunkSize} {
		ref := t.chunk()
		ref.Size = size
		first, last := pattern(1, block+sector), pattern(2, block+sector)
		t.write(ref, 0, first)
		t.write(ref, size-int64(len(last)), last)
		t.wantContent(ref, 0, first)
		t.wantContent(ref, size-int64(len(last)), last)
		t.wantError(t.op(backend.OpTrim, ref, size, sector), backend.ErrInvalid)
	}
}

func (t *chunksTest) chunksAreIndependent() {
	a, b := t.chunk(), t.chunk()
	dataA, dataB := pattern(1, chunkSize), pattern(2, chunkSize)
	t.write(a, 0, dataA)
	t.write(b, 0, dataB)
	t.must(t.op(backend.OpTrim, a, 0, chunkSize))
	t.wantContent(b, 0, dataB)
	t.wantContent(a, 0, make([]byte, chunkSize))
}

func (t *chunksTest) holeFlag() {
	ref := t.chunk()
	t.write(ref, 2*block, pattern(1, block))
	for _, tc := range []struct {
		off, length int64
		hole        bool
	}{
		{0, 2 * block, true}, {2 * block, sector, false}, {3 * block, block, true},
		{0, chunkSize, false}, {2*block - sector, 2 * sector, false},
	} {
		if _, hole := t.read(ref, tc.off, tc.length); hole != tc.hole {
			t.Errorf("read of %d at %d: Hole is %v, expected %v", tc.length, tc.off, hole, tc.hole)
		}
	}
}

func (t *chunksTest) extentsCover() {
	ref := t.chunk()
	t.write(ref, 2*block, pattern(1, 2*block))
	t.write(ref, 8*block+sector, pattern(2, sector))
	for _, tc := range []struct {
		name        string
		off, length int64
		want        []backend.Extent
	}{
		{"whole chunk", 0, chunkSize, []backend.Extent{
			{Length: 2 * block, Hole: true}, {Length: 2 * block},
			{Length: 4 * block, Hole: true}, {Length: block}, {Length: chunkSize - 9*block, Hole: true},
		}},
		{"inside a hole", sector, block, []backend.Extent{{Length: block, Hole: true}}},
		{"inside data", 2*block + sector, block, []backend.Extent{{Length: block}}},
		{"odd borders", 2*block - sector, 2*block + 2*sector, []backend.Extent{
			{Length: sector, Hole: true}, {Length: 2 * block}, {Length: sector, Hole: true},
		}},
		{"end of chunk", chunkSize - sector, sector, []backend.Extent{{Length: sector, Hole: true}}},
		{"nothing", block, 0, nil},
	} {
		if got := t.extents(ref, tc.off, tc.length); !slices.Equal(got, tc.want) {
			t.Errorf("%s: extents of %d at %d are %v, expected %v", tc.name, tc.length, tc.off, got, tc.want)
		}
	}
}

func (t *chunksTest) extentsOfMissing() {
	if got := t.extents(t.chunk(), sector, block); !slices.Equal(got, []backend.Extent{{Length: block, Hole: true}}) {
		t.Errorf("extents of a missing chunk are %v", got)
	}
}

func (t *chunksTest) extentsAppend() {
	dst := []backend.Extent{{Length: 5}, {Length: 3, Hole: true}}
	got, err := t.chunks.Extents(t.Context(), t.volume, t.chunk(), 0, block, slices.Clone(dst))
	if err != nil {
		t.Fatal(err)
	}
	if want := []backend.Extent{{Length: 5}, {Length: 3 + block, Hole: true}}; !slices.Equal(got, want) {
		t.Errorf("appended extents are %v, expected %v", got, want)
	}
}
