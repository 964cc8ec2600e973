package mds_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// request returns a context that names request n.
func request(t *testing.T, n uint64) context.Context {
	t.Helper()
	var id mds.RequestID
	binary.BigEndian.PutUint64(id[:], n)
	return mds.WithRequest(t.Context(), id)
}

func TestRepeatedRequestsHappenOnce(t *testing.T) {
	store := mds.NewMemStore()
	m := newMDS(t, store, mds.Options{})
	// again is the same MDS after a crash: nothing but the store is left.
	again := newMDS(t, store, mds.Options{})

	v, err := m.CreateVolume(request(t, 1), backend.VolumeSpec{Name: "v", Size: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if w, err := again.CreateVolume(request(t, 1), backend.VolumeSpec{Name: "v", Size: 1 << 30}); err != nil || w != v {
		t.Errorf("create repeated: %+v, %v, want %+v", w, err, v)
	}
	if _, err := again.CreateVolume(request(t, 2), backend.VolumeSpec{Name: "v", Size: 1 << 30}); !errors.Is(err, backend.ErrExists) {
		t.Errorf("another create: %v, want ErrExists", err)
	}

	lease, err := m.OpenVolume(request(t, 3), "v", "gw", backend.OpenShared)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := again.OpenVolume(request(t, 3), "v", "gw", backend.OpenShared); err != nil || l != lease {
		t.Errorf("open repeated: %+v, %v, want %+v", l, err, lease)
	}
	other, err := m.OpenVolume(request(t, 4), "v", "other", backend.OpenShared)
	if err != nil || other.Epoch != lease.Epoch || other.Session == lease.Session {
		t.Fatalf("another open: %+v, %v", other, err)
	}

	for range 3 { // one close, three times
		if err := again.CloseVolume(request(t, 5), v.ID, lease.Epoch); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if _, err := again.OpenVolume(request(t, 6), "v", "third", backend.OpenExclusive); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("a close repeated closed for the other sharer too: %v, want ErrBusy", err)
	}
	if err := again.CloseVolume(request(t, 7), v.ID, lease.Epoch); err != nil {
		t.Fatal(err)
	}
	if _, err := again.OpenVolume(request(t, 3), "v", "gw", backend.OpenShared); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("open repeated after it was closed: %v, want ErrStaleEpoch", err)
	}

	removed, err := m.RemoveVolume(request(t, 8), "v")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.CreateVolume(request(t, 9), backend.VolumeSpec{Name: "v", Size: 2 << 30}); err != nil {
		t.Fatal(err)
	}
	if r, err := again.RemoveVolume(request(t, 8), "v"); err != nil || r != removed {
		t.Errorf("remove repeated: %+v, %v, want %+v", r, err, removed)
	}
	if w, err := m.Volume(t.Context(), "v"); err != nil || w.ID == v.ID {
		t.Errorf("the new volume of the name: %+v, %v", w, err)
	}
	back, err := m.RecoverVolume(request(t, 10), v.ID, "old")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := again.RecoverVolume(request(t, 10), v.ID, "old"); err != nil || r != back {
		t.Errorf("recover repeated: %+v, %v, want %+v", r, err, back)
	}
	if _, err := again.RemoveVolume(request(t, 10), "old"); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("a request id for another call: %v, want ErrInvalid", err)
	}
}

func TestLateRepetitionOfATakeOverFencesNobody(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	createV(t, m)
	if _, err := m.OpenVolume(request(t, 1), "v", "a", backend.OpenTakeOver); err != nil {
		t.Fatal(err)
	}
	second, err := m.OpenVolume(request(t, 2), "v", "b", backend.OpenTakeOver)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.OpenVolume(request(t, 1), "v", "a", backend.OpenTakeOver); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("late repetition: %v, want ErrStaleEpoch", err)
	}
	if _, err := m.AllocateSegment(t.Context(), second.Volume.ID, second.Epoch, 0); err != nil {
		t.Errorf("the second owner was fenced: %v", err)
	}
}

func TestLateRepetitionOfAPutTellsItsOwnVersion(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	first, err := m.PutRecord(request(t, 1), "k", []byte("one"), 0)
	if err != nil {
		t.Fatal(err)
	}
	second, err := m.PutRecord(request(t, 2), "k", []byte("two"), first)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.PutRecord(request(t, 1), "k", []byte("one"), 0); err != nil || again != first {
		t.Errorf("late repetition: version %d, %v, want %d", again, err, first)
	}
	if r, err := m.Record(t.Context(), "k"); err != nil || string(r.Data) != "two" || r.Version != second {
		t.Errorf("it changed the record: %+v, %v", r, err)
	}
	for range 2 {
		if err := m.DeleteRecord(request(t, 3), "k", second); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
}

func TestFailedRequestsMayBeTriedAgain(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	if _, err := m.OpenVolume(request(t, 1), "v", "gw", backend.OpenExclusive); !errors.Is(err, backend.ErrNotFound) {
		t.Fatal(err)
	}
	createV(t, m)
	if _, err := m.OpenVolume(request(t, 1), "v", "gw", backend.OpenExclusive); err != nil {
		t.Errorf("the same request once it can be served: %v", err)
	}
}

func TestOldRequestsAreForgotten(t *testing.T) {
	store := mds.NewMemStore()
	now := newClock()
	m := newMDS(t, store, mds.Options{Now: now.Now})
	createV(t, m)
	rng := rand.New(rand.NewPCG(1, 2))
	remembered := func() (n int) {
		t.Helper()
		err := store.View(t.Context(), func(tx mds.Txn) error {
			n = 0
			return tx.Scan([]byte("q"), nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const burst = 500
	for i := range 6 * burst {
		if _, err := m.OpenVolume(request(t, rng.Uint64()), "v", fmt.Sprint("gw-", i), backend.OpenTakeOver); err != nil {
			t.Fatal(err)
		}
		if i == burst-1 {
			if n := remembered(); n != burst {
				t.Fatalf("%d requests remembered of %d fresh ones", n, burst)
			}
		}
		if i%burst == burst-1 {
			now.advance(16 * time.Minute)
		}
	}
	if n := remembered(); n > 2*burst {
		t.Errorf("%d requests remembered, although only the last %d are not old", n, burst)
	}
}
