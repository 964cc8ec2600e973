package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// errBroken ends a link that was there.
var errBroken = errors.New("the connection broke")

// link is one connection to a chunkserver, from its dialling to its end.
type link struct {
	s       *server
	address string
	raw     net.Conn
	conn    *grpc.ClientConn
	streams []grpc.ClientStream
	welcome pb.Welcome
	// life ends the streams.
	life context.Context
	end  context.CancelFunc
	// broken is done once, by whoever notices first.
	broken sync.Once
	why    error
}

// open makes the streams on raw and shakes hands on each, within limit. They live
// as long as life.
func (k *link) open(limit, life context.Context, raw net.Conn) error {
	k.raw = raw
	k.life, k.end = context.WithCancel(life)
	stop := context.AfterFunc(limit, k.end)
	conn, err := grpc.NewClient("passthrough:///"+k.address, clientOptions(raw)...)
	if err != nil {
		return fmt.Errorf("%s: %w", k.address, err)
	}
	k.conn = conn
	for range k.s.lanes {
		if err := k.openStream(); err != nil {
			if limit.Err() != nil {
				err = fmt.Errorf("no answer within %v: %w", k.s.c.opts.ConnectTimeout, err)
			}
			return fmt.Errorf("%s: %w", k.address, err)
		}
	}
	if !stop() {
		return fmt.Errorf("%s: no answer within %v", k.address, k.s.c.opts.ConnectTimeout)
	}
	return nil
}

func (k *link) openStream() error {
	stream, err := pb.OpenIO(k.life, k.conn)
	if err != nil {
		return err
	}
	hello := pb.AppendHello(nil, pb.Hello{Version: pb.Version, Cluster: k.s.c.opts.Cluster, Client: k.s.c.opts.Client})
	out := pb.FrameOf(&hello)
	if err := stream.SendMsg(&out); err != nil {
		// What SendMsg returns is EOF; the reason comes with RecvMsg.
		out.Free()
	}
	var in pb.Frame
	defer in.Free()
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	b, err := bytesOf(&in)
	if err != nil {
		return err
	}
	w, err := pb.ReadWelcome(b)
	if err != nil {
		return err
	}
	if w.Server != k.s.id {
		return fmt.Errorf("%w: %v answers where %v should be", backend.ErrNotFound, w.Server, k.s.id)
	}
	k.welcome = w
	k.streams = append(k.streams, stream)
	return nil
}

// maxControlFrame bounds the frames that are not replies, in bytes.
const maxControlFrame = 16*pb.MaxRoutes + 64

// bytesOf returns all bytes of a frame that is not a reply.
func bytesOf(f *pb.Frame) ([]byte, error) {
	n := f.Len()
	if n > maxControlFrame {
		return nil, fmt.Errorf("%w: frame of %d bytes, at most %d where it is not a reply", backend.ErrInvalid, n, maxControlFrame)
	}
	if b, ok := f.Whole(0); ok {
		return b, nil
	}
	b := make([]byte, n)
	f.CopyTo(b, 0)
	return b, nil
}

// serve puts the link to use until it breaks, and returns when all of its goroutines
// have ended.
func (k *link) serve(ctx context.Context) error {
	s := k.s
	s.mu.Lock()
	s.conn = k.conn
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	for i, l := range s.lanes {
		l.up(k.streams[i])
	}
	s.c.routes.told(s.id, k.welcome.Routes)

	var running sync.WaitGroup
	for i, l := range s.lanes {
		running.Go(func() { l.send(k.life) })
		running.Go(func() { k.snap(k.receive(l, k.streams[i])) })
	}
	running.Wait()
	k.close()
	return k.why
}

// snap ends the link: the operations in flight complete now, whatever else the
// goroutines have to do.
func (k *link) snap(err error) {
	k.broken.Do(func() {
		k.why = err
		k.end()
		// With the connection closed nobody waits in SendMsg.
		k.raw.Close()
		k.s.lost(errBroken)
	})
}

// close releases what open took; safe after a part of open.
func (k *link) close() {
	k.end()
	if k.conn != nil {
		k.conn.Close()
	}
	k.raw.Close()
}

// receive is the receiver's loop for one stream; it returns why the stream ended.
func (k *link) receive(l *lane, stream grpc.ClientStream) error {
	var f pb.Frame
	defer f.Free()
	var scratch [pb.ReplySize]byte
	for {
		if err := stream.RecvMsg(&f); err != nil {
			return err
		}
		head := f.Head(scratch[:])
		if len(head) == 0 {
			return fmt.Errorf("%w: empty frame", backend.ErrInvalid)
		}
		var err error
		if pb.Type(head[0]) == pb.TypeReply {
			err = k.reply(l, head, &f)
		} else {
			err = k.news(&f)
		}
		if err != nil {
			return err
		}
	}
}

func (k *link) news(f *pb.Frame) error {
	b, err := bytesOf(f)
	if err != nil {
		return err
	}
	routes, err := pb.ReadRoute(b)
	if err != nil {
		return err
	}
	k.s.c.routes.told(k.s.id, routes)
	return nil
}

// reply completes the operation that a REPLY answers.
func (k *link) reply(l *lane, head []byte, f *pb.Frame) error {
	r, err := pb.ReadReply(head, f.Len())
	if err != nil {
		return err
	}
	op, err := l.claim(r.Request)
	if err != nil || op == nil {
		return err
	}
	switch {
	case r.Status == pb.StatusOK:
		err = fill(op, r, f)
	case r.Status == pb.StatusNotLeader:
		err = &backend.NotLeaderError{Copyset: op.Chunk.Copyset, Leader: r.Leader, Term: r.Term}
	default:
		text := make([]byte, r.Length)
		f.CopyTo(text, pb.ReplySize)
		err = r.Status.Err(string(text))
	}
	complete(op, err)
	return nil
}

// fill gives a successful read its data.
func fill(op *backend.Op, r pb.Reply, f *pb.Frame) error {
	want := 0
	if op.Kind == backend.OpRead && !r.Hole {
		want = len(op.Data)
	}
	if r.Length != want || r.Hole && op.Kind != backend.OpRead {
		return fmt.Errorf("%w: %v answered %d bytes to a %v of %d", backend.ErrIO, op.Server, r.Length, op.Kind, op.Len)
	}
	if op.Kind != backend.OpRead {
		return nil
	}
	if op.Hole = r.Hole; op.Hole {
		clear(op.Data)
		return nil
	}
	f.CopyTo(op.Data, pb.ReplySize)
	return nil
}
