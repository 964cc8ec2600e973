package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
)

// scripted connects a Conn to a server that is a function of the test.
func scripted(t *testing.T, style ReplyStyle, window int, server func(t *testing.T, nc net.Conn)) *Conn {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	ours, theirs := net.Pipe()
	h := &Handshake{conn: ours, style: style}
	h.r = newTestReader(ours)
	c := h.wire(Export{Size: 1 << 20, Flags: HasFlags}).Conn(window)
	var serving sync.WaitGroup
	serving.Go(func() {
		defer theirs.Close()
		server(t, theirs)
	})
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
		goleak.VerifyNone(t, ignore)
	})
	return c
}

// receive reads a compact request and the payload of a write.
func receive(t *testing.T, nc net.Conn) (cookie uint64, payload []byte) {
	b := make([]byte, requestSize)
	if _, err := io.ReadFull(nc, b); err != nil {
		t.Error(err)
		return
	}
	cookie = uint64(b[8])<<56 | uint64(b[15])
	if Command(b[7]) == CmdWrite {
		payload = make([]byte, int(b[25])<<16|int(b[26])<<8|int(b[27]))
		if _, err := io.ReadFull(nc, payload); err != nil {
			t.Error(err)
		}
	}
	return cookie, payload
}

func send(t *testing.T, nc net.Conn, b []byte) {
	if _, err := nc.Write(b); err != nil {
		t.Error(err)
	}
}

func TestRepliesMayComeInAnyOrder(t *testing.T) {
	const n = 10
	c := scripted(t, SimpleReplies, n, func(t *testing.T, nc net.Conn) {
		var cookies []uint64
		for range n {
			cookie, _ := receive(t, nc)
			cookies = append(cookies, cookie)
		}
		for i := n - 1; i >= 0; i-- {
			send(t, nc, simpleReply(0, cookies[i], string(bytes.Repeat([]byte{byte('a' + i)}, 8))))
		}
	})
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Command: CmdRead, Data: make([]byte, 8)}
		if err := c.Start(t.Context(), &requests[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range requests {
		if err := requests[i].Wait(); err != nil || requests[i].Data[7] != byte('a'+i) {
			t.Fatalf("request %d: %v, data %q", i, err, requests[i].Data)
		}
	}
}

func TestEndOfTheConnectionFailsWhatIsInFlight(t *testing.T) {
	c := scripted(t, SimpleReplies, 4, func(t *testing.T, nc net.Conn) {
		receive(t, nc)
		receive(t, nc)
	})
	requests := []*Request{{Command: CmdFlush}, {Command: CmdRead, Data: make([]byte, 512)}}
	for _, r := range requests {
		if err := c.Start(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range requests {
		if err := r.Wait(); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v, want %v", err, io.EOF)
		}
	}
	if err := c.Flush(t.Context()); !errors.Is(err, io.EOF) {
		t.Fatalf("a later request: %v, want %v", err, io.EOF)
	}
}

func TestCloseFailsWhatIsInFlightAndComesAgain(t *testing.T) {
	received := make(chan struct{})
	c := scripted(t, SimpleReplies, 4, func(t *testing.T, nc net.Conn) {
		receive(t, nc)
		close(received)
		io.Copy(io.Discard, nc)
	})
	r := &Request{Command: CmdFlush}
	if err := c.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	<-received
	c.Close()
	if err := r.Wait(); !errors.Is(err, backend.ErrClosed) {
		t.Fatalf("got %v, want %v", err, backend.ErrClosed)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, backend.ErrClosed) {
		t.Fatalf("a later request: %v, want %v", err, backend.ErrClosed)
	}
	c.Close()
}

// A server may refuse a write before it has read the payload. The buffer is the
// caller's again only when both are through.
func TestEarlyReplyDoesNotGiveTheBufferBack(t *testing.T) {
	replied, read := make(chan struct{}), make(chan struct{})
	c := scripted(t, SimpleReplies, 4, func(t *testing.T, nc net.Conn) {
		b := make([]byte, requestSize)
		if _, err := io.ReadFull(nc, b); err != nil {
			t.Error(err)
		}
		send(t, nc, simpleReply(28, 1, ""))
		close(replied)
		<-read
		payload := make([]byte, 4096)
		if _, err := io.ReadFull(nc, payload); err != nil || !bytes.Equal(payload, bytes.Repeat([]byte{'x'}, 4096)) {
			t.Errorf("payload %q..., %v", payload[:4], err)
		}
	})
	data := bytes.Repeat([]byte{'x'}, 4096)
	done := make(chan error, 1)
	go func() { done <- c.Write(t.Context(), data, 0, 0) }()
	<-replied
	for answered := false; !answered; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		answered = len(c.pending) == 0
		c.mu.Unlock()
	}
	select {
	case err := <-done:
		t.Fatalf("complete before the payload was sent: %v", err)
	default:
	}
	close(read)
	if err := <-done; !errors.Is(err, backend.ErrNoSpace) {
		t.Fatalf("got %v, want %v", err, backend.ErrNoSpace)
	}
	clear(data) // the race detector would tell
}

func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	proceed := make(chan struct{})
	c := scripted(t, SimpleReplies, 2, func(t *testing.T, nc net.Conn) {
		for range 2 {
			receive(t, nc)
		}
		<-proceed
		for cookie := range uint64(2) {
			send(t, nc, simpleReply(0, cookie+1, ""))
		}
		io.Copy(io.Discard, nc)
	})
	requests := []*Request{{Command: CmdFlush}, {Command: CmdFlush}}
	for _, r := range requests {
		if err := c.Start(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	full := errors.New("no place in the window")
	cancel(full)
	if err := c.Start(ctx, &Request{Command: CmdFlush}); err != full {
		t.Fatalf("third request of two: %v, want %v", err, full)
	}
	close(proceed)
	for _, r := range requests {
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	// There is a place again, and it was not spent on the one that gave up.
	if err := c.Start(t.Context(), &Request{Command: CmdFlush}); err != nil {
		t.Fatal(err)
	}
}

func TestContextThatEndsBreaksTheConnection(t *testing.T) {
	c := scripted(t, SimpleReplies, 2, func(t *testing.T, nc net.Conn) { io.Copy(io.Discard, nc) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Read(ctx, make([]byte, 512), 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a later request: %v, want %v", err, context.DeadlineExceeded)
	}
}

// A server that does not read must not hold the caller for ever.
func TestContextThatEndsInterruptsAStuckWrite(t *testing.T) {
	c := scripted(t, SimpleReplies, 2, func(t *testing.T, nc net.Conn) {
		io.ReadFull(nc, make([]byte, 10))
		<-t.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Write(ctx, make([]byte, 4096), 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestDisconnectWaitsForWhatIsInFlight(t *testing.T) {
	c := scripted(t, SimpleReplies, 4, func(t *testing.T, nc net.Conn) {
		cookie, _ := receive(t, nc)
		send(t, nc, simpleReply(0, cookie, ""))
		b := make([]byte, requestSize)
		if _, err := io.ReadFull(nc, b); err != nil || Command(b[7]) != CmdDisconnect {
			t.Errorf("%v, command %d: want a disconnect", err, b[7])
		}
	})
	r := &Request{Command: CmdFlush}
	if err := c.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}

// Cut to 32 bits it would be another request, and one that may succeed.
func TestLengthBeyondTheHeaderIsRefused(t *testing.T) {
	c := scripted(t, StructuredReplies, 2, func(t *testing.T, nc net.Conn) {
		cookie, _ := receive(t, nc) // only the second one arrives
		send(t, nc, simpleReply(0, cookie, ""))
		io.Copy(io.Discard, nc)
	})
	for range 3 { // nor does it keep its place in the window
		if err := c.Trim(t.Context(), 0, 1<<32, 0); !errors.Is(err, backend.ErrInvalid) {
			t.Fatalf("got %v, want %v", err, backend.ErrInvalid)
		}
	}
	if err := c.Trim(t.Context(), 0, 1<<32-512, 0); err != nil {
		t.Fatal(err)
	}
}
