package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// maxMetaAnswer bounds what the MDS may make a client allocate: its largest
	// pages stay below half of it.
	maxMetaAnswer = 16 << 20
	// metaRetryFor bounds how long a call is sent again, whatever its caller's
	// patience: the MDS remembers request ids for 15 minutes.
	metaRetryFor = 10 * time.Minute
	// metaBackoff is between two rounds of all addresses, doubled up to the second.
	metaBackoff, metaBackoffMax = 50 * time.Millisecond, time.Second
	// staleWait is how long a caller waits for news where an old answer would do:
	// IO goes on while the MDS is away.
	staleWait = time.Second
)

// MetaOptions of a Meta. The zero value is good.
type MetaOptions struct {
	// CallTimeout is how long a call is tried whose context has no deadline.
	// Default 10 s.
	CallTimeout time.Duration
	// AttemptTimeout is how long one MDS may take to answer before the next one is
	// asked. Default 3 s.
	AttemptTimeout time.Duration
	// Fresh is how old an answer of Copyset and Server may be that is given from
	// memory. Default 1 s.
	Fresh time.Duration
	// Dialer makes connections, net.Dialer's by default.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
}

// Meta is an MDS on another machine: a backend.Meta and a backend.Topology.
//
// Every call may be sent again while no MDS answers: it is repeatable by nature, or
// carries a request id under which the MDS does it once. A call that never gets an
// answer fails with backend.ErrUnreachable, and may have been done.
type Meta struct {
	opts  MetaOptions
	addrs []string
	conns []*grpc.ClientConn
	// current is the index of the address that answered last.
	current atomic.Int64

	life context.Context // done once Close begins
	end  context.CancelFunc

	copysets *answers[backend.CopysetID, backend.Copyset]
	servers  *answers[struct{}, map[backend.ServerID]backend.ServerInfo]
}

var (
	_ backend.Meta     = (*Meta)(nil)
	_ backend.Topology = (*Meta)(nil)
)

// DialMeta returns a client of the MDS at addrs (HOST:PORT), which are tried in
// turn. It connects when it is first needed. ErrInvalid.
func DialMeta(addrs []string, o MetaOptions) (_ *Meta, err error) {
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%w: no address of an MDS", backend.ErrInvalid)
	}
	o.CallTimeout = positive(o.CallTimeout, 10*time.Second)
	o.AttemptTimeout = positive(o.AttemptTimeout, 3*time.Second)
	o.Fresh = positive(o.Fresh, time.Second)
	if o.Dialer == nil {
		o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	m := &Meta{opts: o, addrs: addrs}
	defer func() {
		if err != nil {
			for _, conn := range m.conns {
				conn.Close()
			}
		}
	}()
	for _, addr := range addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("%w: address %q of an MDS: use HOST:PORT", backend.ErrInvalid, addr)
		}
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(o.Dialer),
			grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMetaAnswer)),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: metaBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: metaBackoffMax},
				MinConnectTimeout: o.AttemptTimeout,
			}),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		)
		if err != nil {
			return nil, fmt.Errorf("%w: address %q of an MDS: %w", backend.ErrInvalid, addr, err)
		}
		m.conns = append(m.conns, conn)
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.copysets = newAnswers(m.life, o.Fresh, m.askCopyset)
	m.servers = newAnswers(m.life, o.Fresh, m.askServers)
	return m, nil
}

func positive(d, byDefault time.Duration) time.Duration {
	if d <= 0 {
		return byDefault
	}
	return d
}

// Close implements backend.Meta. Calls in progress fail with backend.ErrClosed.
func (m *Meta) Close() error {
	m.end()
	m.copysets.wait()
	m.servers.wait()
	var errs []error
	for _, conn := range m.conns {
		if err := conn.Close(); err != nil && status.Code(err) != codes.Canceled { // Canceled: closed before
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// call does one call, at one address after the other, until one of them answers or
// ctx is done.
func (m *Meta) call(ctx context.Context, do func(context.Context, *grpc.ClientConn) error) error {
	patience := metaRetryFor
	if _, ok := ctx.Deadline(); !ok {
		patience = m.opts.CallTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(m.life, cancel)()

	wait := metaBackoff
	var last error // what gRPC could not do, if it was not too slow only
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return m.unanswered(ctx, last)
		}
		at := m.current.Load()
		err := m.attempt(ctx, m.conns[at], do)
		if err == nil || !unansweredBy(err) {
			return pb.FromStatus("MDS at "+m.addrs[at], err)
		}
		if status.Code(err) == codes.Unavailable {
			last = err
		}
		m.current.CompareAndSwap(at, (at+1)%int64(len(m.conns)))
		if attempt%len(m.conns) != 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return m.unanswered(ctx, last)
		case <-time.After(wait/2 + rand.N(wait)):
			wait = min(2*wait, metaBackoffMax)
		}
	}
}

func (m *Meta) attempt(ctx context.Context, conn *grpc.ClientConn, do func(context.Context, *grpc.ClientConn) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.AttemptTimeout)
	defer cancel()
	return do(ctx, conn)
}

// unansweredBy says whether a failed attempt left the call unanswered, so that it
// may be sent again: gRPC failed and not the MDS, or the MDS is just stopping.
func unansweredBy(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	if len(st.Details()) > 0 {
		return errors.Is(pb.FromStatus("", err), backend.ErrClosed)
	}
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

// unanswered is the error of a call that nobody answered before ctx was done.
func (m *Meta) unanswered(ctx context.Context, last error) error {
	switch {
	case m.life.Err() != nil:
		return errMetaClosed
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("call to the MDS: %w", context.Canceled)
	case last == nil:
		return fmt.Errorf("%w: no MDS answered in time (tried %q): %w", backend.ErrUnreachable, m.addrs, context.DeadlineExceeded)
	}
	return fmt.Errorf("%w: no MDS answers (tried %q): is it running? last: %s: %w",
		backend.ErrUnreachable, m.addrs, status.Convert(last).Message(), context.DeadlineExceeded)
}
