package nbd

import (
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// timedBatches: one batch in so many is timed. Reading the clock twice for each
// costs little where the kernel lends it, and as much as the IO itself where it
// takes a system call.
const timedBatches = 8

// tallies is what the reader served inline since its last report.
type tallies struct {
	tally gateway.Tally
	// open: there are requests since the last report.
	open bool
	// began is when the first of them came, zero in batches that are not timed.
	began   time.Time
	batches int
	// read is when the requests that are just served came, zero while nobody has
	// asked.
	read time.Time
	// count has the requests whose latency was not observed yet; last is the one
	// that was measured last.
	count [int(backend.OpFlush) + 1]int
	last  time.Duration
}

// begin notes that a request came.
func (s *tallies) begin() {
	if s.open {
		return
	}
	s.open = true
	if s.batches++; s.batches%timedBatches == 1 {
		s.began = s.arrived()
	}
}

// nextRead says that requests come from another read than those before.
func (s *tallies) nextRead() { s.read = time.Time{} }

// arrived is when what is just served was read.
func (s *tallies) arrived() time.Time {
	if s.read.IsZero() {
		s.read = volume.Now()
	}
	return s.read
}

func (s *tallies) add(op backend.OpKind, bytes int64, err error) {
	s.count[op]++
	s.tally.Add(op, bytes, err)
}

// report hands the counts over. The latency of a request in a batch is the
// batch's: that is how long its reply took. Those in batches that are not timed
// take the next timed one's.
func (s *tallies) report(h *gateway.Handle) {
	if !s.open {
		return
	}
	s.open = false
	h.Count(&s.tally)
	if s.began.IsZero() {
		return
	}
	s.last, s.began = volume.Now().Sub(s.began), time.Time{}
	s.observe(h)
}

func (s *tallies) observe(h *gateway.Handle) {
	for op, n := range s.count {
		for range n {
			h.Observe(backend.OpKind(op), s.last)
		}
	}
	s.count = [len(s.count)]int{}
}

// close reports the rest.
func (s *tallies) close(h *gateway.Handle) {
	s.report(h)
	s.observe(h)
}
