package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Fault is something that can be done to a cluster and undone.
type Fault struct {
	Name string
	// Weight is how often it is chosen, relative to the others.
	Weight int
	// Min and Max bound how long it lasts.
	Min, Max time.Duration
	// Inject does it and says what it did; heal undoes it.
	Inject func(ctx context.Context, rnd *rand.Rand) (did string, heal func() error, err error)
}

// Plan is a random sequence of faults, one at a time, which a seed determines as
// far as the times of the cluster itself allow.
type Plan struct {
	Seed   uint64
	Faults []Fault
	// GapMin and GapMax bound the quiet between two faults.
	GapMin, GapMax time.Duration
	// Logf is told of every step; t.Logf.
	Logf func(format string, args ...any)
	// Mark is called at every injection; audit's Meter.Mark. May be nil.
	Mark func(name string)
}

// Run injects faults until ctx ends, and returns how many. When it returns, all
// are healed.
func (p Plan) Run(ctx context.Context) (injected int, err error) {
	total := 0
	for _, f := range p.Faults {
		total += f.Weight
	}
	if total <= 0 {
		return 0, fmt.Errorf("a plan of %d faults without weight", len(p.Faults))
	}
	rnd := rand.New(rand.NewPCG(p.Seed, 0))
	begun := time.Now()
	p.Logf("faults: seed %d", p.Seed)
	for {
		if !sleep(ctx, between(rnd, p.GapMin, p.GapMax)) {
			return injected, nil
		}
		f := p.choose(rnd.IntN(total))
		lasts := between(rnd, f.Min, f.Max)
		if p.Mark != nil {
			p.Mark(f.Name)
		}
		did, heal, err := f.Inject(ctx, rnd)
		if err != nil {
			return injected, fmt.Errorf("fault %s: %w", f.Name, err)
		}
		injected++
		p.Logf("faults: %7.3fs: %s for %v: %s", time.Since(begun).Seconds(), f.Name, lasts.Round(time.Millisecond), did)
		sleep(ctx, lasts)
		if err := heal(); err != nil {
			return injected, fmt.Errorf("heal fault %s: %w", f.Name, err)
		}
	}
}

func (p Plan) choose(ticket int) Fault {
	for _, f := range p.Faults {
		if ticket -= f.Weight; ticket < 0 {
			return f
		}
	}
	panic("faults: a ticket beyond the weights")
}

func between(rnd *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(rnd.Int64N(int64(high-low)+1))
}

// sleep says whether it was not interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
