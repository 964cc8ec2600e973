package volume

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// stallAfter is how long a copyset may give no answer before it is worth a line
// in the log.
const stallAfter = time.Second

// Stall is a copyset of an open volume that has operations and gives no answer.
type Stall struct {
	Copyset backend.CopysetID
	// Since is when the wait began.
	Since time.Time
	// Waiting operations.
	Waiting int
	// For says in words what they wait for.
	For string
	// Leader is the last one heard of, 0 for none, and in which term.
	Leader backend.ServerID
	Term   uint64
}

// stallWatch remembers what was logged of a copyset's stall. Guarded by
// copyset.mu.
type stallWatch struct {
	noted  bool
	logged bool
	since  time.Time
	leader backend.ServerID
}

// stallNote is a line for the log.
type stallNote struct {
	over     bool
	back     bool // over because of an answer
	duration time.Duration
	from, to backend.ServerID
	term     uint64
	waiting  int
	waitsFor string
}

// quietSince is when the copyset, which has operations, began to give no answer.
func (c *copyset) quietSince() time.Time {
	if c.lastAnswer.After(c.oldest.entered) {
		return c.lastAnswer
	}
	return c.oldest.entered
}

// watchStall notes when a copyset gives no answer for long, and when it is back.
func (c *copyset) watchStall(a *alarm, out *orders) {
	w := &c.stall
	if w.noted && (c.lastAnswer.After(w.since) || c.count == 0) {
		n := stallNote{over: true, back: c.lastAnswer.After(w.since), duration: a.now.Sub(w.since),
			from: w.leader, to: c.route.leader, term: c.route.term}
		if n.back {
			n.duration = c.lastAnswer.Sub(w.since)
		}
		if w.logged {
			out.notes = append(out.notes, n)
		}
		*w = stallWatch{}
	}
	if w.noted || c.count == 0 {
		return
	}
	since := c.quietSince()
	if !a.reached(since.Add(stallAfter)) {
		return
	}
	*w = stallWatch{noted: true, since: since, leader: c.route.leader, logged: c.router.mayLog(a.now)}
	if w.logged {
		out.notes = append(out.notes, stallNote{duration: a.now.Sub(since), from: w.leader,
			term: c.route.term, waiting: c.count, waitsFor: c.waitsFor(c.oldest)})
	}
}

// mayLog keeps the log short where many copysets stall at once.
func (r *router) mayLog(now time.Time) bool {
	if r.lines.AllowN(now, 1) {
		return true
	}
	r.muted++
	return false
}

func (r *router) note(c *copyset, n stallNote) {
	log := r.log.With("copyset", uint32(c.id))
	if r.muted > 0 {
		log = log.With(slog.Int("stalls_not_logged", r.muted))
		r.muted = 0
	}
	switch {
	case n.back:
		log.Info("copyset is back", "duration", n.duration.Round(time.Millisecond),
			"old_leader", uint32(n.from), "leader", uint32(n.to), "term", n.term)
	case n.over:
		log.Info("nothing waits for the copyset any more: all was given up", "duration", n.duration.Round(time.Millisecond))
	default:
		log.Warn("copyset gives no answer", "duration", n.duration.Round(time.Millisecond),
			"waiting", n.waiting, "for", n.waitsFor, "leader", uint32(n.from), "term", n.term)
	}
}

// waitsFor says in words what an operation waits for.
func (c *copyset) waitsFor(t *trip) string {
	switch {
	case t.state == tripBackOff:
		return fmt.Sprintf("another try after: %v", t.lastErr)
	case t.state == tripNumberless:
		return fmt.Sprintf("older changes: %d are not acknowledged, as many as may be", backend.FenceWindow)
	case t.state == tripOut || t.state == tripQueued || t.state == tripFailed || c.route.open():
		return fmt.Sprintf("an answer of %v", c.route.leader)
	case len(c.search.peers) == 0:
		return "the MDS to say which chunkservers hold the copyset"
	case c.route.state == routeProbing:
		return fmt.Sprintf("%v to lead", c.route.leader)
	}
	return fmt.Sprintf("a leader, asking chunkservers %v", c.search.peers)
}

// stalls lists the copysets that have given no answer for a try timeout.
func (r *router) stalls(now time.Time) []Stall {
	var found []Stall
	for _, c := range r.copysets.Load().inOrder {
		c.mu.Lock()
		if c.count > 0 && now.Sub(c.quietSince()) >= r.tryTimeout {
			found = append(found, Stall{Copyset: c.id, Since: c.quietSince(), Waiting: c.count,
				For: c.waitsFor(c.oldest), Leader: c.route.leader, Term: c.route.term})
		}
		c.mu.Unlock()
	}
	slices.SortFunc(found, func(a, b Stall) int { return cmp.Compare(a.Copyset, b.Copyset) })
	return found
}

// Stalls lists the copysets that operations wait for and that have given no
// answer for a while, by id. A volume on a backend without replicas has none.
func (v *Volume) Stalls() []Stall {
	if v.router == nil {
		return nil
	}
	return v.router.stalls(time.Now())
}

// routeGauges are sums over the copysets of a volume.
type routeGauges struct {
	parked, leaderless int
	longest            time.Duration
}

func (r *router) gauges(now time.Time, g *routeGauges) {
	for _, c := range r.copysets.Load().inOrder {
		c.mu.Lock()
		if c.count > 0 {
			g.longest = max(g.longest, now.Sub(c.oldest.entered))
			if c.route.leaderless() {
				g.leaderless++
			}
			for t := c.oldest; t != nil; t = t.newer {
				if t.state != tripOut && t.state != tripQueued {
					g.parked++
				}
			}
		}
		c.mu.Unlock()
	}
}
