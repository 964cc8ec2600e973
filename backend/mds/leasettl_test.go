package mds_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

const leaseTTL = 10 * time.Second

func openAs(m *mds.MDS, t *testing.T, owner string, mode backend.OpenMode) (backend.Lease, error) {
	t.Helper()
	return m.OpenVolume(t.Context(), "v", owner, mode)
}

func newLeaseMDS(t *testing.T, store mds.Store, now *clock) *mds.MDS {
	t.Helper()
	return newMDS(t, store, mds.Options{Now: now.Now, LeaseTTL: leaseTTL})
}

func createV(t *testing.T, m *mds.MDS) backend.VolumeInfo {
	t.Helper()
	v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSilentOwnersExcludeNobody(t *testing.T) {
	const ex, sh = backend.OpenExclusive, backend.OpenShared
	for name, c := range map[string]struct {
		held  []backend.OpenMode // by gw-0, gw-1, …
		alive []int              // who keeps alive
		owner string
		asks  backend.OpenMode
		free  bool // opens under a new epoch
		joins bool // opens under the same epoch
	}{
		"exclusive, alive":                     {[]backend.OpenMode{ex}, []int{0}, "b", ex, false, false},
		"exclusive, silent":                    {[]backend.OpenMode{ex}, nil, "b", ex, true, false},
		"exclusive, silent, shared asked":      {[]backend.OpenMode{ex}, nil, "b", sh, true, false},
		"exclusive, alive, shared asked":       {[]backend.OpenMode{ex}, []int{0}, "b", sh, false, false},
		"shared, one of two silent, exclusive": {[]backend.OpenMode{sh, sh}, []int{1}, "b", ex, false, false},
		"shared, one of two silent, shared":    {[]backend.OpenMode{sh, sh}, []int{1}, "b", sh, false, true},
		"shared, all silent, exclusive":        {[]backend.OpenMode{sh, sh}, nil, "b", ex, true, false},
		"shared, all silent, shared":           {[]backend.OpenMode{sh, sh}, nil, "b", sh, true, false},
		"shared with silent ones, exclusive":   {[]backend.OpenMode{sh, sh}, nil, "gw-1", ex, true, false},
		"shared with a live one, exclusive":    {[]backend.OpenMode{sh, sh}, []int{0}, "gw-1", ex, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := newClock()
			m := newLeaseMDS(t, mds.NewMemStore(), now)
			v := createV(t, m)
			var last backend.Lease
			for i, mode := range c.held {
				var err error
				if last, err = openAs(m, t, fmt.Sprint("gw-", i), mode); err != nil {
					t.Fatal(err)
				}
			}
			now.advance(leaseTTL - 1)
			if _, err := openAs(m, t, "early", ex); !errors.Is(err, backend.ErrBusy) {
				t.Errorf("open before the time: %v, want ErrBusy", err)
			}
			for _, i := range c.alive {
				if err := m.KeepAlive(t.Context(), fmt.Sprint("gw-", i)); err != nil {
					t.Fatal(err)
				}
			}
			now.advance(1)
			lease, err := openAs(m, t, c.owner, c.asks)
			switch {
			case c.free:
				if err != nil || lease.Epoch <= last.Epoch {
					t.Fatalf("epoch %d after %d, %v, want a new one", lease.Epoch, last.Epoch, err)
				}
				if _, err := m.AllocateSegment(t.Context(), v.ID, last.Epoch, 0); !errors.Is(err, backend.ErrStaleEpoch) {
					t.Errorf("the silent one comes back and allocates: %v, want ErrStaleEpoch", err)
				}
			case c.joins:
				if err != nil || lease.Epoch != last.Epoch {
					t.Errorf("epoch %d, %v, want to join %d", lease.Epoch, err, last.Epoch)
				}
			default:
				if !errors.Is(err, backend.ErrBusy) {
					t.Errorf("got epoch %d, %v, want ErrBusy", lease.Epoch, err)
				}
			}
		})
	}
}

func TestAllocatingAndOpeningKeepAnOwnerAlive(t *testing.T) {
	now := newClock()
	m := newLeaseMDS(t, mds.NewMemStore(), now)
	v := createV(t, m)
	lease, err := openAs(m, t, "a", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		now.advance(leaseTTL - 1)
		if _, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := openAs(m, t, "b", backend.OpenExclusive); !errors.Is(err, backend.ErrBusy) {
			t.Fatalf("open while the owner allocates: %v, want ErrBusy", err)
		}
	}
	now.advance(leaseTTL)
	if _, err := openAs(m, t, "b", backend.OpenExclusive); err != nil {
		t.Errorf("open after silence: %v", err)
	}
}

func TestRestartOfTheMDSIsNotTheOwnersSilence(t *testing.T) {
	now := newClock()
	store := mds.NewMemStore()
	m := newLeaseMDS(t, store, now)
	createV(t, m)
	if _, err := openAs(m, t, "a", backend.OpenExclusive); err != nil {
		t.Fatal(err)
	}
	now.advance(time.Hour) // the MDS was away
	m = newLeaseMDS(t, store, now)
	now.advance(leaseTTL - 1)
	if _, err := openAs(m, t, "b", backend.OpenExclusive); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("just after the restart: %v, want ErrBusy", err)
	}
	now.advance(1)
	if _, err := openAs(m, t, "b", backend.OpenExclusive); err != nil {
		t.Errorf("owner silent since the restart: %v", err)
	}
}

func TestVolumeOfASilentOwnerCanBeRemoved(t *testing.T) {
	now := newClock()
	m := newLeaseMDS(t, mds.NewMemStore(), now)
	v := createV(t, m)
	lease, err := openAs(m, t, "a", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.RemoveVolume(t.Context(), "v"); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("remove while the owner lives: %v, want ErrBusy", err)
	}
	now.advance(leaseTTL)
	if _, err := m.RemoveVolume(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.RecoverVolume(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, 0); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("the silent one comes back: %v, want ErrStaleEpoch", err)
	}
	if fresh, err := openAs(m, t, "b", backend.OpenExclusive); err != nil || fresh.Epoch <= lease.Epoch {
		t.Errorf("epoch %d after %d, %v", fresh.Epoch, lease.Epoch, err)
	}
}

func TestLeasesOfOneMachineNeverEnd(t *testing.T) {
	now := newClock()
	m := newMDS(t, mds.NewMemStore(), mds.Options{Now: now.Now})
	createV(t, m)
	if _, err := openAs(m, t, "a", backend.OpenExclusive); err != nil {
		t.Fatal(err)
	}
	now.advance(1000 * time.Hour)
	if _, err := openAs(m, t, "b", backend.OpenExclusive); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("open after long: %v, want ErrBusy", err)
	}
}

func TestOwnersHeardAreBounded(t *testing.T) {
	now := newClock()
	m := newLeaseMDS(t, mds.NewMemStore(), now)
	alive := func(i int) error { return m.KeepAlive(t.Context(), fmt.Sprint("gw-", i)) }
	const limit = 64 << 10
	for i := range limit {
		if err := alive(i); err != nil {
			t.Fatalf("owner %d: %v", i, err)
		}
	}
	if err := alive(limit); !errors.Is(err, backend.ErrOverload) {
		t.Errorf("one owner more: %v, want ErrOverload", err)
	}
	if err := alive(7); err != nil {
		t.Errorf("an owner that is known: %v", err)
	}
	now.advance(leaseTTL)
	if err := alive(limit); err != nil {
		t.Errorf("once the others are silent: %v", err)
	}
}
