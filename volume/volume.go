package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Options of Open.
type Options struct {
	// Owner names the opener to others that want the volume. Required.
	Owner string
	Mode  backend.OpenMode
	// Limits is the parent of the volume's own limits; nil for none.
	Limits *Limits
	// MaxRequests and MaxBytes bound what this volume has in flight.
	MaxRequests, MaxBytes int64
	// Stats receives the latencies of the stages; nil for none.
	Stats *Stats
	Log   *slog.Logger

	// The rest matters on a backend with replicas only.

	// Deadline is how long an operation may be tried before it fails; 0 for as
	// long as it takes.
	Deadline time.Duration
	// TryTimeout is how long a leader may take before others are asked; 0 for
	// DefaultTryTimeout.
	TryTimeout time.Duration

	jitterSeed uint64 // of back-offs; 0 for a random one
}

// Limits of a volume that asks for no others.
const (
	DefaultMaxRequests = 4096
	DefaultMaxBytes    = 64 << 20
)

// Volume is an open volume. All methods may be called concurrently.
type Volume struct {
	id       backend.VolumeID
	name     string
	epoch    backend.Epoch
	geometry backend.Geometry
	size     atomic.Int64
	meta     backend.Meta
	chunks   backend.Chunks
	router   *router // nil on a backend without replicas
	cache    *metacache
	limits   *Limits
	stats    *Stats
	throttle *throttle

	throttled *queue[*Request]
	aio       *queue[*Request]
	dispatch  []*queue[*piece]

	queued inflight

	parkedMu sync.Mutex // guards parked
	parked   map[miss][]*Request

	earlierMu sync.Mutex // guards earlier
	earlier   *fencing   // the last one, nil for none

	// gate counts requests in flight; see enter.
	gate    atomic.Int64
	drained chan struct{} // closed when the last request left a closed gate

	ctx       context.Context // ends waits for the MDS and the throttle
	cancel    context.CancelFunc
	throttler sync.WaitGroup
	splitters sync.WaitGroup
	resolvers sync.WaitGroup
	senders   sync.WaitGroup
}

// Open takes the volume's lease and starts its stages.
func Open(ctx context.Context, meta backend.Meta, chunks backend.Chunks, name string, o Options) (*Volume, error) {
	lease, err := meta.OpenVolume(ctx, name, o.Owner, o.Mode)
	if err != nil {
		return nil, err
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = DefaultMaxRequests
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Stats == nil {
		o.Stats = NewStats(nil)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.TryTimeout <= 0 {
		o.TryTimeout = DefaultTryTimeout
	}
	v := &Volume{
		id:       lease.Volume.ID,
		name:     lease.Volume.Name,
		epoch:    lease.Epoch,
		geometry: lease.Volume.Geometry,
		meta:     meta,
		chunks:   chunks,
		cache:    newMetacache(meta, lease),
		limits:   NewLimits(o.Limits, o.MaxRequests, o.MaxBytes),
		stats:    o.Stats,
		throttle: newThrottle(lease.Volume.QoS),
		aio:      newQueue[*Request](),
		parked:   make(map[miss][]*Request),
		drained:  make(chan struct{}),
	}
	v.Resize(lease.Volume.Size)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	if replicas, ok := chunks.(backend.Replicas); ok {
		if v.router, err = newRouter(replicas, meta, lease, o, v.dispatchPiece); err != nil {
			v.cancel()
			return nil, errors.Join(err, meta.CloseVolume(context.WithoutCancel(ctx), v.id, v.epoch))
		}
	}
	v.start()
	return v, nil
}

func (v *Volume) start() {
	if v.throttle != nil {
		v.throttled = newQueue[*Request]()
		v.throttler.Go(v.throttleRun)
	}
	for range splitWorkers {
		v.splitters.Go(v.splitRun)
	}
	for range dispatchWorkers {
		q := newQueue[*piece]()
		v.dispatch = append(v.dispatch, q)
		v.senders.Go(func() { v.dispatchRun(q) })
	}
	if v.router != nil {
		v.router.start()
	}
}

// ID, Name, Epoch, Geometry and Size describe the volume; Size is bytes and may
// grow.
func (v *Volume) ID() backend.VolumeID       { return v.id }
func (v *Volume) Name() string               { return v.name }
func (v *Volume) Epoch() backend.Epoch       { return v.epoch }
func (v *Volume) Geometry() backend.Geometry { return v.geometry }
func (v *Volume) Size() int64                { return v.size.Load() }

// Queued returns how many submitted requests are not complete, and how long the
// oldest of them has been waiting: the first thing to look at when IO stalls.
func (v *Volume) Queued() (requests int, oldest time.Duration) { return v.queued.oldest() }

// Limits are the volume's permits.
func (v *Volume) Limits() *Limits { return v.limits }

// Resize tells an open volume its new size, which Meta has recorded already.
// A size below the present one is ignored: volumes do not shrink.
func (v *Volume) Resize(size int64) {
	segments := (size + v.geometry.SegmentSize - 1) / v.geometry.SegmentSize
	v.cache.resize(int(segments)) // before the size lets requests in there
	for {
		old := v.size.Load()
		if size <= old || v.size.CompareAndSwap(old, size) {
			return
		}
	}
}

// checkData is Check, and that the data is as long as the request says.
func (v *Volume) checkData(r *Request) error {
	if (r.Op == backend.OpRead || r.Op == backend.OpWrite) && int64(len(r.Data)) != r.Len {
		return fmt.Errorf("%w: %d bytes of room for a %v of %d", backend.ErrInvalid, len(r.Data), r.Op, r.Len)
	}
	return v.Check(r)
}

// Check holds a request against the volume's bounds and rules, without its
// data: for front ends that serve it in pieces and must refuse it as a whole.
func (v *Volume) Check(r *Request) error {
	switch r.Op {
	case backend.OpFlush:
		return nil
	case backend.OpRead, backend.OpWrite:
	case backend.OpZero:
		if r.Flags.Has(backend.FlagNoHole | backend.FlagFastZero) {
			// Keeping the space means writing zeros, which is never fast.
			return backend.ErrNotSupported
		}
	case backend.OpTrim:
	default:
		return fmt.Errorf("%w: operation %d", backend.ErrInvalid, r.Op)
	}
	if r.Off < 0 || r.Len < 0 || r.Off > v.size.Load()-r.Len {
		return ErrOutOfRange
	}
	if (r.Off|r.Len)&(v.geometry.BlockSize-1) != 0 {
		return ErrUnaligned
	}
	return nil
}

// nothingToDo says that a request without length is complete as it is.
func (v *Volume) nothingToDo(r *Request) bool { return r.Len == 0 && r.Op != backend.OpFlush }

// closedBit of the gate says that no more requests may enter; the lower bits
// count those that did.
const closedBit = 1 << 62

// enter lets a request in, unless the volume is closing. Every success needs
// one leave.
func (v *Volume) enter() bool {
	if v.gate.Add(1)&closedBit == 0 {
		return true
	}
	v.leave()
	return false
}

func (v *Volume) leave() {
	if v.gate.Add(-1) == closedBit {
		v.signalDrained()
	}
}

// signalDrained may be reached more than once: a late enter that is turned away
// leaves too.
func (v *Volume) signalDrained() {
	v.parkedMu.Lock()
	defer v.parkedMu.Unlock()
	select {
	case <-v.drained:
	default:
		close(v.drained)
	}
}

// Lost returns the error that every request fails with since the volume was
// opened elsewhere, or nil.
func (v *Volume) Lost() error {
	if v.router == nil {
		return nil
	}
	return v.router.doomed()
}

// Close drains the volume, flushes it and gives the lease back. When ctx ends
// first, requests that wait for the MDS, the throttle or a leader fail. Those in
// the backend are waited for all the same, since their buffers are in use; with
// replicas they are cancelled.
func (v *Volume) Close(ctx context.Context) error {
	before := v.gate.Or(closedBit)
	if before&closedBit != 0 {
		return fmt.Errorf("volume %q: %w", v.name, backend.ErrClosed)
	}
	if before == 0 {
		v.signalDrained()
	}
	select {
	case <-v.drained:
	case <-ctx.Done():
		v.cancel()
		if v.router != nil {
			v.router.doom(fmt.Errorf("%w: volume %q was closed before its requests were served", backend.ErrIO, v.name))
		}
		<-v.drained
	}
	v.stop()
	flushErr := v.flushNow()
	closeErr := v.meta.CloseVolume(context.WithoutCancel(ctx), v.id, v.epoch)
	for _, err := range []error{flushErr, closeErr} {
		if err != nil {
			return fmt.Errorf("close volume %q: %w", v.name, err)
		}
	}
	return nil
}

// stop ends the stages in the order of the flow: each one's inputs end before
// it does.
func (v *Volume) stop() {
	if v.throttled != nil {
		v.throttled.close()
		v.throttler.Wait()
	}
	v.resolvers.Wait()
	v.aio.close()
	v.splitters.Wait()
	for _, q := range v.dispatch {
		q.close()
	}
	v.senders.Wait()
	if v.router != nil {
		v.router.stop()
	}
	v.cancel()
}

// flushNow makes the volume durable, past the stages.
func (v *Volume) flushNow() error {
	if v.router != nil {
		return v.router.doomed()
	}
	done := make(flushed, 1)
	v.chunks.Submit(&backend.Op{Kind: backend.OpFlush, Volume: v.id, Epoch: v.epoch, Done: done})
	return <-done
}

type flushed chan error

func (f flushed) OpDone(op *backend.Op) { f <- op.Err }
