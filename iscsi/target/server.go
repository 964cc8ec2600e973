package target

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/stream"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// Directory says which targets there are; *registry.Registry is one.
type Directory interface {
	// Target looks a target up by name.
	Target(name string) (*registry.Target, bool)
	// Targets are all, in any order.
	Targets() []*registry.Target
	// DiscoveryLogin is what those prove who ask for the list of targets.
	DiscoveryLogin() registry.Login
	// Refresh looks for what was changed at another gateway just now.
	Refresh(ctx context.Context) error
	// OnChange calls back after targets were changed, here or at another gateway.
	OnChange(func(names []string)) (cancel func())
}

// Records keep what outlives the gateway; backend.Meta has them.
type Records interface {
	Record(ctx context.Context, key string) (backend.Record, error)
	Records(ctx context.Context, prefix string) ([]backend.Record, error)
	RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error)
	PutRecord(ctx context.Context, key string, data []byte, version uint64) (uint64, error)
	DeleteRecord(ctx context.Context, key string, version uint64) error
}

// Options of NewServer. The zero value works.
type Options struct {
	// LoginTimeout is how long an initiator may take to log in.
	LoginTimeout time.Duration
	// StallTimeout is how long an initiator may go without progress in the middle
	// of a PDU or of taking its answers.
	StallTimeout time.Duration
	// KeepAlive is how long an initiator may be silent before it is asked whether
	// it is there. It may take answerTimes as long to answer.
	KeepAlive time.Duration
	// MaxConnections bounds the connections of all listeners; more are closed as
	// they come.
	MaxConnections int
	// PortalGroup is this gateway's target portal group tag, and the number of its
	// port: of the gateways that serve the same targets each has its own. From 1.
	PortalGroup uint16
	// Records keep the persistent reservations, which are in memory if it is nil, and
	// what gateways tell each other.
	Records Records
	// Cluster is the id of the cluster that the volumes are of: the names of logical
	// units are made of it.
	Cluster string
	// Shared says that other gateways may serve the same volumes, one at a time.
	Shared bool
	// Settings bound what logins negotiate; iscsi.DefaultSettings if zero.
	Settings iscsi.Settings
	Logger   *slog.Logger
	Metrics  prometheus.Registerer
}

// Defaults of Options.
const (
	DefaultLoginTimeout   = 15 * time.Second
	DefaultStallTimeout   = 60 * time.Second
	DefaultKeepAlive      = 15 * time.Second
	DefaultMaxConnections = 1024
)

// window is how many commands of a session may be under way.
const window = 128

// Server serves the targets of a directory on any number of listeners.
type Server struct {
	gateway   *gateway.Gateway
	directory Directory
	opts      Options
	log       *slog.Logger
	units     *units
	sessions  sessions
	// unwelcome bounds what is logged of connections that come to no session: anybody may
	// make as many as he likes.
	unwelcome *rate.Limiter
	spill     spill
	metrics   metrics

	// clock is the time since the server started, in nanoseconds and never 0, as
	// coarse as the watchdog's tick.
	clock atomic.Int64

	mu        sync.Mutex // guards all below
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	stopping  bool
	refused   time.Time // when a refused connection was last logged
	unwatch   func()

	announcing sync.WaitGroup
	silence    context.CancelFunc // ends announcing
	listening  chan struct{}      // there is one more listener

	serving  sync.WaitGroup // connections
	watchdog sync.WaitGroup // and changes of targets
	stop     chan struct{}  // ends the watchdog
	end      sync.Once
}

// NewServer returns a server without listeners. Shutdown ends it.
func NewServer(g *gateway.Gateway, d Directory, o Options) *Server {
	o.setDefaults()
	s := &Server{
		gateway:   g,
		directory: d,
		opts:      o,
		log:       o.Logger,
		unwelcome: rate.NewLimiter(10, 100),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		stop:      make(chan struct{}),
		listening: make(chan struct{}, 1),
	}
	s.units = newUnits(s)
	s.metrics = newMetrics(s, o.Metrics)
	s.clock.Store(1)
	s.watchdog.Go(s.watch)
	ctx, silence := context.WithCancel(context.Background())
	s.silence = silence
	s.announcing.Go(func() { s.announcePortals(ctx) })
	s.announcing.Go(func() { s.watchReservations(ctx) })
	s.announcing.Go(func() { s.sweepReservations(ctx) })
	s.unwatch = d.OnChange(func(names []string) { s.watchdog.Go(func() { s.targetsChanged(names) }) })
	return s
}

func (o *Options) setDefaults() {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&o.LoginTimeout, DefaultLoginTimeout)
	set(&o.StallTimeout, DefaultStallTimeout)
	set(&o.KeepAlive, DefaultKeepAlive)
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.PortalGroup == 0 {
		o.PortalGroup = 1
	}
	if o.Settings.MaxBurstLength == 0 {
		o.Settings = iscsi.DefaultSettings()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Serve accepts connections until Shutdown, then returns nil, or until the
// listener fails.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	select {
	case s.listening <- struct{}{}:
	default: // somebody looks anyway
	}
	return stream.Accept(l, s.isStopping, s.log, s.start)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// start serves a new connection, or turns it away when there are too many.
func (s *Server) start(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || len(s.conns) >= s.opts.MaxConnections {
		_ = nc.Close()
		if now := time.Now(); !s.stopping && now.Sub(s.refused) > time.Second {
			s.refused = now
			s.log.Warn("connection refused: too many", "limit", s.opts.MaxConnections, "remote", nc.RemoteAddr())
		}
		return
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	s.serving.Go(func() {
		c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// watch keeps the clock, pings silent initiators, and ends connections that stall.
func (s *Server) watch() {
	tick := min(max(min(s.opts.StallTimeout, s.opts.KeepAlive)/8, time.Millisecond), time.Second)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	started := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case now := <-ticker.C:
			clock := int64(now.Sub(started)) + 1
			s.clock.Store(clock)
			s.mu.Lock()
			for c := range s.conns {
				c.check(clock)
			}
			s.mu.Unlock()
		}
	}
}

// logoutGrace is how long initiators that are asked to log out may take, so that
// their next login finds the gateway that comes after this one.
const logoutGrace = 500 * time.Millisecond

// Drain stops accepting, asks initiators to log out, lets the commands that were read
// finish, and closes the connections. When ctx ends first, they are cut; it does not
// wait then for commands in execution: Shutdown does.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		s.unwatch()
		s.silence()
	}
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.askLogout()
	}
	s.mu.Unlock()

	idle := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(idle)
	}()
	grace := time.AfterFunc(logoutGrace, func() { s.each((*conn).drain) })
	defer grace.Stop()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		s.each(func(c *conn) { c.abort("shutdown took too long") })
		return ctx.Err()
	}
}

// Shutdown is Drain, and waits for the commands in execution: closing the gateway ends
// those that wait for the MDS or a throttle.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.Drain(ctx)
	s.serving.Wait()
	s.end.Do(func() { close(s.stop) })
	s.watchdog.Wait()
	s.announcing.Wait()
	s.units.quit()
	s.units.absent.Close()
	return err
}

func (s *Server) each(f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		f(c)
	}
}
