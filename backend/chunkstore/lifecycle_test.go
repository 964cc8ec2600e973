package chunkstore_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestIdleChunkIsCleanedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := crashfs.New(crashfs.Options{})
		s, err := chunkstore.Open(fs, storeDir, chunkstore.Options{Logger: quiet, CleanAfter: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		write := func() {
			op := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: testChunk, Len: block, Data: content(1, block)}
			if err := backendtest.Do(s, op); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 { // busy: never idle for as long as 20 s
			write()
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		if n := s.Stats().Cleans; n != 0 {
			t.Errorf("a busy chunk was cleaned %d times", n)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := s.Stats().Cleans; n != 1 {
			t.Errorf("an idle chunk was cleaned %d times, expected once", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := s.Stats().Cleans; n != 1 {
			t.Errorf("a clean chunk was cleaned again: %d times", n)
		}
		// Clean on the disk too: after a power cut there is nothing to reconcile.
		after, err := chunkstore.Open(fs.Crash(1), storeDir, chunkstore.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer after.Close()
		read := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: testChunk, Len: block, Data: make([]byte, block)}
		if err := backendtest.Do(after, read); err != nil || !bytes.Equal(read.Data, content(1, block)) {
			t.Errorf("read after a power cut: error %v", err)
		}
		if n := after.Stats().ReconciledChunks; n != 0 {
			t.Errorf("%d chunks reconciled", n)
		}
		write() // the mark is set again
		if n := s.Stats().DirtyMarks; n != 1 {
			t.Errorf("%d dirty marks, expected one", n)
		}
	})
}

// gate makes calls of one kind wait.
type gate struct {
	kind   crashfs.OpKind
	shut   chan struct{}
	inside atomic.Int32
}

func newGate(kind crashfs.OpKind) *gate { return &gate{kind: kind, shut: make(chan struct{})} }

func (g *gate) hook(c crashfs.Call) error {
	if c.Op == g.kind {
		g.inside.Add(1)
		<-g.shut
	}
	return nil
}

func TestFlushesThatArriveMeanwhileShareARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, crashfs.Options{})
		r.write(0, content(1, block))
		g := newGate(crashfs.OpSyncData)
		r.fs.OnCall(g.hook)
		var done batchDone
		flush := func() {
			done.wg.Add(1)
			r.store.Submit(&backend.Op{Kind: backend.OpFlush, Volume: 1, Done: &done})
		}
		flush()
		synctest.Wait() // its sync is under way
		if g.inside.Load() != 1 {
			t.Fatal("no sync is under way")
		}
		// Neither the chunk's lock nor the intake waits for the sync.
		op := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: testChunk, Len: block, Data: content(2, block)}
		if !r.store.Try(op) || op.Err != nil {
			t.Errorf("Try of a write during a flush declined, or failed: %v", op.Err)
		}
		for range 10 {
			flush()
		}
		close(g.shut)
		done.wg.Wait()
		if n := r.store.Stats(); n.FlushOps != 11 || n.FlushRuns != 2 {
			t.Errorf("%d flushes took %d runs, expected 11 in 2", n.FlushOps, n.FlushRuns)
		}
	})
}

func TestFlushSyncsOnlyItsVolumeAndOnlyOnce(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	for vol := range backend.VolumeID(2) {
		for i := range backend.ChunkID(3) {
			op := &backend.Op{Kind: backend.OpWrite, Volume: vol + 1, Chunk: backend.ChunkRef{ID: backend.ChunkID(vol)*10 + i, Size: modelChunkSize}, Len: block, Data: content(1, block)}
			if err := backendtest.Do(r.store, op); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := r.store.Stats().FileSyncs
	for range 3 {
		if err := r.flush(); err != nil {
			t.Fatal(err)
		}
	}
	// Two of the six chunks were evicted, so some need no sync any more.
	if n := r.store.Stats().FileSyncs - before; n > 3 {
		t.Errorf("%d syncs, though the volume has 3 chunks", n)
	}
}

func TestSubmitWaitsWhileTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := crashfs.New(crashfs.Options{})
		s, err := chunkstore.Open(fs, storeDir, chunkstore.Options{Logger: quiet, WriteWorkers: 1, QueueDepth: 2})
		if err != nil {
			t.Fatal(err)
		}
		g := newGate(crashfs.OpWrite)
		fs.OnCall(g.hook)
		var done batchDone
		var submitted atomic.Int32
		done.wg.Add(6)
		var sender sync.WaitGroup
		sender.Go(func() {
			for i := range 6 {
				s.Submit(&backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: testChunk, Len: block, Data: content(uint64(i+1), block), Done: &done})
				submitted.Add(1)
			}
		})
		synctest.Wait()
		if n := submitted.Load(); n != 3 {
			t.Errorf("%d operations were taken, expected one at work and two waiting", n)
		}
		close(g.shut)
		sender.Wait()
		done.wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenChunksAreBounded(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	for round := range uint64(3) {
		for id := range backend.ChunkID(20) {
			op := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: backend.ChunkRef{ID: id, Size: modelChunkSize}, Len: block, Data: content(round*100+uint64(id)+1, block)}
			if err := backendtest.Do(r.store, op); err != nil {
				t.Fatal(err)
			}
			if n := r.store.Stats().OpenChunks; n > int64(smallOptions().MaxOpenChunks) {
				t.Fatalf("%d chunks open, the limit is %d", n, smallOptions().MaxOpenChunks)
			}
		}
		for id := range backend.ChunkID(20) {
			op := &backend.Op{Kind: backend.OpRead, Volume: 1, Chunk: backend.ChunkRef{ID: id, Size: modelChunkSize}, Len: block, Data: make([]byte, block)}
			if err := backendtest.Do(r.store, op); err != nil || !bytes.Equal(op.Data, content(round*100+uint64(id)+1, block)) {
				t.Fatalf("chunk %d, round %d: wrong content, error %v", id, round, err)
			}
		}
	}
	ids, err := r.store.ChunkIDs(t.Context())
	if err != nil || len(ids) != 20 {
		t.Errorf("ChunkIDs: %v, %v; expected 20", ids, err)
	}
}

// TestCleaningAndEvictionHideFromUsers runs both without pause under goroutines
// that check every read.
func TestCleaningAndEvictionHideFromUsers(t *testing.T) {
	r := newRig(t, crashfs.Options{MissEvery: 7})
	stop := make(chan struct{})
	var background, users sync.WaitGroup
	for _, disturb := range []func(){r.store.CleanAll, r.store.EvictAll, func() { _ = r.store.Stats() }} {
		background.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					disturb()
				}
			}
		})
	}
	for g := range 4 {
		users.Go(func() {
			ref := backend.ChunkRef{ID: backend.ChunkID(g / 2), Size: modelChunkSize} // two share a chunk
			off := int64(g%2) * modelChunkSize / 2
			for i := range uint64(300) {
				data := content(i+1, 3*block)
				kinds := []backend.OpKind{backend.OpWrite, backend.OpFlush, backend.OpRead}
				if i%5 == 0 {
					kinds = []backend.OpKind{backend.OpWrite, backend.OpTrim, backend.OpRead}
				}
				for _, kind := range kinds {
					op := &backend.Op{Kind: kind, Volume: 1, Chunk: ref, Off: off, Len: int64(len(data)), Data: data}
					if kind == backend.OpRead {
						op.Data = make([]byte, len(data))
					}
					if kind == backend.OpTrim {
						op.Data = nil
					}
					if err := backendtest.Do(r.store, op); err != nil {
						t.Errorf("%v: %v", kind, err)
						return
					}
					if want := data; kind == backend.OpRead {
						if i%5 == 0 {
							want = make([]byte, len(data))
						}
						if !bytes.Equal(op.Data, want) {
							t.Errorf("user %d, round %d: wrong content", g, i)
							return
						}
					}
				}
			}
		})
	}
	users.Wait()
	close(stop)
	background.Wait()
}

func TestSecondCloseDoesNothing(t *testing.T) {
	r := newRig(t, crashfs.Options{})
	r.write(0, content(1, block))
	for range 2 {
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	}
}
