package mds

import (
	"fmt"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// maxOwnersHeard bounds what is remembered of owners; 64 Ki gateways are far
// more than one cluster has.
const maxOwnersHeard = 64 << 10

// owners remembers, in memory, when each owner of a lease was last heard of. A
// restart of the MDS counts as having heard of everybody: nobody loses a lease
// for an MDS that was away.
type owners struct {
	ttl   time.Duration // 0: owners never die
	now   func() time.Time
	start time.Time

	mu      sync.Mutex
	heard   map[string]time.Time // guarded by mu
	pruneAt int                  // guarded by mu: size at which the silent are forgotten
}

func newOwners(ttl time.Duration, now func() time.Time) *owners {
	return &owners{ttl: ttl, now: now, start: now(), heard: make(map[string]time.Time), pruneAt: 128}
}

// hear notes that owner lives.
func (o *owners) hear(owner string) error {
	if o.ttl == 0 {
		return nil
	}
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.heard[owner]; !known && len(o.heard) >= o.pruneAt {
		o.prune(now)
		if len(o.heard) >= maxOwnersHeard {
			return fmt.Errorf("%w: %d owners keep leases alive: at most %d", backend.ErrOverload, len(o.heard), maxOwnersHeard)
		}
	}
	o.heard[owner] = now
	return nil
}

// prune forgets the silent. Forgotten, an owner counts as heard of at the start,
// which is even longer ago. Called with mu held.
func (o *owners) prune(now time.Time) {
	for owner, at := range o.heard {
		if now.Sub(at) >= o.ttl {
			delete(o.heard, owner)
		}
	}
	o.pruneAt = min(max(2*len(o.heard), 128), maxOwnersHeard)
}

// alive says whether owner's leases exclude others.
func (o *owners) alive(owner string) bool {
	if o.ttl == 0 {
		return true
	}
	o.mu.Lock()
	last, known := o.heard[owner]
	o.mu.Unlock()
	if !known {
		last = o.start
	}
	return o.now().Sub(last) < o.ttl
}
