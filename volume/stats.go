package volume

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats holds the latency of each stage, of all volumes that share it, for
// requests that went through the queues. Those served inline have no stages to
// tell apart; the gateway measures them whole.
type Stats struct {
	aio, split, dispatch, backend prometheus.Observer
}

// NewStats makes the histogram curve_volume_stage_seconds{stage} and registers
// it, unless reg is nil.
func NewStats(reg prometheus.Registerer) *Stats {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "curve_volume_stage_seconds",
		Help: "Time queued requests spend in each stage: waiting in the aio queue, in split, waiting for dispatch, in the backend.",
		// 1 us to 16 s, four times wider each.
		Buckets: prometheus.ExponentialBuckets(1e-6, 4, 13),
	}, []string{"stage"})
	if reg != nil {
		reg.MustRegister(h)
	}
	return &Stats{
		aio:      h.WithLabelValues("aio"),
		split:    h.WithLabelValues("split"),
		dispatch: h.WithLabelValues("dispatch"),
		backend:  h.WithLabelValues("backend"),
	}
}

// piece accounts for a piece that the backend completed at now.
func (s *Stats) piece(p *piece, now time.Time) {
	s.dispatch.Observe(p.sentAt.Sub(p.dispatchedAt).Seconds())
	s.backend.Observe(now.Sub(p.sentAt).Seconds())
}
