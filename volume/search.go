package volume

import (
	"context"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Waits between two rounds of questions to the peers, by how long the search has
// lasted: an election takes tenths of seconds, an outage as long as it takes.
const (
	askSoon   = 25 * time.Millisecond
	askLater  = 50 * time.Millisecond // after a second
	askSeldom = 200 * time.Millisecond
	askPatent = 10 * time.Second // when askSeldom begins
	// refreshEvery is how often a search that does not end asks Meta whether the
	// peers are still the same.
	refreshEvery = time.Second
	// fetchTimeout bounds one such question; the next waits for fetchAgain, after
	// a failure for fetchFirst to fetchLast.
	fetchTimeout = 5 * time.Second
	fetchAgain   = 20 * time.Millisecond
	fetchFirst   = 100 * time.Millisecond
	fetchLast    = 2 * time.Second
)

// search is who to ask for a copyset's leader, and when. Guarded by copyset.mu.
type search struct {
	since   time.Time // zero while nobody is asked
	nextAsk time.Time

	peers     []backend.ServerID
	refresh   bool // the peers are to be asked of Meta
	fetching  bool
	fetchAt   time.Time // not before
	fetchFail int
}

// seek asks the peers who leads, when somebody wants to know.
func (c *copyset) seek(a *alarm, out *orders, overdue bool) {
	s := &c.search
	searching := c.route.state == routeSearching
	needed := c.count > 0 && (searching || overdue || c.route.state == routeSuspect) && c.router.doomed() == nil
	switch {
	case !needed:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since, s.nextAsk = a.now, a.now
		c.router.stats.searches.Inc()
	}
	if needed && a.reached(s.nextAsk) {
		out.asks = append(out.asks, s.peers...)
		if leader := c.route.leader; leader != 0 && !slices.Contains(s.peers, leader) {
			out.asks = append(out.asks, leader)
		}
		every := askEvery(a.now.Sub(s.since))
		if !searching {
			every = max(every, askLater) // whoever has the operation may still answer
		}
		s.nextAsk = a.now.Add(every)
		a.reached(s.nextAsk)
		if a.now.Sub(s.since) >= refreshEvery && a.now.Sub(s.fetchAt) >= refreshEvery {
			s.refresh = true
		}
	}
	if s.refresh && !s.fetching && a.reached(s.fetchAt) {
		s.refresh, s.fetching = false, true
		out.fetch = true
	}
}

func askEvery(searched time.Duration) time.Duration {
	switch {
	case searched < time.Second:
		return askSoon
	case searched < askPatent:
		return askLater
	}
	return askSeldom
}

// fetchPeers asks Meta for a copyset's peers, on a goroutine of its own, since
// Meta may take its time.
func (r *router) fetchPeers(c *copyset) {
	r.fetchers.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, fetchTimeout)
		defer cancel()
		found, err := r.meta.Copyset(ctx, c.id)
		c.peersAre(found.Peers, err)
		r.wake()
	})
}

func (c *copyset) peersAre(peers []backend.ServerID, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.search
	s.fetching = false
	c.dirty = true
	now := time.Now()
	if err != nil {
		s.refresh = true
		s.fetchAt = now.Add(doubled(fetchFirst, s.fetchFail, fetchLast))
		s.fetchFail++
		return
	}
	s.fetchFail, s.fetchAt = 0, now.Add(fetchAgain)
	for _, p := range peers {
		if !slices.Contains(s.peers, p) {
			s.nextAsk = now // a new one may know
		}
	}
	s.peers = slices.Clone(peers)
}
