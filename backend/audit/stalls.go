package audit

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stalls is the distribution of stalls and of slowest requests over events.
type Stalls struct {
	// Longest and Slowest are over everything, marked or not.
	Longest, Slowest time.Duration
	// Marked are the events that were marked.
	Marked []Event
}

// SummarizeStalls takes what Meter.Events returned.
func SummarizeStalls(events []Event) Stalls {
	var s Stalls
	for i, e := range events {
		s.Longest = max(s.Longest, e.Stall)
		s.Slowest = max(s.Slowest, e.Slowest)
		if i > 0 {
			s.Marked = append(s.Marked, e)
		}
	}
	return s
}

// Only keeps the marked events of that name, and judges by them alone.
func (s Stalls) Only(name string) Stalls {
	var kept Stalls
	for _, e := range s.Marked {
		if e.Name == name {
			kept.Marked = append(kept.Marked, e)
			kept.Longest = max(kept.Longest, e.Stall)
			kept.Slowest = max(kept.Slowest, e.Slowest)
		}
	}
	return kept
}

// Percentile is the stall that p percent of the marked events do not exceed, by
// nearest rank; 0 without events.
func (s Stalls) Percentile(p float64) time.Duration {
	if len(s.Marked) == 0 {
		return 0
	}
	stalls := make([]time.Duration, len(s.Marked))
	for i, e := range s.Marked {
		stalls[i] = e.Stall
	}
	slices.Sort(stalls)
	rank := int(p/100*float64(len(stalls)) + 0.999999)
	return stalls[min(max(rank, 1), len(stalls))-1]
}

func (s Stalls) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "longest stall %v, slowest IO %v", round(s.Longest), round(s.Slowest))
	if n := len(s.Marked); n > 0 {
		fmt.Fprintf(&b, "; after %d events: stall min %v, p50 %v, p90 %v, max %v", n,
			round(s.Percentile(0)), round(s.Percentile(50)), round(s.Percentile(90)), round(s.Percentile(100)))
	}
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
