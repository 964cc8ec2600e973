package scsi

import (
	"context"
	"reflect"
	"slices"
	"time"
)

// A PERSISTENT RESERVE OUT is stored, taken over here, and complete when whoever may
// write enforces it (Options.Enforced). Where that takes too long it ends with BUSY:
// it stands, and will be enforced. Initiators give a command that was BUSY once more,
// and then must not find that it was carried out without them; see Reservations.shows.

const (
	// orderPatience is how long an order may take. mpathpersist gives it 2 s, others
	// 30 s and more.
	orderPatience = 1500 * time.Millisecond
	// askEvery is how often it is asked whether the order is enforced.
	askEvery = 20 * time.Millisecond
)

func executePersistOut(u *Unit, c *Command) verdict {
	o, s := u.orderOf(c)
	if s != nil {
		return c.fail(s)
	}
	ctx, cancel := context.WithTimeout(u.ctx, orderPatience)
	defer cancel()
	r, err := u.settle(ctx, o, c.Nexus)
	switch {
	case err != nil && ctx.Err() == nil:
		return c.fail(sense(AbortedCommand, InternalTargetFailure))
	case err != nil:
		c.Status = Busy
	case r.no != nil && r.no.conflict:
		c.Status = ReservationConflict
	case r.no != nil:
		return c.fail(r.no.sense)
	case !u.awaitEnforced(ctx, c, r.version):
		c.Status = Busy
	default:
		u.sure(o, c.Nexus)
	}
	return done
}

// settle carries an order out, and takes over what has become of the state.
func (u *Unit) settle(ctx context.Context, o *order, by *Nexus) (settled, error) {
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	again := by.unsure != nil && reflect.DeepEqual(by.unsure, o)
	by.unsure = o
	s, err := u.carryOut(ctx, func(r Reservations) (Reservations, *refusal) {
		if again && r.shows(o) {
			return r, nil
		}
		return r.apply(o)
	})
	if err != nil {
		return s, err // and nobody knows whether it is stored
	}
	u.adopt(s.was, nil) // which may be news, of another gateway's doing
	if s.no != nil {
		by.unsure = nil
		return s, nil
	}
	u.adopt(s.state, by)
	return s, nil
}

// awaitEnforced waits until the order of c is enforced; false when that takes too long
// or nobody waits for it any more. prOrder is not held, as what is waited for may wait
// for that.
func (u *Unit) awaitEnforced(ctx context.Context, c *Command, version uint64) bool {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for !c.aborted() {
		over := c.op.action != saPreemptAndAbort || u.aborting.Load() == 0
		if over && u.enforced(ctx, version) {
			return true
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// sure notes that an initiator learns how its order has ended.
func (u *Unit) sure(o *order, by *Nexus) {
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	if by.unsure == o {
		by.unsure = nil
	}
}

// shows says whether the state is as an order leaves it that would be refused the
// second time. Those to reserve and to release are not.
func (r *Reservations) shows(o *order) bool {
	at := r.find(o.initiator, o.port)
	switch o.action {
	case saRegister, saRegisterAndIgnore:
		return r.keyAt(at) == o.actionKey
	case saClear:
		return at < 0
	case saPreempt, saPreemptAndAbort:
		if o.actionKey == 0 { // all registrants
			return r.keyAt(at) == o.key && r.Type == o.kind && r.holds(o.initiator, o.port)
		}
		self := o.actionKey == o.key && at < 0 // who names itself may be gone too
		return (self || r.keyAt(at) == o.key) &&
			!slices.ContainsFunc(r.Registrations, func(g Registration) bool { return g.Key == o.actionKey })
	case saRegisterAndMove:
		return r.keyAt(r.find(o.toInitiator, o.toPort)) == o.actionKey
	}
	return false
}

// keyAt is the key of a registration that find has found, 0 for none.
func (r *Reservations) keyAt(i int) uint64 {
	if i < 0 {
		return 0
	}
	return r.Registrations[i].Key
}
