package scsi

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// ends runs an order that must end with that status.
func (r *rig) ends(n *Nexus, status Status, action byte, kind ReservationType, key, actionKey uint64) {
	r.t.Helper()
	cdb, list := prOut(action, kind, key, actionKey, 0)
	if a := r.do(n, cdb, list, 0); a.Status != status {
		r.t.Fatalf("%s: status %#x, sense % x, want %#x", a.Name(), a.Status, a.Sense(), status)
	}
}

// An order given at the gateway in standby is enforced at the active one before it
// is complete.
func TestAnOrderInStandbyIsEnforcedBeforeItIsComplete(t *testing.T) {
	store := NewMemoryStore()
	active := newRig(t, rigOptions{unit: Options{Reservations: store}})
	asked := 0
	r, _ := standbyRig(t, Options{Reservations: store, Enforced: func(ctx context.Context, version uint64) bool {
		if asked++; asked%2 == 1 {
			return false // it is asked again
		}
		enforced, err := active.unit.Refresh(ctx)
		return err == nil && enforced >= version
	}})
	active.pr(active.a, saRegister, 0, 0, keyA)
	active.pr(active.a, saReserve, WriteExclusive, keyA, 0)
	r.pr(r.b, saRegister, 0, 0, keyB)
	r.pr(r.b, saPreemptAndAbort, WriteExclusive, keyB, keyA)
	active.a.attentions.take()
	active.a.attentions.take()
	active.conflicts(active.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
}

// The answer of a gateway says that what a preemption has aborted there is over, also
// when it has learned of the preemption by the way.
func TestRefreshWaitsForWhatAnyPreemptionAborts(t *testing.T) {
	store := NewMemoryStore()
	held := make(chan *volume.Request, 1)
	_, wrap := heldMedium(held)
	active := newRig(t, rigOptions{wrap: wrap, unit: Options{Reservations: store}})
	other := newRig(t, rigOptions{unit: Options{Reservations: store}})
	active.pr(active.a, saRegister, 0, 0, keyA)
	c, done := active.start(active.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
	q := <-held
	other.pr(other.b, saRegister, 0, 0, keyB)
	other.pr(other.b, saPreemptAndAbort, WriteExclusive, keyB, keyA)
	active.keys() // which brings it up to date
	if !c.aborted() {
		t.Fatal("READ KEYS has not taken the preemption over")
	}
	if version, err := active.unit.Refresh(t.Context()); err == nil {
		t.Errorf("version %d is said to be enforced while a write that it aborts is in execution", version)
	}
	q.Done.RequestDone(q)
	<-done
	if version, err := active.unit.Refresh(t.Context()); err != nil || version != 3 {
		t.Errorf("version %d, %v, want 3", version, err)
	}
}

// An order that was not enforced in time ends with BUSY, and given once more it
// succeeds, though by itself it would be refused the second time.
func TestAnOrderThatWasBusyIsGivenAgain(t *testing.T) {
	for name, c := range map[string]struct {
		action         byte
		kind           ReservationType
		key, actionKey uint64
		generation     uint32
		keys           int
	}{
		"register":          {saRegister, 0, keyA, keyC, 3, 2},
		"register anyhow":   {saRegisterAndIgnore, 0, 0, keyC, 3, 2},
		"unregister":        {saRegister, 0, keyA, 0, 3, 1},
		"reserve":           {saReserve, WriteExclusive, keyA, 0, 2, 2},
		"release":           {saRelease, WriteExclusive, keyA, 0, 2, 2},
		"clear":             {saClear, 0, keyA, 0, 3, 0},
		"preempt":           {saPreempt, WriteExclusive, keyA, keyB, 3, 1},
		"preempt and abort": {saPreemptAndAbort, WriteExclusive, keyA, keyB, 3, 1},
		"preempt one's own": {saPreempt, WriteExclusive, keyA, keyA, 3, 1},
		"preempt everybody": {saPreempt, WriteExclusive, keyA, 0, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var silent atomic.Bool
				r, _ := standbyRig(t, Options{Enforced: func(context.Context, uint64) bool { return !silent.Load() }})
				r.pr(r.a, saRegister, 0, 0, keyA)
				r.pr(r.b, saRegister, 0, 0, keyB)
				if name == "preempt everybody" {
					r.pr(r.b, saReserve, WriteExclusiveAllRegistrants, keyB, 0)
				}
				silent.Store(true)
				began := time.Now()
				for range 2 {
					r.ends(r.a, Busy, c.action, c.kind, c.key, c.actionKey)
				}
				if took := time.Since(began); took != 2*orderPatience {
					t.Errorf("busy after %v each, want %v", took/2, orderPatience)
				}
				silent.Store(false)
				r.ends(r.a, Good, c.action, c.kind, c.key, c.actionKey)
				generation, keys := r.keys()
				if generation != c.generation || len(keys) != c.keys {
					t.Errorf("generation %d, keys %x, want %d and %d of them", generation, keys, c.generation, c.keys)
				}
			})
		})
	}
}

// What looks like a repeat and is none is decided anew.
func TestAnOrderIsNoRepeat(t *testing.T) {
	begin := func(t *testing.T) *rig {
		var silent atomic.Bool
		r, _ := standbyRig(t, Options{Enforced: func(context.Context, uint64) bool { return !silent.Load() }})
		silent.Store(true)
		r.ends(r.a, Busy, saRegister, 0, 0, keyA)
		silent.Store(false)
		return r
	}
	for name, then := range map[string]func(*rig){
		"after it was enforced": func(r *rig) {
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.prConflicts(r.a, saRegister, 0, 0, keyA)
		},
		"of another key": func(r *rig) { r.prConflicts(r.a, saRegister, 0, 0, keyC) },
		"after another order": func(r *rig) {
			r.pr(r.a, saReserve, WriteExclusive, keyA, 0)
			r.prConflicts(r.a, saRegister, 0, 0, keyA)
		},
		"of another initiator": func(r *rig) { r.prConflicts(r.b, saRegister, 0, keyA, keyA) },
		"after it was undone by another": func(r *rig) {
			r.pr(r.b, saRegister, 0, 0, keyB)
			r.pr(r.b, saPreempt, WriteExclusive, keyB, keyA)
			r.expectTold(r.a, RegistrationsPreempted)
			r.pr(r.a, saRegister, 0, 0, keyA) // it is carried out again
			if generation, keys := r.keys(); generation != 4 || len(keys) != 2 {
				r.t.Errorf("generation %d, keys %x", generation, keys)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { then(begin(t)) })
		})
	}
}

// The initiator that gives up on an order does not wait for those who enforce it.
func TestAnOrderIsAbortedWhileItIsNotEnforced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := standbyRig(t, Options{Enforced: func(context.Context, uint64) bool { return false }})
		cdb, list := prOut(saRegister, 0, 0, keyA, 0)
		c, done := r.start(r.a, cdb, list)
		synctest.Wait()
		began := time.Now()
		over := make(chan struct{})
		r.unit.AbortTaskSet(r.a, func() { close(over) })
		<-over
		<-done
		if took := time.Since(began); !c.Aborted || took > askEvery {
			t.Errorf("aborted %v after %v", c.Aborted, took)
		}
	})
}

func TestAnOrderWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lost{MemoryStore: NewMemoryStore()}
		r := newRig(t, rigOptions{unit: Options{Reservations: store}})
		store.down.Store(true)
		r.ends(r.a, Busy, saRegister, 0, 0, keyA)
		store.down.Store(false)
		// Whether it was stored is not known to the initiator, and nothing to it.
		r.ends(r.a, Good, saRegister, 0, 0, keyA)
		r.prConflicts(r.a, saRegister, 0, 0, keyA)
	})
}

// Who only looks does not keep orders waiting for longer than they may take.
func TestReadKeysOfAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hanging{MemoryStore: NewMemoryStore()}
		r := newRig(t, rigOptions{unit: Options{Reservations: store}})
		r.pr(r.a, saRegister, 0, 0, keyA)
		store.hangs.Store(true)
		began := time.Now()
		if b := r.good(r.a, []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0}, nil, 64); len(b) != 16 {
			t.Errorf("keys % x", b)
		}
		if took := time.Since(began); took > orderPatience {
			t.Errorf("answered after %v", took)
		}
	})
}

// hanging is a store that answers no question while it hangs.
type hanging struct {
	*MemoryStore
	hangs atomic.Bool
}

func (s *hanging) Load(ctx context.Context) ([]byte, uint64, error) {
	if s.hangs.Load() {
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
		return nil, 0, backend.ErrUnreachable
	}
	return s.MemoryStore.Load(ctx)
}

// lost is a store that stores, and answers nothing while it is down.
type lost struct {
	*MemoryStore
	down atomic.Bool
}

func (s *lost) Swap(ctx context.Context, version uint64, state []byte) (uint64, error) {
	version, err := s.MemoryStore.Swap(ctx, version, state)
	if s.down.Load() {
		<-ctx.Done()
		return 0, backend.ErrUnreachable
	}
	return version, err
}

// An initiator is told of what another gateway was ordered before its own order.
func TestAnOrderHidesNoNews(t *testing.T) {
	store := NewMemoryStore()
	one := newRig(t, rigOptions{unit: Options{Reservations: store}})
	two := newRig(t, rigOptions{unit: Options{Reservations: store}})
	one.pr(one.a, saRegister, 0, 0, keyA)
	one.pr(one.b, saRegister, 0, 0, keyB)
	one.pr(one.a, saReserve, WriteExclusiveRegistrantsOnly, keyA, 0)
	if _, err := two.unit.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	one.pr(one.a, saRelease, WriteExclusiveRegistrantsOnly, keyA, 0)
	two.pr(two.b, saRegister, 0, keyB, keyC)
	two.expectTold(two.b, ReservationsReleased)
}
