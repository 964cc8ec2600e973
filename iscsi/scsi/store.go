package scsi

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"
)

// ErrReservationsChanged: somebody else swapped first; load again.
var ErrReservationsChanged = errors.New("reservations were changed meanwhile")

// ReservationStore keeps the persistent reservations of one unit, for every
// gateway that serves it. Methods may be called concurrently.
type ReservationStore interface {
	// Load returns the state and its version; nothing and 0 if there is none.
	Load(ctx context.Context) (state []byte, version uint64, err error)
	// Swap replaces the state if it still has that version, and returns the new one,
	// which is larger. ErrReservationsChanged.
	Swap(ctx context.Context, version uint64, state []byte) (uint64, error)
	// Durable says that the state outlives a loss of power.
	Durable() bool
}

// MemoryStore is a ReservationStore for one process.
type MemoryStore struct {
	mu      sync.Mutex // guards all below
	state   []byte
	version uint64
}

// NewMemoryStore returns an empty store.
func NewMemoryStore() *MemoryStore { return &MemoryStore{} }

// Load implements ReservationStore.
func (s *MemoryStore) Load(context.Context) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.version, nil
}

// Swap implements ReservationStore.
func (s *MemoryStore) Swap(_ context.Context, version uint64, state []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version != s.version {
		return 0, ErrReservationsChanged
	}
	s.state, s.version = state, version+1
	return s.version, nil
}

// Durable implements ReservationStore.
func (s *MemoryStore) Durable() bool { return false }

func load(ctx context.Context, s ReservationStore) (r Reservations, version uint64, err error) {
	b, version, err := s.Load(ctx)
	if err == nil {
		r, err = DecodeReservations(b)
	}
	return r, version, err
}

// maxSwaps bounds how often an order is tried against others' orders.
const maxSwaps = 100

// settled is what has become of an order.
type settled struct {
	// was is the state before it, state the one after it, in that version.
	was, state Reservations
	version    uint64
	no         *refusal // nil if it was carried out
}

// carryOut changes the stored state. With u.prOrder held.
func (u *Unit) carryOut(ctx context.Context, apply func(Reservations) (Reservations, *refusal)) (s settled, err error) {
	for range maxSwaps {
		b, version, err := u.reservations.Load(ctx)
		if err != nil {
			return s, err
		}
		now, err := DecodeReservations(b)
		if err != nil {
			return s, err
		}
		next, no := apply(now)
		s = settled{was: now, state: next, version: version, no: no}
		after := next.Encode()
		if no != nil || bytes.Equal(after, b) {
			return s, nil
		}
		s.version, err = u.reservations.Swap(ctx, version, after)
		if err == nil || !errors.Is(err, ErrReservationsChanged) {
			return s, err
		}
	}
	return s, ErrReservationsChanged
}

// abortPatience bounds how long Refresh waits for commands to end.
const abortPatience = 200 * time.Millisecond

var errAborting = errors.New("commands that a preemption ends are still in execution")

// Refresh takes over what another gateway has made of the reservations, and tells
// the initiators that it concerns. Whoever watches the store calls it. When it returns
// a version, that is enforced, and no command that a PREEMPT AND ABORT up to it has
// ended is in execution here. While there are some it fails, after a while, so that it
// is called again and finds what was ordered since.
func (u *Unit) Refresh(ctx context.Context) (version uint64, err error) {
	version, err = u.reload(ctx)
	enough := time.After(abortPatience)
	for err == nil && u.aborting.Load() > 0 {
		select {
		case <-time.After(askEvery):
		case <-enough:
			err = errAborting
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return version, err
}

// reload takes over what is stored. It is over within the time that orders have, which
// may wait for it.
func (u *Unit) reload(ctx context.Context) (version uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, orderPatience)
	defer cancel()
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	next, version, err := load(ctx, u.reservations)
	if err == nil {
		u.adopt(next, nil)
	}
	return version, err
}

// adopt makes next the state that is enforced, and tells everybody whom it
// concerns, except by. The commands that the change aborts are over when u.aborting
// is 0. With u.prOrder held.
func (u *Unit) adopt(next Reservations, by *Nexus) {
	initiator, port := "", uint16(0)
	if by != nil {
		initiator, port = by.initiator, by.port.ID
	}
	type ended struct {
		nexus *Nexus
		tell  Code
	}
	var aborted []ended
	u.mu.Lock()
	paths := u.inExecution()
	for _, notice := range u.persist.notices(&next, initiator, port) {
		for _, n := range paths {
			if n.initiator != notice.initiator || n.port.ID != notice.port {
				continue
			}
			if notice.aborted {
				aborted = append(aborted, ended{n, notice.code})
				n.prevents = false // it may never be there again
				continue
			}
			n.attentions.add(notice.code)
		}
	}
	u.persist = next
	u.refreshAccess()
	u.recallSanitize()
	u.mu.Unlock()
	for _, e := range aborted {
		u.aborting.Add(1)
		e.nexus.abortAll(func() { u.aborting.Add(-1) }, CommandsCleared, e.tell)
	}
}
