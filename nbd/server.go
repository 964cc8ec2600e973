package nbd

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/stream"
)

// Options of NewServer. The zero value works.
type Options struct {
	// HandshakeTimeout is how long a client may take to enter the transmission
	// phase.
	HandshakeTimeout time.Duration
	// StallTimeout is how long a client may go without progress in the middle
	// of a request or of taking its replies.
	StallTimeout time.Duration
	// MaxConnections bounds the connections of all listeners; more are closed
	// as they come.
	MaxConnections int
	Logger         *slog.Logger
}

// Defaults of Options.
const (
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultStallTimeout     = 60 * time.Second
	DefaultMaxConnections   = 1024
)

// Limits of the transmission phase, in bytes.
const (
	// maxPayload is the largest read or write, as advertised.
	maxPayload = 32 << 20
	// maxDrain is the largest payload of a refused request that is read to stay
	// in step; a client that sends more loses its connection.
	maxDrain = 64 << 20
)

// Server serves the exports of a gateway on any number of listeners.
type Server struct {
	gateway *gateway.Gateway
	opts    Options
	log     *slog.Logger

	// clock is the time since the server started, in nanoseconds and never 0,
	// as coarse as the watchdog's tick: cheap enough to read for every IO.
	clock atomic.Int64

	mu        sync.Mutex // guards all below
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	stopping  bool
	// drained: only attached connections are wanted any more.
	drained bool
	refused time.Time // when a refused connection was last logged

	serving  sync.WaitGroup // connections
	clients  sync.WaitGroup // those that are not attached
	watchdog sync.WaitGroup
	stop     chan struct{} // ends the watchdog
}

// NewServer returns a server without listeners. Shutdown ends it.
func NewServer(g *gateway.Gateway, o Options) *Server {
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = DefaultStallTimeout
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		gateway:   g,
		opts:      o,
		log:       o.Logger,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
		stop:      make(chan struct{}),
	}
	s.clock.Store(1)
	s.watchdog.Go(s.watch)
	return s
}

// Serve accepts connections until Shutdown, then returns nil, or until the
// listener fails.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.drained {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	return stream.Accept(l, s.isStopping, s.log, s.start)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drained
}

// start serves a new connection, or turns it away when there are too many.
func (s *Server) start(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained || len(s.conns) >= s.opts.MaxConnections {
		_ = nc.Close()
		if now := time.Now(); !s.drained && now.Sub(s.refused) > time.Second {
			s.refused = now
			s.log.Warn("connection refused: too many", "limit", s.opts.MaxConnections, "remote", nc.RemoteAddr())
		}
		return
	}
	s.clients.Add(1)
	s.serveLocked(newConn(s, nc), s.clients.Done)
}

// serveLocked runs a connection on a goroutine of its own.
func (s *Server) serveLocked(c *conn, ended func()) {
	s.conns[c] = struct{}{}
	s.serving.Go(func() {
		defer ended()
		c.run()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
}

// watch keeps the clock and ends connections that stall.
func (s *Server) watch() {
	tick := min(max(s.opts.StallTimeout/8, time.Millisecond), time.Second)
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
				c.checkStall(clock - int64(s.opts.StallTimeout))
			}
			s.mu.Unlock()
		}
	}
}

// Shutdown stops accepting and reading, lets every connection finish and answer
// what it has read, and closes it. When ctx ends first, connections are cut;
// requests that are in the volume's queues are still waited for, since they use
// the connections' buffers: closing the gateway ends those that wait for the MDS
// or a throttle.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.stopping
	s.stopping = true
	s.drainLocked(all)
	s.mu.Unlock()

	idle := whenIdle(&s.serving)
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
		s.abort(all)
		<-idle
	}
	if first {
		close(s.stop)
		s.watchdog.Wait()
	}
	return err
}

// ShutdownClients is Shutdown for all but attached connections, which are served on;
// more can be attached. When ctx ends first it does not wait for requests that are in
// the volume's queues: Shutdown does.
func (s *Server) ShutdownClients(ctx context.Context) error {
	s.mu.Lock()
	s.drainLocked((*conn).isClient)
	s.mu.Unlock()
	select {
	case <-whenIdle(&s.clients):
		return nil
	case <-ctx.Done():
		s.abort((*conn).isClient)
		return ctx.Err()
	}
}

func all(*conn) bool { return true }

func (s *Server) drainLocked(which func(*conn) bool) {
	s.drained = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		if which(c) {
			c.drain()
		}
	}
}

func (s *Server) abort(which func(*conn) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if which(c) {
			c.abort("shutdown took too long")
		}
	}
}

func whenIdle(serving *sync.WaitGroup) <-chan struct{} {
	idle := make(chan struct{})
	go func() {
		serving.Wait()
		close(idle)
	}()
	return idle
}
