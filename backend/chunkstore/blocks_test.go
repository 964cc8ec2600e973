package chunkstore_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// blocks collects what Blocks emits: nil for a hole.
func (r *rig) blocks(first, count int, have []uint32) (map[int][]byte, bool, error) {
	got := map[int][]byte{}
	exists, err := r.store.Blocks(r.Context(), testChunk, 1, first, count, have, func(i int, data []byte) error {
		got[i] = bytes.Clone(data)
		return nil
	})
	return got, exists, err
}

func (r *rig) sums() []uint32 {
	r.Helper()
	sums, exists, err := r.store.Sums(r.Context(), testChunk, 1, nil)
	if err != nil || !exists || len(sums) != modelChunkSize/block {
		r.Fatalf("%d sums, exists %v, %v", len(sums), exists, err)
	}
	return sums
}

func TestBlocksLeavesOutWhatTheReaderHas(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	r.write(0, content(1, 4*block))
	have := r.sums()
	r.write(block, content(2, block))
	r.write(8*block, content(3, block))
	if err := r.do(backend.OpTrim, 2*block, make([]byte, block), 0); err != nil {
		t.Fatal(err)
	}
	got, exists, err := r.blocks(0, modelChunkSize/block, have)
	if err != nil || !exists {
		t.Fatal(exists, err)
	}
	want := map[int][]byte{1: content(2, block), 2: nil, 8: content(3, block)}
	if len(got) != len(want) {
		t.Errorf("%d blocks, expected %d", len(got), len(want))
	}
	for i, data := range want {
		if have, ok := got[i]; !ok || !bytes.Equal(have, data) {
			t.Errorf("block %d is missing or wrong", i)
		}
	}
	// The reader's sums may be fewer than asked for, and begin anywhere.
	if got, _, err = r.blocks(3, 6, have[3:4]); err != nil || len(got) != 1 || !bytes.Equal(got[8], content(3, block)) {
		t.Errorf("blocks 3 to 8: %d blocks, %v", len(got), err)
	}
	r.reopen()
	if got, _, err = r.blocks(0, modelChunkSize/block, r.sums()); err != nil || len(got) != 0 {
		t.Errorf("with all sums known: %d blocks, %v", len(got), err)
	}
}

func TestBlocksOfAChunkWithoutAFileAreHoles(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	if got, exists, err := r.blocks(0, 4, nil); len(got) != 0 || exists || err != nil {
		t.Errorf("%v %v %v", got, exists, err)
	}
	if got, exists, err := r.blocks(0, 4, []uint32{0, 5}); len(got) != 1 || got[1] != nil || exists || err != nil {
		t.Errorf("a block that the reader has and the store has not: %v %v %v", got, exists, err)
	}
	if sums, exists, err := r.store.Sums(t.Context(), testChunk, 1, nil); len(sums) != 0 || exists || err != nil {
		t.Errorf("%v %v %v", sums, exists, err)
	}
	r.write(0, content(1, block))
	if err := r.do(backend.OpTrim, 0, make([]byte, modelChunkSize), 0); err != nil { // open, but absent
		t.Fatal(err)
	}
	if got, exists, err := r.blocks(0, 4, nil); len(got) != 0 || exists || err != nil {
		t.Errorf("trimmed: %v %v %v", got, exists, err)
	}
}

func TestDamagedNamesTheBlocks(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	r.write(0, content(1, 10*block))
	tableOff, _, dataOff := chunkstore.Layout(modelChunkSize)
	for _, i := range []int64{2, 3, 9} {
		if err := r.fs.Flip(testChunkPath, dataOff+i*block+100, 3); err != nil {
			t.Fatal(err)
		}
	}
	bad, err := r.store.Damaged(t.Context(), testChunk, 1, nil)
	if err != nil || !slices.Equal(bad, []int{2, 3, 9}) {
		t.Errorf("%v, %v", bad, err)
	}
	if _, _, err := r.blocks(0, 4, nil); !errors.Is(err, backend.ErrChecksum) {
		t.Errorf("damaged blocks were given away: %v", err)
	}
	if got, _, err := r.blocks(4, 5, nil); err != nil || len(got) != 5 {
		t.Errorf("sound blocks beside them: %d, %v", len(got), err)
	}
	r.write(2*block, content(2, 2*block)) // whole blocks are written without a look at what was there
	if err := r.do(backend.OpTrim, 9*block, make([]byte, block), 0); err != nil {
		t.Fatal(err)
	}
	if bad, err = r.store.Damaged(t.Context(), testChunk, 1, nil); err != nil || len(bad) != 0 {
		t.Errorf("after the repair: %v, %v", bad, err)
	}
	r.reopen()
	if err := r.fs.Flip(testChunkPath, tableOff, 0); err != nil {
		t.Fatal(err)
	}
	if _, err = r.store.Damaged(t.Context(), testChunk, 1, nil); !errors.Is(err, backend.ErrChecksum) {
		t.Errorf("damaged table: %v", err)
	}
}

func TestBlocksRefusesWhatIsOutsideTheChunk(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	for _, at := range [][2]int{{-1, 1}, {0, -1}, {0, modelChunkSize/block + 1}, {modelChunkSize/block + 1, 0}, {1, 1 << 62}} {
		if _, _, err := r.blocks(at[0], at[1], nil); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%v: %v", at, err)
		}
	}
	r.store.Close()
	if _, _, err := r.blocks(0, 1, nil); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
