package volume

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// alarm is the time of a sweep, and gathers when the next one is due.
type alarm struct {
	now, next time.Time
}

// reached says whether t has come, and otherwise sees to it that somebody looks
// again then.
func (a *alarm) reached(t time.Time) bool {
	if !t.After(a.now) {
		return true
	}
	if a.next.IsZero() || t.Before(a.next) {
		a.next = t
	}
	return false
}

// A sending that was not answered after so many try timeouts, though its server
// is still said to lead, is taken to be forgotten and sent anew; the next one is
// given twice the time.
const (
	forgottenTries = 10
	forgottenLast  = 30 * time.Second
)

// pinnedAgain is when to look again at an operation that cannot be taken back
// because somebody is still inside Submit with it.
const pinnedAgain = 5 * time.Millisecond

// orders are what a sweep decided, to be done without the copyset's lock.
type orders struct {
	asks   []backend.ServerID
	back   []*trip // to be cancelled; pinned
	send   []*piece
	failed []*trip // over, with their error
	fetch  bool    // the peers
	notes  []stallNote
}

func (o *orders) reset() {
	clear(o.back)
	clear(o.send)
	clear(o.failed)
	*o = orders{asks: o.asks[:0], back: o.back[:0], send: o.send[:0], failed: o.failed[:0], notes: o.notes[:0]}
}

// sweep looks at all there is of a copyset and decides what is to be done. It
// goes by the state found, not by what happened, so that it may run at any time
// and any number of events may be dealt with at once. Only the router's goroutine
// calls it.
func (c *copyset) sweep(a *alarm, out *orders) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty = false
	c.takeNews(a.now)
	for t := c.oldest; t != nil; t = t.newer {
		if t.state == tripFailed {
			c.judge(t, a.now)
		}
	}
	if c.count > 0 {
		c.route.wanted()
	}
	if c.route.state == routeSearching && c.route.next != 0 && a.reached(c.route.resume) {
		c.route.tick(a.now)
	}
	overdue := false
	for t := c.oldest; t != nil; {
		newer := t.newer // it may be over below
		c.consider(t, a, out)
		overdue = overdue || t.state == tripOut && t.timedOut
		t = newer
	}
	c.seek(a, out, overdue)
	c.watchStall(a, out)
}

// takeNews feeds the route with what came in.
func (c *copyset) takeNews(now time.Time) {
	if c.answered {
		c.answered = false
		c.route.answered()
	}
	for _, server := range c.lost {
		if server == c.route.leader {
			c.route.broke(now)
		}
	}
	c.lost = c.lost[:0]
	if n := c.news; n.heard {
		c.news = routeNews{}
		c.hear(n.leader, n.term, now)
	}
}

func (c *copyset) hear(leader backend.ServerID, term uint64, now time.Time) bool {
	known := c.route.leader != 0
	changed := c.route.hear(leader, term, now)
	if changed && known {
		c.router.stats.leaderChanges.Inc()
	}
	return changed
}

// judge decides what becomes of an operation that came back with an error.
func (c *copyset) judge(t *trip, now time.Time) {
	err := t.piece.op.Err
	row := retryFor(err)
	t.lastErr = err
	t.state = tripParked
	if c.probe == t {
		c.probe = nil
	}
	if t.abandon != nil {
		c.giveUp(t)
		return
	}
	if t.takenBack && row.action == retrySearch {
		c.router.stats.retries[reasonTakenBack].Inc()
		return
	}
	// What was sent under an older version says nothing about the present leader.
	current := t.version == c.route.version
	switch row.action {
	case retryLost:
		c.router.doom(err)
		t.abandon = err
		c.giveUp(t)
		return
	case retryNever:
		t.abandon = err
		c.giveUp(t)
		return
	case retryLater:
		// Whoever is too busy did not refuse to lead. It is no sign of life of a
		// suspect, though: our own queue to a server that hangs may be what is full.
		if current && c.route.state == routeProbing {
			c.route.answered()
		}
		t.state = tripBackOff
		t.retryAt = now.Add(row.backOff(t.backOffs, c.router.jitter()))
		t.backOffs++
	case retryRedirect:
		if leader, term := hint(err); leader != 0 && c.redirect(leader, term, current, now) {
			break
		}
		c.bounce(row, current, now)
	case retryRefresh:
		c.search.refresh = true
		c.bounce(row, current, now)
	case retrySearch:
		c.bounce(row, current, now)
	}
	c.router.stats.retries[row.reason].Inc()
}

// redirect follows a hint. It reports whether it led anywhere.
func (c *copyset) redirect(leader backend.ServerID, term uint64, current bool, now time.Time) bool {
	if current && term == c.route.term {
		c.route.refused(now) // or another leader of the same term would not be believed
	}
	version := c.route.version
	c.hear(leader, term, now)
	if c.route.version == version {
		return false
	}
	c.router.stats.redirects.Inc()
	return true
}

func (c *copyset) bounce(row *retryRow, current bool, now time.Time) {
	switch {
	case !current:
	case row.broke:
		c.route.broke(now)
	default:
		c.route.refused(now)
	}
}

// consider takes one operation a step further, if it is time.
func (c *copyset) consider(t *trip, a *alarm, out *orders) {
	if t.abandon == nil {
		t.abandon = c.verdict(t, a)
	}
	if t.abandon != nil && t.state != tripOut && t.state != tripQueued && t.state != tripGivenUp {
		c.giveUp(t)
	}
	switch t.state {
	case tripGivenUp:
		c.failInTurn(t, out)
	case tripOut:
		c.considerOut(t, a, out)
	case tripNumberless:
		if c.fence.full() {
			return
		}
		c.number(t)
		c.numberless--
		t.state = tripParked
		c.forward(t, out)
	case tripBackOff:
		if a.reached(t.retryAt) {
			t.state = tripParked
			c.forward(t, out)
		}
	case tripParked:
		c.forward(t, out)
	}
}

// verdict is the error of an operation that must not be tried any longer.
func (c *copyset) verdict(t *trip, a *alarm) error {
	if err := c.router.doomed(); err != nil {
		return err
	}
	if d := c.router.deadline; d > 0 && a.reached(t.entered.Add(d)) {
		return c.gaveUp(t, fmt.Sprintf("gave up after %v", d))
	}
	return nil
}

// gaveUp is the error of an operation that is given up, saying what it waited for.
func (c *copyset) gaveUp(t *trip, why string) error {
	class := backend.ErrIO
	if errors.Is(t.lastErr, backend.ErrNoSpace) {
		class = backend.ErrNoSpace // the client may know what to do about that
	}
	err := fmt.Errorf("%w: %v on %v: %s: waited for %s", class, t.piece.op.Kind, c.id, why, c.waitsFor(t))
	if t.lastErr != nil {
		err = fmt.Errorf("%w; last answer: %v", err, t.lastErr)
	}
	return err
}

// failInTurn ends an operation that was given up. A change whose outcome is not
// known may still be on its way, and is kept from being applied only by a later
// change with a Low above its number. So it fails, and lets its client write
// anew, only when that is what the next change will carry: when every change
// before it is over.
func (c *copyset) failInTurn(t *trip, out *orders) {
	if t.changes() && t.piece.op.Seq != 0 && t.piece.op.Seq != c.fence.low() && c.router.doomed() == nil {
		return
	}
	c.remove(t)
	out.failed = append(out.failed, t)
}

// considerOut takes an operation back that its server should not have any more,
// and notices when the server gives no answer.
func (c *copyset) considerOut(t *trip, a *alarm, out *orders) {
	moved := t.version != c.route.version && (c.route.open() || c.route.state == routeProbing)
	forgotten := a.reached(t.sentAt.Add(doubled(forgottenTries*c.router.tryTimeout, t.forgotten, forgottenLast)))
	if t.abandon != nil || forgotten || moved && a.reached(c.route.takeBack) {
		c.takeBack(t, a, out, forgotten)
		return
	}
	if t.timedOut || !a.reached(t.sentAt.Add(c.router.tryTimeout)) {
		return
	}
	t.timedOut = true
	c.router.stats.timeouts.Inc()
	if t.version == c.route.version && c.lastAnswer.Before(t.sentAt) {
		c.route.silent()
	}
}

// takeBack has an operation that is out cancelled.
func (c *copyset) takeBack(t *trip, a *alarm, out *orders, forgotten bool) {
	switch {
	case t.pin.CompareAndSwap(0, pinHeld):
		t.takenBack = true
		if forgotten {
			t.forgotten++
		}
		out.back = append(out.back, t)
	case t.pin.Load()&pinLanded == 0:
		a.reached(a.now.Add(pinnedAgain))
	}
}

// forward hands a parked operation to its dispatch worker, if there is a leader.
func (c *copyset) forward(t *trip, out *orders) {
	if c.route.state == routeProbing && c.probe == nil {
		c.probe = t
	} else if !c.route.open() {
		return
	}
	t.state = tripQueued
	out.send = append(out.send, t.piece)
}

// lose notes that the connection to a server broke.
func (c *copyset) lose(server backend.ServerID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.lost, server) {
		c.lost = append(c.lost, server)
		c.dirty = true
	}
}
