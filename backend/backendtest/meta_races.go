package backendtest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// inParallel calls fn for 0 to n-1 on some goroutines and fails on any error.
func inParallel(t *testing.T, goroutines, n int, fn func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, goroutines)
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					errs <- fmt.Errorf("call %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

var metaRaceCases = []metaCase{
	{"OneOfManyCreatorsOfANameWins", func(t *testing.T, m backend.Meta) {
		var won atomic.Int64
		inParallel(t, 8, 32, func(int) error {
			_, err := m.CreateVolume(t.Context(), metaSpec("dir/v", 1))
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, backend.ErrExists) {
				return err
			}
			return nil
		})
		if won.Load() != 1 {
			t.Errorf("%d creators were told they made it", won.Load())
		}
	}},
	{"ParallelCreatesGetDifferentIDs", func(t *testing.T, m backend.Meta) {
		var mu sync.Mutex
		seen := map[backend.VolumeID]string{}
		inParallel(t, 8, 64, func(i int) error {
			name := fmt.Sprintf("d%d/v%d", i%4, i)
			v, err := m.CreateVolume(t.Context(), metaSpec(name, 1))
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := seen[v.ID]; ok {
				return fmt.Errorf("%s and %s are both %s", other, name, v.ID)
			}
			seen[v.ID] = name
			return nil
		})
		if infos, err := m.Volumes(t.Context(), ""); err != nil || len(infos) != 64 {
			t.Errorf("%d volumes, %v, want 64", len(infos), err)
		}
	}},
	{"OneOfManyOpenersWins", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		var won atomic.Int64
		inParallel(t, 8, 32, func(i int) error {
			_, err := m.OpenVolume(t.Context(), "v", fmt.Sprintf("gw%d", i), backend.OpenExclusive)
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, backend.ErrBusy) {
				return err
			}
			return nil
		})
		if won.Load() != 1 {
			t.Errorf("%d openers hold the volume exclusively", won.Load())
		}
	}},
	{"ParallelAllocationsAgreeAndNeverShareAChunk", func(t *testing.T, m backend.Meta) {
		const volumes, segments = 2, 16
		leases := make([]backend.Lease, volumes)
		for i := range leases {
			name := fmt.Sprintf("v%d", i)
			mustCreate(t, m, name, segments)
			leases[i] = mustOpen(t, m, name, "gw", backend.OpenExclusive)
		}
		type place struct {
			volume backend.VolumeID
			index  backend.SegmentIndex
			chunk  int
		}
		var mu sync.Mutex
		seen := map[backend.ChunkID]place{}
		inParallel(t, 8, volumes*segments*4, func(i int) error {
			lease, index := leases[i%volumes], backend.SegmentIndex(i/volumes%segments)
			seg, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, index)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for n, c := range seg.Chunks {
				here := place{lease.Volume.ID, index, n}
				if there, ok := seen[c.ID]; ok && there != here {
					return fmt.Errorf("%s is at %+v and at %+v", c.ID, there, here)
				}
				seen[c.ID] = here
			}
			return nil
		})
		if want := volumes * segments * metaGeometry().ChunksPerSegment(); len(seen) != want {
			t.Errorf("%d chunks handed out, want %d: an allocation was made twice", len(seen), want)
		}
	}},
	{"ReadersSeeWholeChanges", func(t *testing.T, m backend.Meta) {
		// Each writer moves one volume between two names, by way of the bin.
		// Readers must see it under one, or none, and never a broken tree.
		inParallel(t, 6, 60, func(i int) error {
			if i%2 == 1 {
				_, err := m.Volumes(t.Context(), "")
				return err
			}
			name := fmt.Sprintf("d%d/e/v", i%3)
			v, err := m.CreateVolume(t.Context(), metaSpec(name, 1))
			if errors.Is(err, backend.ErrExists) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := m.RemoveVolume(t.Context(), name); err != nil {
				return err
			}
			_, err = m.RecoverVolume(t.Context(), v.ID, fmt.Sprintf("recovered/%d", i))
			return err
		})
	}},
	{"CloseWhileBusyIsClean", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 64)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		inParallel(t, 8, 64, func(i int) error {
			if i == 20 {
				return m.Close()
			}
			_, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, backend.SegmentIndex(i))
			if errors.Is(err, backend.ErrClosed) {
				return nil
			}
			return err
		})
	}},
}
