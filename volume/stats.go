package volume

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats holds the latency of each stage, of all volumes that share it, for
// requests that went through the queues; those served inline have no stages to
// tell apart, the gateway measures them whole. And it counts what leader changes
// cost.
type Stats struct {
	aio, split, dispatch, backend prometheus.Observer

	// retries by reason, one for each row of retryTable.
	retries                                                    map[string]prometheus.Counter
	redirects, timeouts, searches, leaderChanges, illegalMoves prometheus.Counter

	mu      sync.Mutex // guards routers
	routers map[*router]struct{}
}

// NewStats makes the metrics curve_volume_stage_seconds{stage} and
// curve_volume_route_*, and registers them, unless reg is nil.
func NewStats(reg prometheus.Registerer) *Stats {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "curve_volume_stage_seconds",
		Help: "Time queued requests spend in each stage: waiting in the aio queue, in split, waiting for dispatch, in the backend.",
		// 1 us to 16 s, four times wider each.
		Buckets: prometheus.ExponentialBuckets(1e-6, 4, 13),
	}, []string{"stage"})
	retries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "curve_volume_route_retries_total",
		Help: "Operations that were sent again, by what they had failed with.",
	}, []string{"reason"})
	collectors := []prometheus.Collector{h, retries}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "curve_volume_route_" + name, Help: help})
		collectors = append(collectors, c)
		return c
	}
	s := &Stats{
		aio:           h.WithLabelValues("aio"),
		split:         h.WithLabelValues("split"),
		dispatch:      h.WithLabelValues("dispatch"),
		backend:       h.WithLabelValues("backend"),
		retries:       make(map[string]prometheus.Counter),
		redirects:     counter("redirects_total", "Operations that went on to the leader that a chunkserver named."),
		timeouts:      counter("timeouts_total", "Sendings without an answer for the try timeout."),
		searches:      counter("searches_total", "Times that all peers of a copyset were asked who leads."),
		leaderChanges: counter("leader_changes_total", "Changes of a copyset's leader that were noticed."),
		illegalMoves:  counter("illegal_moves_total", "Bugs: changes of a route's state that are not allowed."),
		routers:       make(map[*router]struct{}),
	}
	for i := range retryTable {
		s.retries[retryTable[i].reason] = retries.WithLabelValues(retryTable[i].reason)
	}
	s.retries[reasonTakenBack] = retries.WithLabelValues(reasonTakenBack)
	gauge := func(name, help string, value func(routeGauges) float64) {
		collectors = append(collectors, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: "curve_volume_route_" + name, Help: help},
			func() float64 { return value(s.gauges()) }))
	}
	gauge("parked_operations", "Operations that wait for a leader, a back-off or the fence's window.",
		func(g routeGauges) float64 { return float64(g.parked) })
	gauge("leaderless_copysets", "Copysets with operations and without a known leader.",
		func(g routeGauges) float64 { return float64(g.leaderless) })
	gauge("longest_wait_seconds", "Age of the oldest operation that has no outcome.",
		func(g routeGauges) float64 { return g.longest.Seconds() })
	if reg != nil {
		reg.MustRegister(collectors...)
	}
	return s
}

// piece accounts for a piece that the backend completed at now.
func (s *Stats) piece(p *piece, now time.Time) {
	s.dispatch.Observe(p.sentAt.Sub(p.dispatchedAt).Seconds())
	s.backend.Observe(now.Sub(p.sentAt).Seconds())
}

func (s *Stats) watch(r *router) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routers[r] = struct{}{}
}

func (s *Stats) unwatch(r *router) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.routers, r)
}

func (s *Stats) gauges() (g routeGauges) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for r := range s.routers {
		r.gauges(now, &g)
	}
	return g
}
