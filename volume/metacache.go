package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// metacache remembers where a volume's segments are. Readers take no lock: a
// segment, once allocated, never moves, so an entry is written once. Only a
// miss asks the MDS (park in aio.go).
type metacache struct {
	meta  backend.Meta
	id    backend.VolumeID
	epoch backend.Epoch
	// soleWriter: only we allocate, so "not allocated" may be remembered too.
	soleWriter bool

	entries atomic.Pointer[[]atomic.Pointer[segmentEntry]]
	grow    sync.Mutex // serialises replacing and filling entries
}

// segmentEntry is what is known of one segment. A nil segment is known not to
// be allocated.
type segmentEntry struct{ segment *backend.Segment }

var unallocated = &segmentEntry{}

func newMetacache(meta backend.Meta, lease backend.Lease) *metacache {
	c := &metacache{
		meta:       meta,
		id:         lease.Volume.ID,
		epoch:      lease.Epoch,
		soleWriter: lease.Mode != backend.OpenShared,
	}
	none := make([]atomic.Pointer[segmentEntry], 0)
	c.entries.Store(&none)
	return c
}

// resize makes room for a volume of that many segments. It never shrinks.
func (c *metacache) resize(segments int) {
	c.grow.Lock()
	defer c.grow.Unlock()
	old := *c.entries.Load()
	if segments <= len(old) {
		return
	}
	grown := make([]atomic.Pointer[segmentEntry], segments)
	for i := range old {
		grown[i].Store(old[i].Load())
	}
	c.entries.Store(&grown)
}

// lookup answers from memory. known is false when the MDS must be asked.
func (c *metacache) lookup(index backend.SegmentIndex) (segment *backend.Segment, known bool) {
	entries := *c.entries.Load()
	if int(index) >= len(entries) {
		return nil, false
	}
	e := entries[index].Load()
	if e == nil {
		return nil, false
	}
	return e.segment, true
}

// ask learns about a segment from the MDS and remembers the answer. With
// allocate the segment exists afterwards.
func (c *metacache) ask(ctx context.Context, index backend.SegmentIndex, allocate bool) error {
	var s backend.Segment
	var err error
	if allocate {
		s, err = c.meta.AllocateSegment(ctx, c.id, c.epoch, index)
	} else {
		s, err = c.meta.Segment(ctx, c.id, index)
	}
	switch {
	case !allocate && errors.Is(err, backend.ErrNotFound):
		c.remember(index, unallocated)
		return nil
	case err != nil:
		return fmt.Errorf("segment %d of %v: %w", index, c.id, err)
	}
	c.remember(index, &segmentEntry{&s})
	return nil
}

// forget drops "not allocated" after it was used once, where others may
// allocate too.
func (c *metacache) forget(index backend.SegmentIndex) {
	if c.soleWriter {
		return
	}
	entries := *c.entries.Load()
	entries[index].CompareAndSwap(unallocated, nil)
}

// remember stores an entry. "Unallocated" never replaces a segment that a
// concurrent allocation found.
func (c *metacache) remember(index backend.SegmentIndex, e *segmentEntry) {
	c.grow.Lock()
	defer c.grow.Unlock()
	entries := *c.entries.Load()
	if int(index) >= len(entries) {
		return
	}
	if e == unallocated {
		entries[index].CompareAndSwap(nil, e)
		return
	}
	entries[index].Store(e)
}
