package volume

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// tripState says where an operation is on its way to a leader and back.
type tripState uint8

const (
	// tripNumberless: a change that waits for room in the fence's window.
	tripNumberless tripState = iota
	// tripParked: waits for a leader.
	tripParked
	// tripQueued: on its way to the dispatch worker that will send it.
	tripQueued
	// tripOut: sent.
	tripOut
	// tripBackOff: waits for retryAt.
	tripBackOff
	// tripFailed: came back with an error that nobody has judged yet.
	tripFailed
	// tripGivenUp: will fail with abandon once its number may be acknowledged.
	tripGivenUp
)

// trip is what the router knows of an operation from its submission to its end,
// through as many sendings as it takes. Guarded by copyset.mu, except pin.
type trip struct {
	router  *router
	copyset *copyset
	piece   *piece
	state   tripState
	// entered is when it was submitted; sentAt when it was last sent, under that
	// version of the route.
	entered, sentAt time.Time
	version         uint64
	timedOut        bool // this sending
	takenBack       bool // by us; the error that it comes back with is ours
	forgotten       int  // sendings that were not answered at all
	retryAt         time.Time
	backOffs        int
	lastErr         error
	// abandon is the error to fail with, once that is decided.
	abandon error
	// older and newer link the operations of the copyset, in order of submission.
	older, newer *trip

	// pin holds the trip's end back while somebody is inside Submit or Cancel
	// with its operation: whoever comes last, OpDone or the pinner, lands it.
	pin atomic.Uint32
}

const (
	pinHeld   = 1 << iota // somebody is inside Submit or Cancel
	pinLanded             // OpDone was called
)

var trips = sync.Pool{New: func() any { return new(trip) }}

// changes says whether the operation needs a number of the fence.
func (t *trip) changes() bool { return t.piece.op.Kind.Changes() }

// unpin ends what pin began, and lands the trip if OpDone came meanwhile. The
// trip must not be touched afterwards.
func (t *trip) unpin() {
	if t.pin.And(^uint32(pinHeld))&pinLanded != 0 {
		t.land(Now())
	}
}

// OpDone implements backend.Completer.
func (t *trip) OpDone(*backend.Op) {
	if t.pin.Or(pinLanded)&pinHeld == 0 {
		t.land(Now())
	}
}

// land takes the outcome of a sending: a success ends the trip, an error is for
// the router to judge.
func (t *trip) land(now time.Time) {
	r, c := t.router, t.copyset
	c.mu.Lock()
	if t.piece.op.Err != nil {
		t.state = tripFailed
		c.dirty = true
		c.mu.Unlock()
		r.wake()
		return
	}
	wake := c.arrived(t, now)
	c.mu.Unlock()
	t.end(now)
	if wake {
		r.wake()
	}
}

// end completes the operation, which its copyset has forgotten already.
func (t *trip) end(now time.Time) {
	p := t.piece
	t.router, t.copyset, t.piece = nil, nil, nil
	t.lastErr, t.abandon = nil, nil
	trips.Put(t)
	p.trip = nil
	p.req.pieceDone(p, now)
}
