package chunkstore_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// TestDurableWritesThatWaitShareASync: a chunk is synced once for all of them, and none
// is acknowledged before.
func TestDurableWritesThatWaitShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, crashfs.Options{})
		r.write(0, content(1, block))
		g := newGate(crashfs.OpSyncData)
		r.fs.OnCall(g.hook)
		var done ackCount
		write := func(i int) {
			r.store.Submit(&backend.Op{
				Kind: backend.OpWrite, Flags: backend.FlagFUA, Volume: 1, Chunk: testChunk,
				Off: int64(i) * block, Len: block, Data: content(uint64(i+1), block), Done: &done,
			})
		}
		write(0)
		synctest.Wait() // its sync is under way
		for i := 1; i <= 10; i++ {
			write(i)
		}
		synctest.Wait()
		if n := done.Load(); n != 0 {
			t.Errorf("%d writes are acknowledged before the first sync has ended", n)
		}
		close(g.shut)
		synctest.Wait()
		if n := done.Load(); n != 11 {
			t.Errorf("%d writes are acknowledged, expected 11", n)
		}
		if n := g.inside.Load(); n != 2 {
			t.Errorf("11 durable writes took %d syncs, expected 2: that of the first, and one for those that waited", n)
		}
	})
}

type ackCount struct{ atomic.Int32 }

func (a *ackCount) OpDone(*backend.Op) { a.Add(1) }

// TestFlushWritesNothingIntoAChunkBeingWritten: its blocks say what belongs in the table,
// which waits for the chunk to be cleaned.
func TestFlushWritesNothingIntoAChunkBeingWritten(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	r.write(0, content(1, block))
	if err := r.flush(); err != nil { // its seal is written now
		t.Fatal(err)
	}
	r.write(block, content(2, block))
	var writes int
	r.fs.OnCall(func(c crashfs.Call) error {
		if c.Op == crashfs.OpWrite {
			writes++
		}
		return nil
	})
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	if writes != 0 {
		t.Errorf("the flush wrote %d times", writes)
	}
	r.store.CleanAll()
	if writes != 2 {
		t.Errorf("cleaning wrote %d times, expected the table page and the header", writes)
	}
}

// TestWhatHasSpaceIsKnownAfterAPowerCut: zeros with space and holes look alike on the
// disk, so the table has to say which is which as soon as they are flushed.
func TestWhatHasSpaceIsKnownAfterAPowerCut(t *testing.T) {
	zeros := make([]byte, block)
	for _, tc := range []struct {
		name   string
		change func(r *rig) error
		hole   bool
	}{
		{"zeros with space", func(r *rig) error { return r.do(backend.OpZero, 0, zeros, backend.FlagNoHole) }, false},
		{"zeros written", func(r *rig) error { return r.do(backend.OpWrite, 0, zeros, 0) }, false},
		{"data, then zeros with space", func(r *rig) error {
			r.write(0, content(1, block))
			if err := r.flush(); err != nil {
				return err
			}
			return r.do(backend.OpZero, 0, zeros, backend.FlagNoHole)
		}, false},
		{"zeros with space, then freed", func(r *rig) error {
			if err := r.do(backend.OpZero, 0, zeros, backend.FlagNoHole|backend.FlagFUA); err != nil {
				return err
			}
			return r.do(backend.OpTrim, 0, zeros, 0)
		}, true},
		{"data, then freed", func(r *rig) error {
			if err := r.do(backend.OpWrite, 0, content(1, block), backend.FlagFUA); err != nil {
				return err
			}
			return r.do(backend.OpTrim, 0, zeros, 0)
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(8) {
				r := newRig(t, crashfs.Options{})
				r.write(4*block, content(9, block)) // so that the chunk has a file
				if err := tc.change(r); err != nil {
					t.Fatal(err)
				}
				if err := r.flush(); err != nil {
					t.Fatal(err)
				}
				after, err := chunkstore.Open(r.fs.Crash(seed), storeDir, smallOptions())
				if err != nil {
					t.Fatal(err)
				}
				defer after.Close()
				op := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: testChunk, Len: block, Data: make([]byte, block)}
				if err := backendtest.Do(after, op); err != nil || !bytes.Equal(op.Data, zeros) {
					t.Fatalf("seed %d: read after the power cut: error %v", seed, err)
				}
				if op.Hole != tc.hole {
					t.Errorf("seed %d: the block is a hole: %v, expected %v", seed, op.Hole, tc.hole)
				}
			}
		})
	}
}
