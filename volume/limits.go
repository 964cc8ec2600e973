package volume

import (
	"context"
	"math"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// Limits bounds what may be in flight, by count and by bytes of memory, here
// and in every parent. Waiters are served first come, first served, so that a
// large request is not starved by small ones.
type Limits struct {
	parent    *Limits
	requests  *semaphore.Weighted
	bytes     *semaphore.Weighted
	maxBytes  int64
	usedCount atomic.Int64
	usedBytes atomic.Int64
}

// NewLimits allows maxRequests requests and maxBytes bytes at a time, and never
// more than parent (which may be nil) allows.
func NewLimits(parent *Limits, maxRequests, maxBytes int64) *Limits {
	return &Limits{
		parent:   parent,
		requests: semaphore.NewWeighted(maxRequests),
		bytes:    semaphore.NewWeighted(maxBytes),
		maxBytes: maxBytes,
	}
}

// charge is what a request of n bytes costs here: one that is larger than the
// whole limit runs alone rather than never.
func (l *Limits) charge(n int64) int64 { return min(n, l.maxBytes) }

// Acquire waits for room for one request of n bytes, at every level, and takes
// it. Every success needs one Release with the same n.
func (l *Limits) Acquire(ctx context.Context, n int64) error {
	if l == nil {
		return nil
	}
	if err := l.requests.Acquire(ctx, 1); err != nil {
		return err
	}
	if err := l.bytes.Acquire(ctx, l.charge(n)); err != nil {
		l.requests.Release(1)
		return err
	}
	if err := l.parent.Acquire(ctx, n); err != nil {
		l.bytes.Release(l.charge(n))
		l.requests.Release(1)
		return err
	}
	l.usedCount.Add(1)
	l.usedBytes.Add(n)
	return nil
}

// TryAcquire is Acquire that says false where that would wait.
func (l *Limits) TryAcquire(n int64) bool {
	if l == nil {
		return true
	}
	if !l.requests.TryAcquire(1) {
		return false
	}
	if !l.bytes.TryAcquire(l.charge(n)) {
		l.requests.Release(1)
		return false
	}
	if !l.parent.TryAcquire(n) {
		l.bytes.Release(l.charge(n))
		l.requests.Release(1)
		return false
	}
	l.usedCount.Add(1)
	l.usedBytes.Add(n)
	return true
}

// Release gives back what Acquire or TryAcquire took for n bytes.
func (l *Limits) Release(n int64) {
	if l == nil {
		return
	}
	l.usedCount.Add(-1)
	l.usedBytes.Add(-n)
	l.parent.Release(n)
	l.bytes.Release(l.charge(n))
	l.requests.Release(1)
}

// Free returns the bytes that are left here and in every parent.
func (l *Limits) Free() int64 {
	if l == nil {
		return math.MaxInt64
	}
	return min(max(0, l.maxBytes-l.usedBytes.Load()), l.parent.Free())
}

// InFlight returns the requests and bytes that are out now.
func (l *Limits) InFlight() (requests, bytes int64) {
	return l.usedCount.Load(), l.usedBytes.Load()
}
