package scsi

import (
	"context"
	"errors"
	"sync"
)

// ErrReservationsChanged: somebody else swapped first; load again.
var ErrReservationsChanged = errors.New("reservations were changed meanwhile")

// ReservationStore keeps the persistent reservations of one unit, for every
// gateway that serves it. Methods may be called concurrently.
type ReservationStore interface {
	// Load returns the state and its version; nothing and 0 if there is none.
	Load(ctx context.Context) (state []byte, version uint64, err error)
	// Swap replaces the state if it still has that version.
	// ErrReservationsChanged.
	Swap(ctx context.Context, version uint64, state []byte) error
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
func (s *MemoryStore) Swap(_ context.Context, version uint64, state []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version != s.version {
		return ErrReservationsChanged
	}
	s.state, s.version = state, version+1
	return nil
}

// Durable implements ReservationStore.
func (s *MemoryStore) Durable() bool { return false }

func load(ctx context.Context, s ReservationStore) (Reservations, error) {
	b, _, err := s.Load(ctx)
	if err != nil {
		return Reservations{}, err
	}
	return DecodeReservations(b)
}

// maxSwaps bounds how often an order is tried against others' orders.
const maxSwaps = 100

// carryOut changes the stored state. With u.prOrder held.
func (u *Unit) carryOut(apply func(Reservations) (Reservations, *refusal)) (next Reservations, no *refusal, err error) {
	for range maxSwaps {
		b, version, err := u.reservations.Load(u.ctx)
		if err != nil {
			return next, nil, err
		}
		now, err := DecodeReservations(b)
		if err != nil {
			return next, nil, err
		}
		if next, no = apply(now); no != nil {
			return now, no, nil
		}
		err = u.reservations.Swap(u.ctx, version, next.Encode())
		if err == nil || !errors.Is(err, ErrReservationsChanged) {
			return next, nil, err
		}
	}
	return next, nil, ErrReservationsChanged
}

// Refresh takes over what another gateway has made of the reservations, and tells
// the initiators that it concerns. Whoever watches the store calls it. When it returns, no command
// that a PREEMPT AND ABORT has ended is in execution here.
func (u *Unit) Refresh(ctx context.Context) error {
	aborts, err := u.reload(ctx)
	if err == nil {
		aborts.Wait()
	}
	return err
}

func (u *Unit) reload(ctx context.Context) (*sync.WaitGroup, error) {
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	next, err := load(ctx, u.reservations)
	if err != nil {
		return nil, err
	}
	return u.adopt(next, nil), nil
}

// adopt makes next the state that is enforced, and tells everybody whom it
// concerns, except by. What it returns is done when the commands that the change
// aborts are over.
func (u *Unit) adopt(next Reservations, by *Nexus) *sync.WaitGroup {
	initiator, port := "", uint16(0)
	if by != nil {
		initiator, port = by.initiator, by.port.ID
	}
	var aborts sync.WaitGroup
	type ended struct {
		nexus *Nexus
		tell  Code
	}
	var aborted []ended
	u.mu.Lock()
	for _, notice := range u.persist.notices(&next, initiator, port) {
		for _, n := range u.nexuses {
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
		aborts.Add(1)
		e.nexus.abortAll(aborts.Done, CommandsCleared, e.tell)
	}
	return &aborts
}
