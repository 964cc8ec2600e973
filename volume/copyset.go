package volume

import (
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// copyset is a volume's view of one copyset: who leads it, which operations are
// on their way, how changes are numbered. mu is held for moments only, never
// across a call to the backend. Submitters and completions put operations in and
// take them out; everything else that changes is changed by the router's
// goroutine, in sweep.
type copyset struct {
	router *router
	id     backend.CopysetID

	mu    sync.Mutex // guards all below
	route route
	fence fence
	// All operations, oldest first.
	oldest, newest *trip
	count          int
	numberless     int // of them, those in tripNumberless
	// probe is the one that was sent to a leader in routeProbing.
	probe *trip

	// For the next sweep: what came in since the last.
	dirty    bool // there is something to do
	answered bool // under the present version of the route
	lost     []backend.ServerID
	news     routeNews

	lastAnswer time.Time
	search     search
	stall      stallWatch
}

// routeNews is what was heard of a copyset's leader.
type routeNews struct {
	heard  bool
	leader backend.ServerID
	term   uint64
}

// add takes later news in: the newest term wins, within it the last.
func (n *routeNews) add(leader backend.ServerID, term uint64) {
	if n.heard && term < n.term {
		return
	}
	*n = routeNews{true, leader, term}
}

// admit takes a new operation in. It reports whether the caller is to send it at
// once, and whether to wake the router.
func (c *copyset) admit(t *trip, now time.Time) (send, wake bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.router.doomed(); err != nil {
		return false, false, err
	}
	t.entered, t.backOffs, t.forgotten = now, 0, 0
	c.link(t)
	if t.changes() {
		if c.numberless > 0 || c.fence.full() {
			t.state = tripNumberless
			c.numberless++
			c.dirty = true
			return false, true, nil
		}
		c.number(t)
	}
	send = c.depart(t, now)
	return send, !send, nil
}

// number gives a change its number, which it keeps.
func (c *copyset) number(t *trip) {
	op := &t.piece.op
	op.Session, op.Seq = c.router.session, c.fence.number()
}

// depart readies an operation for sending, pinned, or parks it where there is
// nobody to send it to.
func (c *copyset) depart(t *trip, now time.Time) bool {
	if !c.route.open() && (c.route.state != routeProbing || c.probe != t) {
		if c.probe == t {
			c.probe = nil
		}
		t.state = tripParked
		c.dirty = true
		return false
	}
	op := &t.piece.op
	op.Server = c.route.leader
	if t.changes() {
		op.Low = c.fence.low()
	}
	t.state, t.sentAt, t.version = tripOut, now, c.route.version
	t.timedOut, t.takenBack = false, false
	t.pin.Store(pinHeld)
	return true
}

// departAgain is depart for an operation that was queued for its dispatch worker.
func (c *copyset) departAgain(t *trip, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.abandon != nil {
		c.giveUp(t)
		return false
	}
	return c.depart(t, now)
}

// arrived takes a served operation out, and reports whether the router waits for
// such news.
func (c *copyset) arrived(t *trip, now time.Time) (wake bool) {
	c.lastAnswer = now
	if t.version == c.route.version && c.route.state != routeKnown {
		c.answered, wake = true, true
	}
	c.remove(t)
	wake = wake || c.numberless > 0 || c.stall.noted || c.oldest != nil && c.oldest.state == tripGivenUp
	c.dirty = c.dirty || wake
	return wake
}

// giveUp makes an operation that is not out fail in its turn.
func (c *copyset) giveUp(t *trip) {
	if t.state == tripNumberless {
		c.numberless--
	}
	t.state = tripGivenUp
	c.dirty = true
}

// remove forgets an operation that is over, for good or ill.
func (c *copyset) remove(t *trip) {
	if seq := t.piece.op.Seq; seq != 0 && t.changes() {
		c.fence.acknowledge(seq)
	}
	if c.probe == t {
		c.probe = nil
		c.dirty = true
	}
	c.unlink(t)
}

func (c *copyset) link(t *trip) {
	t.older, t.newer = c.newest, nil
	if c.newest != nil {
		c.newest.newer = t
	} else {
		c.oldest = t
	}
	c.newest = t
	c.count++
}

func (c *copyset) unlink(t *trip) {
	if t.older != nil {
		t.older.newer = t.newer
	} else {
		c.oldest = t.newer
	}
	if t.newer != nil {
		t.newer.older = t.older
	} else {
		c.newest = t.older
	}
	t.older, t.newer = nil, nil
	c.count--
}
