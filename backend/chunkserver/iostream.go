package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// Limits of one stream.
const (
	// unsentReplies and unsentBytes are how much may wait for the client to take it
	// before nothing more is read from it: who does not read replies holds up only
	// itself.
	unsentReplies = 4096
	unsentBytes   = 16 << 20
	// maxTell bounds the copysets whose news wait on a stream.
	maxTell = pb.MaxRoutes
	// helloTimeout bounds the handshake.
	helloTimeout = 5 * time.Second
)

// ioService serves block IO: the frames' streams of all clients.
type ioService struct {
	self        backend.ServerID
	incarnation uint64
	cluster     string
	maxStreams  int64
	replicas    *replicaSet
	news        *news
	admission   *admission
	log         *slog.Logger

	streams atomic.Int64
	// senders are the streams' senders; they outlive the handler that gRPC waits
	// for by a moment.
	senders sync.WaitGroup
	// requests are those not complete yet.
	requests sync.WaitGroup
}

// ioStream is one client's stream.
//
//	receive (gRPC's goroutine) → replica → OpDone (any goroutine) → out → send
//
// A read that Try serves is answered on the receiving goroutine.
type ioStream struct {
	*ioService
	stream grpc.ServerStream
	client string

	// mu guards the fields below.
	mu sync.Mutex
	// out are replies that wait, and unsent their bytes.
	out    []*request
	unsent int64
	// under is the list of requests under way, for cancelling.
	under request
	// toTell are copysets whose route is news to the client.
	toTell map[backend.CopysetID]struct{}
	// sending: somebody is in stream.SendMsg.
	sending bool
	ended   bool

	// wake has a token when the sender should look, room when replies were sent.
	wake, room chan struct{}
}

// ServeIO implements pb.IOServer.
func (s *ioService) ServeIO(stream grpc.ServerStream) error {
	if n := s.streams.Add(1); n > s.maxStreams {
		s.streams.Add(-1)
		return pb.ToStatus(fmt.Errorf("%w: %d streams of clients are open, the limit", backend.ErrOverload, s.maxStreams))
	}
	defer s.streams.Add(-1)
	st := &ioStream{
		ioService: s, stream: stream, toTell: make(map[backend.CopysetID]struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	st.under.prev, st.under.next = &st.under, &st.under
	return pb.ToStatus(st.serve())
}

func (st *ioStream) serve() error {
	if err := st.shakeHands(); err != nil {
		return err
	}
	defer st.news.leave(st)
	defer st.end()
	// The client going away ends the sender's SendMsg, and so does this function's
	// return.
	ctx, cancel := context.WithCancel(st.stream.Context())
	defer cancel()
	st.senders.Go(func() { st.send(ctx) })
	err := st.receive(ctx)
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil // the client ended the stream, nothing is wrong
	}
	st.log.Warn("stream of client ended", "client", st.client, "err", err)
	return err
}

// shakeHands takes HELLO and answers WELCOME. News that come from then on are sent
// after it.
func (st *ioStream) shakeHands() error {
	var f pb.Frame
	defer f.Free()
	if err := st.recvHello(&f); err != nil {
		return err
	}
	b := make([]byte, min(f.Len(), 1024))
	f.CopyTo(b, 0)
	hello, err := pb.ReadHello(b)
	if err != nil {
		return err
	}
	st.client = hello.Client
	if hello.Cluster != "" && st.cluster != "" && hello.Cluster != st.cluster {
		return fmt.Errorf("%w: this is cluster %q, the client means %q", backend.ErrInvalid, st.cluster, hello.Cluster)
	}
	routes := st.news.join(st)
	welcome := pb.AppendWelcome(nil, pb.Welcome{Version: pb.Version, Server: st.self, Incarnation: st.incarnation, Routes: routes})
	out := pb.FrameOf(&welcome)
	if err := st.stream.SendMsg(&out); err != nil {
		st.news.leave(st)
		return err
	}
	return nil
}

// recvHello is RecvMsg with a time limit. On a time-out the reader is left behind
// until the stream ends, which the caller's return brings about.
func (st *ioStream) recvHello(f *pb.Frame) error {
	var first pb.Frame
	got := make(chan error, 1)
	st.senders.Go(func() { got <- st.stream.RecvMsg(&first) })
	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	select {
	case err := <-got:
		*f = first
		return err
	case <-timer.C:
		return fmt.Errorf("%w: no HELLO within %v", backend.ErrInvalid, helloTimeout)
	}
}

// receive is the receiver's loop.
func (st *ioStream) receive(ctx context.Context) error {
	var f pb.Frame
	defer f.Free()
	var scratch [pb.OpSize]byte
	for {
		if err := st.awaitRoom(ctx); err != nil {
			return err
		}
		if err := st.stream.RecvMsg(&f); err != nil {
			return err
		}
		head := f.Head(scratch[:])
		if len(head) == 0 {
			return fmt.Errorf("%w: empty frame", backend.ErrInvalid)
		}
		var err error
		switch t := pb.Type(head[0]); t {
		case pb.TypeOp:
			err = st.operate(head, &f)
		case pb.TypeAsk:
			var id backend.CopysetID
			if id, err = pb.ReadAsk(wholeHead(head, &f)); err == nil {
				st.tell(id)
			}
		case pb.TypeCancel:
			var id uint64
			if id, err = pb.ReadCancel(wholeHead(head, &f)); err == nil {
				st.cancel(id)
			}
		default:
			err = fmt.Errorf("%w: frame of type %d", backend.ErrInvalid, t)
		}
		if err != nil {
			return err
		}
	}
}

// wholeHead is the head of a frame that should be no longer than it; nil when it is.
func wholeHead(head []byte, f *pb.Frame) []byte {
	if f.Len() > len(head) {
		return nil
	}
	return head
}

// awaitRoom waits while too many replies wait to be sent.
func (st *ioStream) awaitRoom(ctx context.Context) error {
	for {
		st.mu.Lock()
		full := len(st.out) > unsentReplies || st.unsent > unsentBytes
		st.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-st.room:
		}
	}
}

// tell has the client told who leads a copyset.
func (st *ioStream) tell(id backend.CopysetID) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.toTell) < maxTell {
		st.toTell[id] = struct{}{}
	}
	st.pokeLocked()
}

func (st *ioStream) pokeLocked() {
	if st.sending {
		return // whoever sends looks again
	}
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// send is the sender's loop.
func (st *ioStream) send(ctx context.Context) {
	var replies []*request
	var routes []pb.Route
	for {
		select {
		case <-ctx.Done():
			return
		case <-st.wake:
		}
		st.mu.Lock()
		for !st.sending && !st.ended && (len(st.out) > 0 || len(st.toTell) > 0) {
			st.sending = true
			replies, st.out = st.out, replies[:0]
			var tell map[backend.CopysetID]struct{}
			if len(st.toTell) > 0 {
				tell, st.toTell = st.toTell, make(map[backend.CopysetID]struct{})
			}
			st.mu.Unlock()
			// News first: they make the client resend what is refused here.
			if len(tell) > 0 {
				routes = st.sendRoutes(st.news.of(tell, routes[:0]))
			}
			st.sendReplies(replies)
			st.mu.Lock()
			st.sending = false
		}
		st.mu.Unlock()
	}
}

func (st *ioStream) sendRoutes(routes []pb.Route) []pb.Route {
	b := pb.AppendRoute(nil, routes)
	f := pb.FrameOf(&b)
	_ = st.stream.SendMsg(&f) // an error ends the stream, which receive notices
	return routes
}

func (st *ioStream) sendReplies(replies []*request) {
	var f pb.Frame
	for i, r := range replies {
		n := r.sendReply(&f)
		replies[i] = nil
		st.mu.Lock()
		st.unsent -= n
		st.mu.Unlock()
	}
	select {
	case st.room <- struct{}{}:
	default:
	}
}

// end drops what waits; requests still under way are dropped when they complete.
func (st *ioStream) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ended = true
	for _, r := range st.out {
		r.recycle()
	}
	st.out = nil
}
