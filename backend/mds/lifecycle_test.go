package mds_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

func TestStoreOfAnotherLayoutOrClusterIsRefused(t *testing.T) {
	store := mds.NewMemStore()
	defer store.Close()
	if _, err := mds.New(store, mds.Options{StoreID: "one"}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"one", ""} {
		if _, err := mds.New(store, mds.Options{StoreID: id}); err != nil {
			t.Errorf("open again as %q: %v", id, err)
		}
	}
	if _, err := mds.New(store, mds.Options{StoreID: "two"}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("open as another store: %v, want ErrInvalid", err)
	}
	update(t, store, "mformat", "\x03")
	if _, err := mds.New(store, mds.Options{StoreID: "one"}); !errors.Is(err, backend.ErrNotSupported) {
		t.Errorf("open a newer layout: %v, want ErrNotSupported", err)
	}
}

// stopping is a Store whose Updates fail once a number of them have passed, as
// after a crash.
type stopping struct {
	mds.Store
	left int
}

var errStopped = errors.New("stopped")

func (s *stopping) Update(ctx context.Context, fn func(mds.Txn) error) error {
	if s.left == 0 {
		return errStopped
	}
	s.left--
	return s.Store.Update(ctx, fn)
}

func TestPurgeCutShortAnywhereCanBeFinished(t *testing.T) {
	const segments = 200 // several transactions' worth
	geometry := backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 64 << 10}
	finished := false
	for passed := 0; !finished; passed++ {
		store := &stopping{Store: mds.NewMemStore(), left: -1}
		m := newMDS(t, store, mds.Options{})
		v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: segments * geometry.SegmentSize, Geometry: geometry})
		if err != nil {
			t.Fatal(err)
		}
		lease, err := m.OpenVolume(t.Context(), "v", "gw", backend.OpenExclusive)
		if err != nil {
			t.Fatal(err)
		}
		for i := range backend.SegmentIndex(segments) {
			if _, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, i); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.CloseVolume(t.Context(), v.ID, lease.Epoch); err != nil {
			t.Fatal(err)
		}
		if _, err := m.RemoveVolume(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}

		store.left = passed
		got, err := m.PurgeVolume(t.Context(), v.ID)
		if err == nil {
			if len(got) != segments {
				t.Fatalf("%d segments to delete, want %d", len(got), segments)
			}
			err = m.PurgeDone(t.Context(), v.ID)
		}
		if finished = err == nil; !finished && !errors.Is(err, errStopped) {
			t.Fatalf("stopped after %d updates: %v", passed, err)
		}
		store.left = -1

		if !finished {
			if bin, err := m.Recycled(t.Context()); err != nil || len(bin) != 1 {
				t.Fatalf("stopped after %d updates: %d in the bin, %v, want 1", passed, len(bin), err)
			}
			due, _, err := m.Expired(t.Context(), time.Time{})
			if err != nil || (len(due) == 1) != (passed > 0) {
				t.Fatalf("stopped after %d updates: due %v, %v", passed, due, err)
			}
			if _, err := m.PurgeVolume(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
			if err := m.PurgeDone(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
		}
		left := 0
		err = m.EachSegment(t.Context(), func(backend.VolumeID, backend.Segment) error { left++; return nil })
		if bin, binErr := m.Recycled(t.Context()); err != nil || binErr != nil || left != 0 || len(bin) != 0 {
			t.Fatalf("stopped after %d updates and finished: %d segments, %d in the bin, %v, %v", passed, left, len(bin), err, binErr)
		}
		if passed > 100 {
			t.Fatal("the purge never finishes")
		}
	}
}

func TestReleaseAllFreesEveryVolumeAndKeepsEpochs(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	var leases []backend.Lease
	for i, mode := range []backend.OpenMode{backend.OpenExclusive, backend.OpenShared, backend.OpenExclusive} {
		name := fmt.Sprintf("d/v%d", i)
		if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 1 << 30}); err != nil {
			t.Fatal(err)
		}
		lease, err := m.OpenVolume(t.Context(), name, "dead", mode)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease)
	}
	if err := m.CloseVolume(t.Context(), leases[2].Volume.ID, leases[2].Epoch); err != nil {
		t.Fatal(err)
	}
	if n, err := m.ReleaseAll(t.Context()); err != nil || n != 2 {
		t.Errorf("released %d, %v, want the 2 that were open", n, err)
	}
	for _, old := range leases {
		fresh, err := m.OpenVolume(t.Context(), old.Volume.Name, "alive", backend.OpenExclusive)
		if err != nil || fresh.Epoch <= old.Epoch {
			t.Errorf("%s: epoch %d after %d, %v", old.Volume.Name, fresh.Epoch, old.Epoch, err)
		}
	}
}

func TestSharersAreBounded(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		if _, err := m.OpenVolume(t.Context(), "v", fmt.Sprintf("gw%d", i), backend.OpenShared); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.OpenVolume(t.Context(), "v", "one more", backend.OpenShared); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("the 65th sharer: %v, want ErrBusy", err)
	}
}

func TestExpiredVolumeIsPurgedOnlyIfStillExpired(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMDS(t, mds.NewMemStore(), mds.Options{Now: func() time.Time { return now }})
	var ids []backend.VolumeID
	for _, name := range []string{"old", "young"} {
		v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v.ID)
		if _, err := m.RemoveVolume(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	cutoff := time.Unix(1000, 0)
	due, oldest, err := m.Expired(t.Context(), cutoff)
	if err != nil || len(due) != 1 || due[0] != ids[0] || !oldest.Equal(time.Unix(1060, 0)) {
		t.Fatalf("due %v, next of %v, %v", due, oldest, err)
	}
	if _, err := mds.PurgeExpired(t.Context(), m, ids[1], cutoff); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("purge of the young: %v, want ErrBusy", err)
	}
	if _, err := m.RecoverVolume(t.Context(), ids[0], ""); err != nil {
		t.Fatal(err)
	}
	if _, err := mds.PurgeExpired(t.Context(), m, ids[0], cutoff); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("purge of the recovered: %v, want ErrInvalid", err)
	}
	if _, err := m.RemoveVolume(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := mds.PurgeExpired(t.Context(), m, ids[0], cutoff); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("purge of the removed again: %v, want ErrBusy", err)
	}
	if _, err := mds.PurgeExpired(t.Context(), m, ids[0], now); err != nil {
		t.Errorf("purge when it is due: %v", err)
	}
}

// failingAllocator fails for one volume.
type failingAllocator struct{ volume backend.VolumeID }

func (a failingAllocator) Place(tx mds.Txn, v backend.VolumeID, copysets []backend.CopysetID) error {
	if v == a.volume {
		return fmt.Errorf("%w: no healthy copyset", backend.ErrNoSpace)
	}
	return mds.SingleCopyset(7).Place(tx, v, copysets)
}

func TestAllocatorChoosesCopysetsAndMayRefuse(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{Allocator: failingAllocator{volume: 2}})
	for i, want := range []error{nil, backend.ErrNoSpace} {
		name := fmt.Sprintf("v%d", i)
		v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		lease, err := m.OpenVolume(t.Context(), name, "gw", backend.OpenExclusive)
		if err != nil {
			t.Fatal(err)
		}
		seg, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, 0)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", v.ID, err, want)
		}
		for _, c := range seg.Chunks {
			if c.Copyset != 7 {
				t.Errorf("chunk %+v, want copyset 7", c)
			}
		}
		if last, err := m.LastChunkID(t.Context()); err != nil || last != 64 {
			t.Errorf("last chunk id is %d, %v, want 64: a refused allocation takes none", last, err)
		}
	}
}

func BenchmarkAllocateSegment(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			store, err := mds.OpenBolt(filepath.Join(b.TempDir(), "meta.db"))
			if err != nil {
				b.Fatal(err)
			}
			m, err := mds.New(store, mds.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			if _, err := m.CreateVolume(b.Context(), backend.VolumeSpec{Name: "v", Size: 1 << 50}); err != nil {
				b.Fatal(err)
			}
			lease, err := m.OpenVolume(b.Context(), "v", "gw", backend.OpenExclusive)
			if err != nil {
				b.Fatal(err)
			}
			work := make(chan backend.SegmentIndex)
			errs := make(chan error, callers)
			b.ResetTimer()
			for range callers {
				go func() {
					var failed error
					for i := range work {
						if _, err := m.AllocateSegment(context.Background(), lease.Volume.ID, lease.Epoch, i); err != nil {
							failed = err
						}
					}
					errs <- failed
				}()
			}
			for i := range b.N {
				work <- backend.SegmentIndex(i)
			}
			close(work)
			for range callers {
				if err := <-errs; err != nil {
					b.Error(err)
				}
			}
		})
	}
}
