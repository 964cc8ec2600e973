package chunkserver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// holder is a replica's script that keeps operations.
type holder struct {
	mu   sync.Mutex
	held []*backend.Op
	came chan struct{}
}

func hold(r *scripted) *holder {
	h := &holder{came: make(chan struct{}, 1<<14)}
	r.script(func(r *scripted) {
		r.onSubmit = func(op *backend.Op) {
			h.mu.Lock()
			h.held = append(h.held, op)
			h.mu.Unlock()
			h.came <- struct{}{}
		}
	})
	return h
}

func (h *holder) await(t testing.TB, n int) {
	t.Helper()
	for range n {
		select {
		case <-h.came:
		case <-time.After(patience):
			t.Fatal("an operation does not reach the replica")
		}
	}
}

func (h *holder) release() {
	h.mu.Lock()
	held := h.held
	h.held = nil
	h.mu.Unlock()
	for _, op := range held {
		op.Err = nil
		op.Done.OpDone(op)
	}
}

func TestKilledServerIsNoticedAtOnce(t *testing.T) {
	s, r := serveMemory(t)
	h := hold(r)
	c := dialChunks(t, bookOf(s), remote.Options{})
	w := newWatcher()
	c.Watch(w)
	var waits []completion
	for i := range 20 {
		waits = append(waits, start(c, newOp([]backend.OpKind{backend.OpRead, backend.OpWrite}[i%2], 0, 4096)))
	}
	h.await(t, 20)
	begin := time.Now()
	s.stop()
	for _, wait := range waits {
		if err := wait.wait(t); !errors.Is(err, backend.ErrOutcomeUnknown) {
			t.Errorf("an operation in flight: %v", err)
		}
	}
	took := time.Since(begin)
	w.await(t, "the loss of the server", func(w *watcher) bool { return w.lost[1] > 0 })
	// It is down: the next one is refused, and again without waiting for a time-out.
	begin = time.Now()
	if err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("an operation for a dead server: %v", err)
	}
	t.Logf("in flight ended after %v, refused after %v", took, time.Since(begin))
	if limit := 2 * time.Second; took > limit || time.Since(begin) > limit {
		t.Errorf("in flight ended after %v, refused after %v: that is waiting, not noticing", took, time.Since(begin))
	}
	h.release()
}

func TestClientFindsAServerThatCameBack(t *testing.T) {
	s, _ := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{})
	w := newWatcher()
	c.Watch(w)
	if err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t); err != nil {
		t.Fatal(err)
	}
	s.stop()
	w.await(t, "the loss of the server", func(w *watcher) bool { return w.lost[1] > 0 })
	again := serveIO(t, 1, s.address)
	again.replicas.set(0, &scripted{chunks: memory.New()})
	again.news.leaderChanged(0, 1, 7)
	w.await(t, "news of the server that came back", func(w *watcher) bool { return w.routes[0].Term == 7 })
	if err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t); err != nil {
		t.Error(err)
	}
}

// The address of a server that moved is found though the old one is refused.
func TestClientFollowsAServerThatMoved(t *testing.T) {
	s, _ := serveMemory(t)
	book := bookOf(s)
	c := dialChunks(t, book, remote.Options{})
	w := newWatcher()
	c.Watch(w)
	c.Ask(1, 0)
	w.await(t, "a welcome", func(w *watcher) bool { return w.routes[0].Term == 1 })
	s.stop()
	moved := serveIO(t, 1, "")
	moved.news.leaderChanged(0, 1, 8)
	book.mu.Lock()
	book.servers[1] = moved.address
	book.mu.Unlock()
	w.await(t, "news from the new address", func(w *watcher) bool { return w.routes[0].Term == 8 })
}

func TestWrongServerIsNotTalkedTo(t *testing.T) {
	s, r := serveMemory(t)
	r.onSubmit = func(op *backend.Op) { t.Error("an operation for another server reached this one"); op.Done.OpDone(op) }
	book := bookOf(s)
	book.servers[2] = s.address
	c := dialChunks(t, book, remote.Options{})
	op := newOp(backend.OpWrite, 0, 4096)
	op.Server = 2
	if err := start(c, op).wait(t); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestAnotherClustersServerIsRefused(t *testing.T) {
	s, _ := serveMemory(t)
	s.cluster = "ours"
	for cluster, want := range map[string]error{"": nil, "ours": nil, "theirs": backend.ErrUnreachable} {
		c := dialChunks(t, bookOf(s), remote.Options{Cluster: cluster})
		if err := start(c, newOp(backend.OpTrim, 0, 4096)).wait(t); !errors.Is(err, want) {
			t.Errorf("client of cluster %q: got %v, want %v", cluster, err, want)
		}
	}
}

func TestServerThatAcceptsAndSaysNothingIsGivenUp(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close() // connections wait in its backlog: nobody accepts them
	book := &addressBook{servers: map[backend.ServerID]string{1: lis.Addr().String()}}
	c := dialChunks(t, book, remote.Options{ConnectTimeout: 50 * time.Millisecond})
	w := newWatcher()
	c.Watch(w)
	if err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
	w.await(t, "the loss of the server", func(w *watcher) bool { return w.lost[1] > 0 })
}

func TestSubmitDoesNotWaitForAServerThatHangs(t *testing.T) {
	s, r := serveMemory(t)
	h := hold(r)
	c := dialChunks(t, bookOf(s), remote.Options{MaxOps: 64, MaxBytes: 1 << 20, CloseTimeout: time.Millisecond})
	var waits []completion
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			waits = append(waits, start(c, newOp(backend.OpWrite, 0, 64<<10)))
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Submit waits")
	}
	refused := 0
	for _, w := range waits {
		select {
		case op := <-w:
			if refused++; !errors.Is(op.Err, backend.ErrOverload) {
				t.Fatalf("beyond the queue: %v", op.Err)
			}
		default:
		}
	}
	if refused < 200-64 {
		t.Errorf("%d of 200 were refused, with room for 64", refused)
	}
	h.await(t, 1)
	c.Close() // the rest completes, without an answer
	unknown := 0
	for _, w := range waits {
		select {
		case op := <-w:
			if errors.Is(op.Err, backend.ErrOutcomeUnknown) || errors.Is(op.Err, backend.ErrUnreachable) {
				unknown++
			}
		default:
		}
	}
	if unknown+refused != 200 {
		t.Errorf("%d refused, %d unknown of 200", refused, unknown)
	}
	h.release()
}

func TestCancelledOperationLeavesItsBufferAlone(t *testing.T) {
	s, r := serveMemory(t)
	c := dialChunks(t, bookOf(s), remote.Options{})
	if err := start(c, newOp(backend.OpWrite, 0, 64<<10)).wait(t); err != nil {
		t.Fatal(err)
	}
	h := hold(r)
	read := newOp(backend.OpRead, 0, 64<<10)
	clear(read.Data)
	wait := start(c, read)
	h.await(t, 1)
	c.Cancel(read)
	if err := wait.wait(t); !errors.Is(err, backend.ErrOutcomeUnknown) {
		t.Fatalf("got %v", err)
	}
	c.Cancel(read) // no longer there: nothing happens
	// The replica answers the cancelled read with data. Replies on a stream come in
	// order, so when the next operation is answered it has been dealt with.
	for _, op := range h.held {
		for i := range op.Data {
			op.Data[i] = 0xEE
		}
	}
	h.release()
	r.script(func(r *scripted) { r.onSubmit = nil })
	if err := start(c, newOp(backend.OpTrim, 1<<20, 4096)).wait(t); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read.Data, make([]byte, 64<<10)) {
		t.Error("the buffer was written to after the operation had been cancelled")
	}
}

// Operations that were cancelled before they were sent take no room and are not sent.
func TestCancelledInTheQueueIsNotSent(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	book := &addressBook{servers: map[backend.ServerID]string{1: lis.Addr().String()}}
	c := dialChunks(t, book, remote.Options{MaxOps: 8, ConnectTimeout: patience})
	for range 100 { // many times what there is room for
		op := newOp(backend.OpWrite, 0, 4096)
		wait := start(c, op)
		c.Cancel(op)
		if err := wait.wait(t); !errors.Is(err, backend.ErrOutcomeUnknown) {
			t.Fatalf("got %v", err)
		}
	}
	last := newOp(backend.OpWrite, 0, 4096)
	last.Seq = 101
	wait := start(c, last)
	// Now the server comes to life behind the same listener.
	s := &ioServer{ioService: newIOService(1), served: make(chan struct{})}
	var seqs []uint64
	s.replicas.set(0, &scripted{onSubmit: func(op *backend.Op) {
		seqs = append(seqs, op.Seq)
		op.Err = nil
		op.Done.OpDone(op)
	}})
	s.serve(t, lis)
	if err := wait.wait(t); err != nil {
		t.Fatal(err)
	}
	if len(seqs) != 1 || seqs[0] != 101 {
		t.Errorf("sent were %v", seqs)
	}
}

func TestServerRefusesBeyondItsLimits(t *testing.T) {
	s, r := serveMemory(t)
	s.admission.maxOps, s.admission.maxBytes = 4, 10<<10
	h := hold(r)
	c := dialChunks(t, bookOf(s), remote.Options{})
	waits := []completion{start(c, newOp(backend.OpWrite, 0, 64<<10))} // alone: as large as it likes
	h.await(t, 1)
	if err := start(c, newOp(backend.OpRead, 0, 512)).wait(t); !errors.Is(err, backend.ErrOverload) {
		t.Errorf("beyond the bytes: %v", err)
	}
	for range 3 {
		waits = append(waits, start(c, newOp(backend.OpTrim, 0, 512)))
	}
	h.await(t, 3)
	if err := start(c, newOp(backend.OpTrim, 0, 512)).wait(t); !errors.Is(err, backend.ErrOverload) {
		t.Errorf("beyond the operations: %v", err)
	}
	h.release()
	for _, w := range waits {
		if err := w.wait(t); err != nil {
			t.Error(err)
		}
	}
	if ops, b := s.admission.ops.Load(), s.admission.bytes.Load(); ops != 0 || b != 0 {
		t.Errorf("%d operations and %d bytes are still taken", ops, b)
	}
}

// rawStream speaks frames by hand.
type rawStream struct {
	t      testing.TB
	conn   *grpc.ClientConn
	stream grpc.ClientStream
}

func dialRaw(t testing.TB, address string) *rawStream {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := pb.OpenIO(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	return &rawStream{t: t, conn: conn, stream: stream}
}

func (r *rawStream) send(b []byte) error {
	f := pb.FrameOf(&b)
	return r.stream.SendMsg(&f)
}

func (r *rawStream) receive() ([]byte, error) {
	var f pb.Frame
	if err := r.stream.RecvMsg(&f); err != nil {
		return nil, err
	}
	defer f.Free()
	b := make([]byte, f.Len())
	f.CopyTo(b, 0)
	return b, nil
}

func (r *rawStream) hello() {
	r.t.Helper()
	r.send(pb.AppendHello(nil, pb.Hello{Version: pb.Version, Client: "raw"}))
	if b, err := r.receive(); err != nil {
		r.t.Fatal(err)
	} else if _, err := pb.ReadWelcome(b); err != nil {
		r.t.Fatal(err)
	}
}

func TestBrokenProtocolEndsTheStreamAndNothingElse(t *testing.T) {
	s, _ := serveMemory(t)
	op := newOp(backend.OpWrite, 0, 4096)
	frame := make([]byte, pb.OpSize)
	pb.PutOp(frame, op)
	bad := func(at int, to byte) []byte {
		b := append(bytes.Clone(frame), op.Data...)
		b[at] = to
		return b
	}
	for _, tc := range []struct {
		name  string
		hello bool
		frame []byte
		want  codes.Code
	}{
		{"another version", false, pb.AppendHello(nil, pb.Hello{Version: 99}), codes.Unimplemented},
		{"no hello", false, pb.AppendAsk(nil, 1), codes.InvalidArgument},
		{"an empty frame", true, nil, codes.InvalidArgument},
		{"an unknown type", true, []byte{77, 0, 0, 0}, codes.InvalidArgument},
		{"a server's frame", true, pb.AppendRoute(nil, nil), codes.InvalidArgument},
		{"an operation without its payload", true, frame, codes.InvalidArgument},
		{"a reserved byte", true, bad(3, 1), codes.InvalidArgument},
		{"a cancel that is too long", true, append(pb.AppendCancel(nil, 1), make([]byte, 100)...), codes.InvalidArgument},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw := dialRaw(t, s.address)
			if tc.hello {
				raw.hello()
			}
			raw.send(tc.frame)
			if _, err := raw.receive(); status.Code(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	// A range that is wrong is the operation's fault, not the stream's.
	raw := dialRaw(t, s.address)
	raw.hello()
	raw.send(bad(68, 1)) // offset 1
	b, err := raw.receive()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := pb.ReadReply(b, len(b)); err != nil || r.Status != pb.StatusInvalid {
		t.Errorf("got %+v, %v", r, err)
	}
	c := dialChunks(t, bookOf(s), remote.Options{})
	if err := start(c, newOp(backend.OpWrite, 0, 4096)).wait(t); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestClientThatTakesNoRepliesHoldsUpOnlyItself(t *testing.T) {
	s, _ := serveMemory(t)
	good := dialChunks(t, bookOf(s), remote.Options{})
	if err := start(good, newOp(backend.OpWrite, 0, 1<<20)).wait(t); err != nil {
		t.Fatal(err)
	}
	raw := dialRaw(t, s.address)
	raw.hello()
	frame := make([]byte, pb.OpSize)
	pb.PutOp(frame, newOp(backend.OpRead, 0, 1<<20))
	sent := make(chan int, 1)
	go func() {
		n := 0
		for range 2000 { // 2 GB of replies; the windows hold some of the requests
			pb.SetRequest(frame, uint64(n))
			if raw.send(bytes.Clone(frame)) != nil {
				break
			}
			n++
		}
		sent <- n
	}()
	<-sent
	for range 50 {
		if err := start(good, newOp(backend.OpRead, 0, 64<<10)).wait(t); err != nil {
			t.Fatalf("the other client: %v", err)
		}
	}
	if n := s.admission.bytes.Load(); n != 0 {
		t.Errorf("the replies that nobody takes hold %d bytes of the server's limit", n)
	}
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	for st := range s.news.streams {
		st.mu.Lock()
		if limit := int64(unsentBytes + 2<<20); st.unsent > limit {
			t.Errorf("%d bytes wait for a client that takes nothing, more than %d", st.unsent, limit)
		}
		st.mu.Unlock()
	}
}

func TestHealthAndReflectionAnswer(t *testing.T) {
	s, _ := serveMemory(t)
	raw := dialRaw(t, s.address)
	h, err := grpc_health_v1.NewHealthClient(raw.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	stream, err := grpc_reflection_v1.NewServerReflectionClient(raw.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, service := range got.GetListServicesResponse().GetService() {
		found = found || service.GetName() == pb.Chunk_ServiceDesc.ServiceName
	}
	if !found {
		t.Errorf("services: %v", got)
	}
}
