package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// patience is how long anything here may take before the test gives up.
const patience = 30 * time.Second

// rawCodec sends strings as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return []byte(*v.(*string)), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*string) = string(data); return nil }
func (rawCodec) Name() string                       { return "raw" }

// recorder is a gRPC server that echoes, and tells what it received.
type recorder struct {
	addr     string
	server   *grpc.Server
	received chan string
	ended    chan error // one for every stream
}

func startRecorder(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: l.Addr().String(), received: make(chan string, 1000), ended: make(chan error, 100)}
	r.server = grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		err := r.echo(stream)
		r.ended <- err
		return err
	}))
	go r.server.Serve(l)
	t.Cleanup(r.server.Stop)
	return r
}

func (r *recorder) echo(stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if err := stream.SetHeader(metadata.Pairs("seen", strings.Join(md["word"], ""))); err != nil {
		return err
	}
	stream.SetTrailer(metadata.Pairs("bye", "now"))
	for {
		var m string
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r.received <- m
		if m == "refuse" {
			return status.Error(codes.FailedPrecondition, "as told")
		}
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
}

func (r *recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-r.received:
			if got != w {
				t.Fatalf("the server received %.20q, want %.20q", got, w)
			}
		case <-time.After(patience):
			t.Fatalf("the server did not receive %.20q", w)
		}
	}
}

func startStreams(t *testing.T, target string) *Streams {
	t.Helper()
	s, err := NewStreams(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func openStream(t *testing.T, addr string) grpc.ClientStream {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "word", "hello"), patience)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/curve.Chunks/IO")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func say(t *testing.T, stream grpc.ClientStream, words ...string) {
	t.Helper()
	for _, w := range words {
		if err := stream.SendMsg(&w); err != nil {
			t.Fatal(err)
		}
	}
}

func hear(t *testing.T, stream grpc.ClientStream, want ...string) {
	t.Helper()
	for _, w := range want {
		var got string
		if err := stream.RecvMsg(&got); err != nil || got != w {
			t.Fatalf("the client received %.20q, %v; want %.20q", got, err, w)
		}
	}
}

func TestStreamsForwardAsTheyAre(t *testing.T) {
	r := startRecorder(t)
	stream := openStream(t, startStreams(t, r.addr).Addr())
	large := strings.Repeat("x", 3<<20)
	say(t, stream, "a", "", large)
	hear(t, stream, "a", "", large)
	if md, err := stream.Header(); err != nil || md["seen"][0] != "hello" {
		t.Errorf("headers %v, %v", md, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var m string
	if err := stream.RecvMsg(&m); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if md := stream.Trailer(); len(md["bye"]) != 1 {
		t.Errorf("trailers %v", md)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("the server's stream ended with %v", err)
	}
}

func TestStreamsForwardARefusal(t *testing.T) {
	r := startRecorder(t)
	stream := openStream(t, startStreams(t, r.addr).Addr())
	say(t, stream, "refuse")
	var m string
	if err := stream.RecvMsg(&m); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "as told") {
		t.Errorf("%v", err)
	}
}

// on makes a hook that does something with the requests of that content.
func on(content string, action Action) func(Message) Action {
	return func(m Message) Action {
		if m.ToServer && string(m.Data) == content {
			return action
		}
		return Pass
	}
}

func TestKeptMessageIsOvertakenAndDeliveredLate(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	s.Intercept(on("b", Keep))
	stream := openStream(t, s.Addr())
	say(t, stream, "a", "b", "c")
	r.expect(t, "a", "c")
	kept := awaitKept(t, s, 1)
	if k := kept[0]; k.Method != "/curve.Chunks/IO" || k.Index != 1 || string(k.Data) != "b" || !k.ToServer {
		t.Errorf("kept %+v", k.Message)
	}
	if err := kept[0].Deliver(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "b")
	hear(t, stream, "a", "c", "b")
}

func awaitKept(t *testing.T, s *Streams, n int) []*Kept {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kept, err := s.AwaitKept(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

func TestCopyArrivesTwice(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	s.Intercept(on("b", Copy))
	stream := openStream(t, s.Addr())
	say(t, stream, "a", "b", "c")
	r.expect(t, "a", "b", "c")
	if err := awaitKept(t, s, 1)[0].Deliver(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "b")
	hear(t, stream, "a", "b", "c", "b")
}

func TestDroppedMessageDoesNotArrive(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	s.Intercept(on("b", Drop))
	stream := openStream(t, s.Addr())
	say(t, stream, "a", "b", "c")
	r.expect(t, "a", "c")
	hear(t, stream, "a", "c")
}

func TestResponseCanBeLost(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	s.Intercept(func(m Message) Action {
		if !m.ToServer && string(m.Data) == "b" {
			return Drop
		}
		return Pass
	})
	stream := openStream(t, s.Addr())
	say(t, stream, "a", "b", "c")
	r.expect(t, "a", "b", "c")
	hear(t, stream, "a", "c")
}

// The late duplicate: its client hung up long ago, the server still gets it, on the
// stream that it was meant for.
func TestKeptMessageOutlivesItsClient(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	s.Intercept(on("b", Keep))
	stream := openStream(t, s.Addr())
	say(t, stream, "a", "b")
	hear(t, stream, "a")
	r.expect(t, "a")
	kept := awaitKept(t, s, 1)
	s.Break()
	var m string
	if err := stream.RecvMsg(&m); err == nil {
		t.Fatalf("the broken connection says %q", m)
	}
	other := openStream(t, s.Addr())
	say(t, other, "newer")
	hear(t, other, "newer")
	r.expect(t, "newer")
	select {
	case err := <-r.ended:
		t.Fatalf("the server's stream ended with %v before the message was delivered", err)
	default:
	}
	if err := kept[0].Deliver(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "b")
}

func TestClientThatHangsUpEndsTheServersStream(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	stream := openStream(t, s.Addr())
	say(t, stream, "a")
	hear(t, stream, "a")
	s.Break()
	select {
	case err := <-r.ended:
		if err == nil {
			t.Error("the stream ended well")
		}
	case <-time.After(patience):
		t.Error("the stream goes on")
	}
}

func TestServerThatDiesBreaksTheClientsConnection(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	stream := openStream(t, s.Addr())
	say(t, stream, "a")
	hear(t, stream, "a")
	r.server.Stop()
	var m string
	if err := stream.RecvMsg(&m); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if _, err := net.DialTimeout("tcp", s.Addr(), patience); err != nil {
		t.Errorf("the proxy is gone too: %v", err)
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	r := startRecorder(t)
	s := startStreams(t, r.addr)
	const streams, messages = 8, 100
	done := make(chan error, streams)
	for i := range streams {
		stream := openStream(t, s.Addr())
		go func() {
			for n := range messages {
				m := fmt.Sprint(i, ".", n)
				if err := stream.SendMsg(&m); err != nil {
					done <- err
					return
				}
				var got string
				if err := stream.RecvMsg(&got); err != nil || got != m {
					done <- fmt.Errorf("%q, %v; want %q", got, err, m)
					return
				}
			}
			done <- nil
		}()
	}
	for range streams {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
