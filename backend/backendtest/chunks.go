package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// chunkSize is that of the suite's chunks: small, so that edges are met often,
// yet several times the coarsest unit that an implementation frees.
const chunkSize = 256 << 10

// TestChunks runs the conformance suite of backend.Chunks. open returns an
// empty store; the suite closes it.
func TestChunks(t *testing.T, open func(t *testing.T) backend.Chunks) {
	tests := []struct {
		name string
		run  func(*chunksTest)
	}{
		{"UnwrittenChunkReadsAsZeros", (*chunksTest).unwrittenReadsAsZeros},
		{"RandomChangesMatchTheModel", (*chunksTest).randomChangesMatchModel},
		{"EveryAlignmentReadsBack", (*chunksTest).everyAlignmentReadsBack},
		{"WholeChunkReadsBack", (*chunksTest).wholeChunkReadsBack},
		{"LargestAndSmallestChunksReadBack", (*chunksTest).extremeChunkSizes},
		{"ChunksAreIndependent", (*chunksTest).chunksAreIndependent},
		{"HoleIsSetOnlyWhereNothingIsAllocated", (*chunksTest).holeFlag},
		{"ExtentsCoverTheRangeExactly", (*chunksTest).extentsCover},
		{"ExtentsOfMissingChunkAreOneHole", (*chunksTest).extentsOfMissing},
		{"ExtentsAppendToDst", (*chunksTest).extentsAppend},
		{"TrimFreesSpaceAndReadsAsZeros", (*chunksTest).trimFrees},
		{"TrimOfWholeChunkLeavesNothing", (*chunksTest).trimWhole},
		{"TrimOfMissingChunkMakesNothing", (*chunksTest).trimMissing},
		{"ZeroFreesSpace", (*chunksTest).zeroFrees},
		{"ZeroNoHoleKeepsSpace", (*chunksTest).zeroKeeps},
		{"FastZeroNeverWritesZeros", (*chunksTest).fastZero},
		{"UsageCountsOnlyWhatExists", (*chunksTest).usage},
		{"DeleteFreesAndSkipsMissing", (*chunksTest).deleteFrees},
		{"FlushAndFUASucceed", (*chunksTest).flushAndFUA},
		{"EmptyRangesSucceedAndChangeNothing", (*chunksTest).emptyRanges},
		{"BadOperationsAreInvalidAndChangeNothing", (*chunksTest).badOps},
		{"BadExtentRangesAreInvalid", (*chunksTest).badExtents},
		{"StaleEpochIsRefused", (*chunksTest).staleEpoch},
		{"EpochsOfVolumesAreSeparate", (*chunksTest).separateEpochs},
		{"EveryKindRaisesTheEpoch", (*chunksTest).everyKindRaises},
		{"DataIsNotKeptAfterCompletion", (*chunksTest).dataNotKept},
		{"OpMayBeUsedAgain", (*chunksTest).opReuse},
		{"DoneIsCalledExactlyOnce", (*chunksTest).doneOnce},
		{"DoneIsNotCalledAfterTry", (*chunksTest).noDoneAfterTry},
		{"SubmittedChangesKeepTheirOrder", (*chunksTest).submittedOrder},
		{"TryNeverOvertakesSubmittedChanges", (*chunksTest).tryNeverOvertakes},
		{"ManyGoroutinesShareAStore", (*chunksTest).manyGoroutines},
		{"ReadersSeeWholeBlocksOfOneWriter", (*chunksTest).readersSeeCandidates},
		{"EverythingAfterCloseIsRefused", (*chunksTest).closed},
		{"CloseWaitsForWhatIsInFlight", (*chunksTest).closeWaits},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := &chunksTest{T: t, chunks: open(t), volume: 7, epoch: 1}
			t.Cleanup(func() {
				if err := c.chunks.Close(); err != nil && !errors.Is(err, backend.ErrClosed) {
					t.Errorf("Close: %v", err)
				}
			})
			tc.run(c)
		})
	}
}

// Do runs op to its end, by Try if that works and else by Submit, and returns
// its outcome. It uses op.Done.
func Do(chunks backend.Chunks, op *backend.Op) error {
	if chunks.Try(op) {
		return op.Err
	}
	return SubmitAndWait(chunks, op)
}

// SubmitAndWait is Do without the attempt to Try.
func SubmitAndWait(chunks backend.Chunks, op *backend.Op) error {
	done := make(signal, 1)
	op.Done = done
	chunks.Submit(op)
	<-done
	return op.Err
}

// signal is a Completer that can be waited for; its buffer makes it not block.
type signal chan struct{}

func (s signal) OpDone(*backend.Op) { s <- struct{}{} }

// chunksTest is one test of the suite.
type chunksTest struct {
	*testing.T
	chunks backend.Chunks
	volume backend.VolumeID
	epoch  backend.Epoch
	lastID backend.ChunkID
}

func (t *chunksTest) chunk() backend.ChunkRef {
	t.lastID++
	return backend.ChunkRef{ID: t.lastID, Size: chunkSize}
}

func (t *chunksTest) op(kind backend.OpKind, ref backend.ChunkRef, off, length int64) *backend.Op {
	return &backend.Op{Kind: kind, Volume: t.volume, Epoch: t.epoch, Chunk: ref, Off: off, Len: length}
}

func (t *chunksTest) must(op *backend.Op) {
	t.Helper()
	if err := Do(t.chunks, op); err != nil {
		t.Fatalf("%s: %v", describe(op), err)
	}
}

func (t *chunksTest) write(ref backend.ChunkRef, off int64, data []byte) {
	t.Helper()
	op := t.op(backend.OpWrite, ref, off, int64(len(data)))
	op.Data = data
	t.must(op)
}

func (t *chunksTest) read(ref backend.ChunkRef, off, length int64) (data []byte, hole bool) {
	t.Helper()
	op := t.op(backend.OpRead, ref, off, length)
	op.Data = bytes.Repeat([]byte{0xEE}, int(length))
	t.must(op)
	return op.Data, op.Hole
}

func (t *chunksTest) wantContent(ref backend.ChunkRef, off int64, want []byte) {
	t.Helper()
	got, _ := t.read(ref, off, int64(len(want)))
	t.wantEqual(ref, off, got, want)
}

func (t *chunksTest) wantEqual(ref backend.ChunkRef, off int64, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v, read of %d at %d: byte %d is %#x, expected %#x", ref.ID, len(want), off, off+int64(i), got[i], want[i])
		}
	}
}

func (t *chunksTest) wantError(op *backend.Op, want error) {
	t.Helper()
	if err := Do(t.chunks, op); !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, expected %v", describe(op), err, want)
	}
}

func (t *chunksTest) usageOf(refs ...backend.ChunkRef) int64 {
	t.Helper()
	n, err := t.chunks.Usage(t.Context(), refs)
	if err != nil {
		t.Fatalf("Usage: %v", err)
	}
	return n
}

func (t *chunksTest) extents(ref backend.ChunkRef, off, length int64) []backend.Extent {
	t.Helper()
	exts, err := t.chunks.Extents(t.Context(), t.volume, ref, off, length, nil)
	if err != nil {
		t.Fatalf("Extents: %v", err)
	}
	return exts
}

func describe(op *backend.Op) string {
	return fmt.Sprintf("%v (flags %#x) of %d at %d of %v, %v epoch %d", op.Kind, op.Flags, op.Len, op.Off, op.Chunk.ID, op.Volume, op.Epoch)
}

// pattern returns n bytes without zeros that differ from one seed to the next.
func pattern(seed uint64, n int64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())%255 + 1
	}
	return b
}
