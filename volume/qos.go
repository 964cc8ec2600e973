package volume

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
)

// throttle holds requests back so that a volume keeps to its QoS: token buckets
// for requests and for payload bytes, served in order of arrival. Flushes are
// never held back: they add no load that was not paid for, and durability
// should not wait behind bulk.
type throttle struct {
	iops, bps *rate.Limiter // nil: no bound
}

// newThrottle returns nil for a QoS without bounds.
func newThrottle(q backend.QoS) *throttle {
	if q.IOPS <= 0 && q.BPS <= 0 {
		return nil
	}
	return &throttle{iops: bucket(q.IOPS, q.IOPSBurst), bps: bucket(q.BPS, q.BPSBurst)}
}

func bucket(perSecond, burst int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	if burst <= 0 {
		burst = perSecond
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(burst))
}

// cost is the number of payload bytes that count for a request. Zeroes and
// trims move none.
func cost(r *Request) int64 {
	if r.Op == backend.OpRead || r.Op == backend.OpWrite {
		return r.Len
	}
	return 0
}

// allow takes the tokens of r if they are there now, and none otherwise.
func (t *throttle) allow(r *Request) bool {
	if r.Op == backend.OpFlush {
		return true
	}
	now := time.Now()
	var taken *rate.Reservation
	if t.iops != nil {
		taken = t.iops.ReserveN(now, 1)
		if taken.DelayFrom(now) > 0 {
			taken.CancelAt(now)
			return false
		}
	}
	if n := cost(r); t.bps != nil && n > 0 && !t.bps.AllowN(now, int(n)) {
		if taken != nil {
			taken.CancelAt(now)
		}
		return false
	}
	return true
}

// wait holds the caller until r may go, or ctx ends.
func (t *throttle) wait(ctx context.Context, r *Request) error {
	if r.Op == backend.OpFlush {
		return nil
	}
	if t.iops != nil {
		if err := t.iops.WaitN(ctx, 1); err != nil {
			return err
		}
	}
	if t.bps == nil {
		return nil
	}
	// A request larger than the burst pays in instalments.
	for n := cost(r); n > 0; {
		part := min(n, int64(t.bps.Burst()))
		if err := t.bps.WaitN(ctx, int(part)); err != nil {
			return err
		}
		n -= part
	}
	return nil
}
