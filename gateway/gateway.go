package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// Options of New. The zero value works.
type Options struct {
	// ReadOnly refuses every change to every volume.
	ReadOnly bool
	// MaxRequests and MaxBytes bound what all volumes together have in flight.
	MaxRequests, MaxBytes int64
	// Owner names this gateway to others that want its volumes.
	Owner   string
	Logger  *slog.Logger
	Metrics prometheus.Registerer
	// TakeOver opens volumes that another gateway has open, which loses them.
	TakeOver bool
	// Deadline is how long an operation on replicas is tried before it fails, 0
	// for as long as it takes; TryTimeout how long a leader may take before
	// others are asked, 0 for the default.
	Deadline, TryTimeout time.Duration
	// Version and DataDir are shown by Status.
	Version, DataDir string
}

// Limits of a gateway that asks for no others.
const (
	DefaultMaxRequests = 16384
	DefaultMaxBytes    = 96 << 20
)

// closeTimeout bounds how long the close of an export waits for requests that
// themselves wait for the MDS.
const closeTimeout = 30 * time.Second

// Gateway owns the exports table.
type Gateway struct {
	meta    backend.Meta
	chunks  backend.Chunks
	opts    Options
	log     *slog.Logger
	limits  *volume.Limits
	buffers *bufferPool
	shares  shares
	stages  *volume.Stats
	stats   *stats
	started time.Time

	mu        sync.Mutex // guards all below
	keepAlive keepAlive
	// exports by name: the open ones, and those that open or close just now.
	exports   map[string]*export
	listeners []string
	closed    bool
}

// New returns a gateway on a backend. It does not own the backend.
func New(meta backend.Meta, chunks backend.Chunks, o Options) *Gateway {
	if o.MaxRequests <= 0 {
		o.MaxRequests = DefaultMaxRequests
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Owner == "" {
		host, _ := os.Hostname()
		o.Owner = fmt.Sprintf("gateway %s pid %d", host, os.Getpid())
	}
	g := &Gateway{
		meta:    meta,
		chunks:  chunks,
		opts:    o,
		log:     o.Logger,
		limits:  volume.NewLimits(nil, o.MaxRequests, o.MaxBytes),
		stages:  volume.NewStats(o.Metrics),
		started: time.Now(),
		exports: make(map[string]*export),
	}
	g.keepAlive.gateway = g
	g.buffers = &bufferPool{limit: o.MaxBytes, shares: &g.shares}
	g.stats = newStats(g, o.Metrics)
	return g
}

// Info describes an export without opening it.
type Info struct {
	Name      string
	Size      int64
	BlockSize int64
	ReadOnly  bool
}

// Describe looks a volume up for a client that only asks. ErrNotFound.
func (g *Gateway) Describe(ctx context.Context, name string) (Info, error) {
	// An open export is known without asking Meta: while the MDS is away, its
	// clients may connect again, and more of them.
	if e := g.lookup(strings.TrimPrefix(name, "/")); e != nil {
		return e.info(), nil
	}
	v, err := g.meta.Volume(ctx, name)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: v.Name, Size: v.Size, BlockSize: v.Geometry.BlockSize, ReadOnly: g.opts.ReadOnly}, nil
}

// List returns the names of all exports.
func (g *Gateway) List(ctx context.Context) ([]string, error) {
	volumes, err := g.meta.Volumes(ctx, "")
	if err != nil {
		return nil, err
	}
	names := make([]string, len(volumes))
	for i, v := range volumes {
		names[i] = v.Name
	}
	return names, nil
}

// Open returns a handle of the export, opening its volume for the first one.
// Every success needs one Release. ErrNotFound, ErrBusy, ErrClosed.
func (g *Gateway) Open(ctx context.Context, name string) (*Handle, error) {
	// Clients may spell a name in more than one way; the table knows one.
	info, err := g.Describe(ctx, name)
	if err != nil {
		return nil, err
	}
	e, err := g.hold(ctx, info.Name)
	if err != nil {
		return nil, err
	}
	return newHandle(e, nil), nil
}

// hold returns the export with one more handle counted, open.
func (g *Gateway) hold(ctx context.Context, name string) (*export, error) {
	for {
		g.mu.Lock()
		if g.closed {
			g.mu.Unlock()
			return nil, fmt.Errorf("gateway is shutting down: %w", backend.ErrClosed)
		}
		e := g.exports[name]
		if e == nil {
			e = &export{gateway: g, name: name, ready: make(chan struct{}), handles: 1}
			g.exports[name] = e
			g.mu.Unlock()
			return e.open(ctx)
		}
		changing := e.ready
		if e.opened && !e.closing {
			e.handles++
			g.mu.Unlock()
			return e, nil
		}
		g.mu.Unlock()
		// It opens or closes just now: wait, then look again.
		select {
		case <-changing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lookup returns the open export of that name, or nil.
func (g *Gateway) lookup(name string) *export {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.exports[name]; e != nil && e.opened && !e.closing {
		return e
	}
	return nil
}

// openExports returns the exports that are open.
func (g *Gateway) openExports() []*export {
	g.mu.Lock()
	defer g.mu.Unlock()
	var open []*export
	for _, e := range g.exports {
		if e.opened && !e.closing {
			open = append(open, e)
		}
	}
	return open
}

// AddListener notes an address for Status.
func (g *Gateway) AddListener(address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listeners = append(g.listeners, address)
}

// Close refuses new handles and closes every export that is still open. The
// front ends have stopped before.
func (g *Gateway) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	var errs []error
	for _, e := range g.openExports() {
		errs = append(errs, e.close(ctx))
	}
	return errors.Join(errs...)
}
