package nbd

import (
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
)

// tallies is what the reader served inline since its last report.
type tallies struct {
	tally gateway.Tally
	began time.Time
	count [int(backend.OpFlush) + 1]int
}

// begin notes when the first request of a batch came.
func (s *tallies) begin() {
	if s.began.IsZero() {
		s.began = time.Now()
	}
}

func (s *tallies) add(op backend.OpKind, bytes int64, err error) {
	s.count[op]++
	s.tally.Add(op, bytes, err)
}

// report hands the counts over. The latency of a request in a batch is the
// batch's: that is how long its reply took.
func (s *tallies) report(h *gateway.Handle) {
	if s.began.IsZero() {
		return
	}
	latency := time.Since(s.began)
	for op, n := range s.count {
		for range n {
			h.Observe(backend.OpKind(op), latency)
		}
	}
	h.Count(&s.tally)
	s.began, s.count = time.Time{}, [len(s.count)]int{}
}
