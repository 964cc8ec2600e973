package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// A server that cannot be reached is tried again after minBackoff, then after
	// twice as long each time, up to maxBackoff; as soon as somebody asks for it
	// again, but not more often than every minBackoff.
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
	// wantedFor is how long after its last use a lost server is tried again.
	wantedFor = time.Minute

	// Flow-control windows, in bytes: so large that only a server that does not read
	// at all holds up its own stream.
	streamWindow = 16 << 20
	connWindow   = 32 << 20

	// A connection on which nothing was heard for keepaliveAfter is asked for a sign
	// of life. A fallback: what hangs is noticed by the volume long before.
	keepaliveAfter   = 10 * time.Second
	keepaliveTimeout = 3 * time.Second

	// resolveTimeout bounds asking for an address; the last known one serves
	// meanwhile.
	resolveTimeout = time.Second
)

// server is the connection to one chunkserver: dialled, kept and dialled again by
// run, which owns every goroutine of it.
type server struct {
	c     *Chunks
	id    backend.ServerID
	lanes []*lane

	// kick has a token when somebody wants the server.
	kick chan struct{}
	// lastUse is when it was last wanted while it was down, in Unix nanoseconds.
	lastUse   atomic.Int64
	lookingUp atomic.Bool

	// mu guards the fields below.
	mu sync.Mutex
	// conn is the connection that unary calls may use, nil while there is none.
	conn *grpc.ClientConn
	// changed is closed and replaced when an attempt to connect has ended.
	changed chan struct{}
	address string
}

func newServer(c *Chunks, id backend.ServerID) *server {
	s := &server{c: c, id: id, kick: make(chan struct{}, 1), changed: make(chan struct{})}
	for range c.opts.Streams {
		s.lanes = append(s.lanes, newLane(s))
	}
	s.wanted()
	return s
}

func (s *server) lane(copyset backend.CopysetID) *lane {
	return s.lanes[int(uint32(copyset)%uint32(len(s.lanes)))]
}

// wanted has a server that is down tried again now.
func (s *server) wanted() {
	s.lastUse.Store(time.Now().UnixNano())
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run keeps the server connected while it is wanted, until Close.
func (s *server) run() {
	ctx := s.c.life
	backoff := minBackoff
	for ctx.Err() == nil {
		begin := time.Now()
		for _, l := range s.lanes {
			l.dialling()
		}
		link, err := s.connect(ctx)
		if err == nil {
			backoff = minBackoff
			s.c.log.Debug("chunkserver connected", "server", s.id, "address", link.address)
			err = link.serve(ctx)
			s.lastUse.Store(time.Now().UnixNano())
			if ctx.Err() == nil {
				s.c.log.Info("connection to chunkserver lost", "server", s.id, "address", link.address, "err", err)
			}
		} else {
			s.lost(err)
		}
		s.await(ctx, begin, backoff)
		backoff = min(2*backoff, maxBackoff)
	}
	s.lost(errClosed)
}

// lost completes what is in flight, and tells the watchers.
func (s *server) lost(err error) {
	s.mu.Lock()
	s.conn = nil
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if s.c.life.Err() == nil {
		s.c.routes.lost(s.id)
	}
	why := errLostUnsent
	if !errors.Is(err, errBroken) {
		why = fmt.Errorf("%w: %v: %w", backend.ErrUnreachable, s.id, err)
	}
	for _, l := range s.lanes {
		l.down(why)
	}
}

// await waits until the next attempt to connect, the last of which began at begin.
func (s *server) await(ctx context.Context, begin time.Time, backoff time.Duration) {
	timer := time.NewTimer(time.Until(begin.Add(minBackoff)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	var again <-chan time.Time
	if time.Since(time.Unix(0, s.lastUse.Load())) < wantedFor {
		timer.Reset(max(0, time.Until(begin.Add(backoff))))
		again = timer.C
	}
	select {
	case <-ctx.Done():
	case <-again:
	case <-s.kick:
	}
}

// resolve returns the server's address: the last known one at once, or else what the
// resolver says.
func (s *server) resolve(ctx context.Context) (string, error) {
	s.mu.Lock()
	address := s.address
	s.mu.Unlock()
	if address != "" {
		return address, nil
	}
	return s.lookUp(ctx)
}

func (s *server) lookUp(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	info, err := s.c.where.Server(ctx, s.id)
	if err != nil {
		return "", fmt.Errorf("its address is not known: %w", err)
	}
	if info.Address == "" {
		return "", fmt.Errorf("%w: %v has no address", backend.ErrNotFound, s.id)
	}
	s.mu.Lock()
	s.address = info.Address
	s.mu.Unlock()
	return info.Address, nil
}

// lookUpAgain asks for the address anew, because it may have changed. Meanwhile the
// last known one is tried on: the resolver may be down itself.
func (s *server) lookUpAgain(ctx context.Context) {
	if s.lookingUp.Swap(true) {
		return
	}
	if f, ok := s.c.where.(interface{ ForgetServer(backend.ServerID) }); ok {
		f.ForgetServer(s.id)
	}
	s.c.running.Go(func() {
		defer s.lookingUp.Store(false)
		if _, err := s.lookUp(ctx); err != nil {
			s.c.log.Debug("address of chunkserver", "server", s.id, "err", err)
		}
	})
}

// connect dials the server and opens its streams.
func (s *server) connect(ctx context.Context) (*link, error) {
	address, err := s.resolve(ctx)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, s.c.opts.ConnectTimeout)
	defer cancel()
	// Dialled here rather than by gRPC, so that a refusal is known at once.
	raw, err := s.c.opts.Dial(limit, address)
	if err != nil {
		s.lookUpAgain(ctx)
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	k := &link{s: s, address: address}
	if err := k.open(limit, ctx, raw); err != nil {
		s.lookUpAgain(ctx)
		k.close()
		return nil, err
	}
	return k, nil
}

// clientOptions are gRPC's for a connection that is there already and never made
// again.
func clientOptions(raw net.Conn) []grpc.DialOption {
	var taken atomic.Bool
	return []grpc.DialOption{
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errBroken
			}
			return raw, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveAfter, Timeout: keepaliveTimeout}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(pb.MaxFrame), grpc.MaxCallSendMsgSize(pb.MaxFrame)),
		experimental.WithBufferPool(pb.Pool),
	}
}
