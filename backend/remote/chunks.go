package remote

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// Resolver says where chunkservers are and which ones hold a copyset. *Meta is one.
type Resolver interface {
	Server(ctx context.Context, id backend.ServerID) (backend.ServerInfo, error)
	Copyset(ctx context.Context, id backend.CopysetID) (backend.Copyset, error)
}

// Options of Chunks. Zero values stand for the defaults.
type Options struct {
	// Client is who this is, in words for the servers' logs.
	Client string
	// Cluster, when not "", must be the servers' too.
	Cluster string
	// Streams is how many streams are kept to each chunkserver; a copyset's
	// operations go over one of them. Default 1.
	Streams int
	// MaxOps and MaxBytes bound what is in flight on one stream: operations not
	// answered yet, and bytes not sent yet. What comes beyond completes with
	// ErrOverload. Defaults 8192 and 64 MiB.
	MaxOps   int
	MaxBytes int64
	// ConnectTimeout bounds dialling and the handshake. Default 1 s.
	ConnectTimeout time.Duration
	// CloseTimeout is how long Close waits for answers. Default 5 s.
	CloseTimeout time.Duration
	// Dial makes the connections; net.Dialer by default.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logger is slog.Default() by default.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Streams <= 0 {
		o.Streams = 1
	}
	if o.MaxOps <= 0 {
		o.MaxOps = 8192
	}
	o.MaxOps = min(o.MaxOps, maxSlots)
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = time.Second
	}
	if o.CloseTimeout <= 0 {
		o.CloseTimeout = 5 * time.Second
	}
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Chunks are the chunks on a cluster's chunkservers.
type Chunks struct {
	opts   Options
	where  Resolver
	routes routes
	log    *slog.Logger

	// servers is replaced, never changed, under mu.
	servers atomic.Pointer[map[backend.ServerID]*server]
	mu      sync.Mutex
	closed  atomic.Bool
	// life ends with Close; running are the servers' goroutines.
	life    context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ backend.Replicas = (*Chunks)(nil)

// NewChunks returns the chunks of the cluster that where knows. Connections are made
// when they are first needed.
func NewChunks(where Resolver, o Options) *Chunks {
	c := &Chunks{opts: o.withDefaults(), where: where}
	c.log = c.opts.Logger
	c.routes.init()
	c.servers.Store(&map[backend.ServerID]*server{})
	c.life, c.stop = context.WithCancel(context.Background())
	return c
}

// server returns the connection to a chunkserver, nil once closed.
func (c *Chunks) server(id backend.ServerID) *server {
	if s := (*c.servers.Load())[id]; s != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.servers.Load()
	if s := old[id]; s != nil || c.closed.Load() {
		return s
	}
	s := newServer(c, id)
	next := make(map[backend.ServerID]*server, len(old)+1)
	for k, v := range old {
		next[k] = v
	}
	next[id] = s
	c.servers.Store(&next)
	c.running.Go(s.run)
	return s
}

// Try implements backend.Chunks: it always declines.
func (c *Chunks) Try(*backend.Op) bool { return false }

// Submit implements backend.Chunks. It does not wait: with its queue full it
// completes op with ErrOverload.
func (c *Chunks) Submit(op *backend.Op) {
	op.Hole = false
	if err := c.submit(op); err != nil {
		complete(op, err)
	}
}

func (c *Chunks) submit(op *backend.Op) error {
	if err := op.Check(); err != nil {
		return err
	}
	if err := pb.CheckSize(op); err != nil {
		return err
	}
	if c.closed.Load() {
		return errClosed
	}
	if op.Server == 0 {
		return fmt.Errorf("%w: %v without a chunkserver to send it to", backend.ErrInvalid, op.Kind)
	}
	s := c.server(op.Server)
	if s == nil {
		return errClosed
	}
	l := s.lane(op.Chunk.Copyset)
	n := pb.OpSize
	if op.Kind == backend.OpWrite {
		if err := l.accepts(op); err != nil {
			s.wanted()
			return err
		}
		n += len(op.Data)
	}
	frame := pb.Pool.Get(n)
	pb.PutOp(*frame, op)
	if op.Kind == backend.OpWrite {
		copy((*frame)[pb.OpSize:], op.Data)
	}
	if err := l.submit(op, frame); err != nil {
		pb.Pool.Put(frame)
		s.wanted()
		return err
	}
	return nil
}

func complete(op *backend.Op, err error) {
	op.Err = err
	if op.Done != nil {
		op.Done.OpDone(op)
	}
}

// Cancel implements backend.Replicas.
func (c *Chunks) Cancel(op *backend.Op) {
	s := (*c.servers.Load())[op.Server]
	if s != nil && s.lane(op.Chunk.Copyset).cancel(op) {
		complete(op, errCancelled)
	}
}

// Watch implements backend.Replicas.
func (c *Chunks) Watch(w backend.RouteWatcher) { c.routes.watch(w) }

// Unwatch implements backend.Replicas. It waits for a call of w that is under way,
// so it must not be called from one.
func (c *Chunks) Unwatch(w backend.RouteWatcher) { c.routes.unwatch(w) }

// Ask implements backend.Replicas.
func (c *Chunks) Ask(id backend.ServerID, copyset backend.CopysetID) {
	if c.closed.Load() || id == 0 {
		return
	}
	if s := c.server(id); s != nil && !s.lane(copyset).ask(copyset) {
		s.wanted() // what the server knows comes with its welcome
	}
}

var (
	errClosed      = fmt.Errorf("chunks of the cluster: %w", backend.ErrClosed)
	errCancelled   = fmt.Errorf("%w: cancelled", backend.ErrOutcomeUnknown)
	errQueueFull   = fmt.Errorf("%w: too much is in flight to it", backend.ErrOverload)
	errLostUnsent  = fmt.Errorf("%w: the connection broke before the operation was sent", backend.ErrUnreachable)
	errLostSent    = fmt.Errorf("%w: the connection broke after the operation was sent", backend.ErrOutcomeUnknown)
	errUnreachable = fmt.Errorf("%w: the chunkserver does not answer; it is being tried again", backend.ErrUnreachable)
)

// Close implements backend.Chunks. What has no answer after Options.CloseTimeout
// completes with ErrOutcomeUnknown.
func (c *Chunks) Close() error {
	c.mu.Lock()
	again := c.closed.Swap(true)
	c.mu.Unlock()
	if again {
		return nil
	}
	// Nothing is added to servers any more.
	timeout := time.NewTimer(c.opts.CloseTimeout)
	defer timeout.Stop()
	expired := false
	for _, s := range *c.servers.Load() {
		for _, l := range s.lanes {
			idle := l.refuse()
			if expired {
				continue
			}
			select {
			case <-idle:
			case <-timeout.C:
				expired = true
			}
		}
	}
	c.stop()
	c.running.Wait()
	return nil
}
