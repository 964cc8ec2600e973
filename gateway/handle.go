package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// ErrReadOnly: a change to a read-only export.
var ErrReadOnly = fmt.Errorf("export is %w", backend.ErrReadOnly)

// Limits of one client: enough to keep any pipeline full.
const (
	ClientMaxRequests = 512
	ClientMaxBytes    = 8 << 20
)

// Handle is one client's hold on an export. All methods may be called
// concurrently between Open and Release.
type Handle struct {
	export *export
	limits *volume.Limits
	family *family
	first  bool // of its family
}

// newHandle returns the first handle of a family, or one that joins it.
func newHandle(e *export, of *family) *Handle {
	h := &Handle{export: e, family: of, limits: volume.NewLimits(e.volume.Limits(), ClientMaxRequests, ClientMaxBytes)}
	if of == nil {
		h.family, h.first = new(family), true
	}
	e.stats.connections.Add(h.family.change(h.first, 1))
	return h
}

// family is a handle and those that were made of it, as status and metrics count them:
// who holds the export for others is a client only while there are none.
type family struct {
	mu     sync.Mutex // guards all below
	first  int        // 1 while the first handle is held
	others int
}

// change counts a handle more or less, and says by how much that changes the clients.
func (f *family) change(first bool, by int) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := max(f.first, f.others)
	if first {
		f.first += by
	} else {
		f.others += by
	}
	return int64(max(f.first, f.others) - before)
}

// Another returns a handle for one more client of the export, with limits of its own.
// It never waits, as the export is open until h is released.
func (h *Handle) Another() *Handle {
	g := h.export.gateway
	g.mu.Lock()
	h.export.handles++
	g.mu.Unlock()
	return newHandle(h.export, h.family)
}

// Release gives the handle back, once, after its last request is complete and
// its buffers are back. The last handle of an export flushes and closes it.
func (h *Handle) Release() {
	h.export.stats.connections.Add(h.family.change(h.first, -1))
	h.export.release()
}

// Info describes the export as it is now; the size may have grown.
func (h *Handle) Info() Info { return h.export.info() }

// Epoch is that of the open behind the export.
func (h *Handle) Epoch() backend.Epoch { return h.export.volume.Epoch() }

// FenceEarlier is that of volume.Volume.
func (h *Handle) FenceEarlier(ctx context.Context) error {
	return h.export.volume.FenceEarlier(ctx)
}

// Buffer waits until the limits allow a payload of n bytes, at most MaxBuffer,
// and lends room for it. With n 0 it is the bare permit for a request without
// payload.
func (h *Handle) Buffer(ctx context.Context, n int64) (*Buffer, error) {
	g := h.export.gateway
	if err := g.shares.wait(ctx, func() bool { return h.hasShare(n) }); err != nil {
		return nil, err
	}
	return g.buffers.get(ctx, h.limits, n)
}

// TryBuffer returns nil where Buffer would wait.
func (h *Handle) TryBuffer(n int64) *Buffer {
	if !h.hasShare(n) {
		return nil
	}
	return h.export.gateway.buffers.tryGet(h.limits, n)
}

// hasShare keeps clients that do not give their buffers back from taking what
// the others need: the less is left, the less may one client hold, a quarter of
// what is left for all. However many of them hang, the next one gets something.
// A client that holds nothing may always ask.
func (h *Handle) hasShare(n int64) bool {
	_, used := h.limits.InFlight()
	return used == 0 || used+n <= h.export.volume.Limits().Free()/4
}

// Try is that of volume.Volume, behind the export's own rules.
func (h *Handle) Try(r *volume.Request) bool {
	if r.Op.Changes() && h.export.gateway.opts.ReadOnly {
		r.Err = ErrReadOnly
		return true
	}
	return h.export.volume.Try(r)
}

// Submit is that of volume.Volume, behind the export's own rules.
func (h *Handle) Submit(r *volume.Request) {
	if r.Op.Changes() && h.export.gateway.opts.ReadOnly {
		r.Err = ErrReadOnly
		r.Done.RequestDone(r)
		return
	}
	h.export.volume.Submit(r)
}

// Check is that of volume.Volume, behind the export's own rules.
func (h *Handle) Check(r *volume.Request) error {
	if r.Op.Changes() && h.export.gateway.opts.ReadOnly {
		return ErrReadOnly
	}
	return h.export.volume.Check(r)
}

// Extents is that of volume.Volume.
func (h *Handle) Extents(ctx context.Context, off, length int64, maxExtents int, dst []backend.Extent) ([]backend.Extent, error) {
	return h.export.volume.Extents(ctx, off, length, maxExtents, dst)
}

// Count adds t to the export's counters and clears it.
func (h *Handle) Count(t *Tally) {
	stats := h.export.stats
	for op := range t.requests {
		if t.requests[op] == 0 {
			continue
		}
		stats.requests[op].Add(t.requests[op])
		stats.bytes[op].Add(t.bytes[op])
		if t.errors[op] != 0 {
			stats.errors[op].Add(t.errors[op])
		}
	}
	*t = Tally{}
}

// Observe notes the latency of one request, from its arrival to its reply.
func (h *Handle) Observe(op backend.OpKind, latency time.Duration) {
	h.export.gateway.stats.latency[op].Observe(latency.Seconds())
}
