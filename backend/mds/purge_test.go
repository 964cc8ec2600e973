package mds_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// chunkBin deletes chunks, and fails as it is told.
type chunkBin struct {
	mu      sync.Mutex
	deleted map[backend.ChunkID]int // guarded by mu
	calls   int                     // guarded by mu
	failAt  int                     // guarded by mu: the call that fails, 0 for none
}

var errChunksAway = errors.New("chunkservers are away")

func (b *chunkBin) delete(_ context.Context, _ backend.VolumeID, chunks []backend.ChunkRef) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.calls == b.failAt {
		return errChunksAway
	}
	for _, c := range chunks {
		b.deleted[c.ID]++
	}
	return nil
}

func (b *chunkBin) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.deleted)
}

func TestPurgeGoesOnAfterAFailureAndARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := mds.NewMemStore()
		m := newMDS(t, store, mds.Options{})
		lease := openMany(t, m, "v", 50)
		var all []backend.ChunkID
		for i := range backend.SegmentIndex(50) {
			for _, c := range allocate(t, m, lease, i) {
				all = append(all, c.ID)
			}
		}
		if err := m.CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch); err != nil {
			t.Fatal(err)
		}
		bin := &chunkBin{deleted: map[backend.ChunkID]int{}, failAt: 10}
		run := func(m *mds.MDS) (p *mds.Purger, stop func()) {
			p = mds.NewPurger(m, mds.PurgeOptions{Keep: time.Hour, Delete: bin.delete, Log: quiet})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); p.Run(ctx) }()
			return p, func() { cancel(); <-done }
		}
		purger, stop := run(m)
		synctest.Wait()
		if _, err := m.RemoveVolume(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		purger.Wake()
		time.Sleep(time.Hour - 1)
		synctest.Wait()
		if n := bin.count(); n != 0 {
			t.Fatalf("%d chunks deleted while the volume can be recovered", n)
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if n := bin.count(); n == 0 || n >= len(all) {
			t.Fatalf("%d of %d chunks deleted when deletion failed", n, len(all))
		}
		stop()
		if infos, err := m.Recycled(t.Context()); err != nil || len(infos) != 1 {
			t.Fatalf("bin after a purge cut short: %+v, %v", infos, err)
		}

		again := newMDS(t, store, mds.Options{})
		_, stop = run(again)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		stop()
		for _, id := range all {
			if bin.deleted[id] == 0 {
				t.Errorf("%s was never deleted", id)
			}
		}
		if infos, err := again.Recycled(t.Context()); err != nil || len(infos) != 0 {
			t.Errorf("bin after the purge: %+v, %v", infos, err)
		}
		if len(bin.deleted) != len(all) || !slices.IsSorted(all) {
			t.Errorf("%d chunks deleted of %d", len(bin.deleted), len(all))
		}
	})
}
