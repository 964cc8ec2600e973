package nbd_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// fuzzSize keeps every request of a fuzzer cheap.
const fuzzSize = 1 << 20

// hangs is when a session that got all its input counts as hung.
const hangs = 10 * time.Second

// pairListener accepts the other ends of socket pairs.
type pairListener struct {
	conns  chan net.Conn
	closed chan struct{}
	inner  net.Listener
}

func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pairListener) Close() error {
	close(l.closed)
	return l.inner.Close()
}

func (l *pairListener) Addr() net.Addr { return l.inner.Addr() }

// dial returns our end of a new pair; the server gets the other.
func (l *pairListener) dial(t testing.TB) *net.UnixConn {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	l.conns <- conns[1]
	ours := conns[0].(*net.UnixConn)
	ours.SetDeadline(time.Now().Add(hangs))
	return ours
}

// serveFuzz starts one server for all inputs of a fuzz target.
func serveFuzz(f *testing.F) (*target, *pairListener) {
	l := &pairListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	fuzzing := flag.Lookup("test.fuzz").Value.String() != "" // the engine has goroutines of its own
	tg := serve(f, setup{
		leaky:   fuzzing,
		nbd:     nbd.Options{HandshakeTimeout: hangs / 2, StallTimeout: hangs / 2},
		gateway: gateway.Options{MaxBytes: 32 << 20},
		volumes: []backend.VolumeSpec{{Name: testVolume, Size: fuzzSize, Geometry: testGeometry(testBlock)}},
		listen:  func(inner net.Listener) net.Listener { l.inner = inner; return l },
	})
	f.Cleanup(func() { idle(f, tg) })
	return tg, l
}

// play sends all of b, then says that no more will come, and reads until the
// server hangs up, as it must.
func play(t *testing.T, conn *net.UnixConn, r io.Reader, b []byte) (received int64) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		conn.Write(b) // fails where the server has hung up already
		conn.CloseWrite()
	}()
	received, err := io.Copy(io.Discard, r)
	<-sent
	conn.Close()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("server neither answers nor hangs up, %d bytes into its answer", received)
	}
	return received
}

func FuzzNegotiate(f *testing.F) {
	_, l := serveFuzz(f)
	flags := []byte{0, 0, 0, 3}
	info := client.AppendInfoRequest(nil, testVolume, client.InfoBlockSize, client.InfoName)
	meta := client.AppendMetaQuery(nil, testVolume, client.BaseAllocation, "base:")
	seed := func(parts ...[]byte) {
		b := flags
		for _, p := range parts {
			b = append(b[:len(b):len(b)], p...)
		}
		f.Add(b)
	}
	option := func(number uint32, data []byte) []byte { return client.AppendOption(nil, number, data) }
	read := client.AppendRequest(nil, client.SimpleReplies, client.Header{Command: client.CmdRead, Length: 512})
	seed(option(client.OptList, nil), option(client.OptAbort, nil))
	seed(option(client.OptInfo, info), option(client.OptGo, info), read)
	seed(option(client.OptStructuredReply, nil), option(client.OptListMetaContext, meta), option(client.OptSetMetaContext, meta), option(client.OptGo, info))
	seed(option(client.OptExtendedHeaders, nil), option(client.OptExportName, []byte(testVolume)))
	seed(option(client.OptExportName, []byte(testVolume)), read)
	seed(option(client.OptGo, be32(nil, 0xffffffff)), option(client.OptStartTLS, nil), option(77, make([]byte, 100)))
	f.Add([]byte{0xff, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := l.dial(t)
		if n := play(t, conn, conn, b); n < 18 {
			t.Fatalf("%d bytes received, less than the greeting", n)
		}
	})
}

// enter does the handshake over conn with that form of replies.
func enter(t *testing.T, conn net.Conn, style client.ReplyStyle) *client.Wire {
	h, err := client.Greet(t.Context(), conn, 3)
	must(t, err)
	agree(t, h, style)
	if style != client.SimpleReplies {
		_, err = h.SetMetaContexts(t.Context(), testVolume, client.BaseAllocation)
		must(t, err)
	}
	w, err := h.Go(t.Context(), testVolume)
	must(t, err)
	return w
}

// FuzzTransmission sends any bytes in place of requests.
func FuzzTransmission(f *testing.F) {
	_, l := serveFuzz(f)
	for style := range client.ExtendedHeaders + 1 {
		for command := range client.Command(10) {
			h := client.Header{Command: command, Cookie: 1, Offset: 4096, Length: 8}
			b := client.AppendRequest(nil, style, h)
			f.Add(uint8(style), append(b, "payload!"...))
			h.Flags, h.Offset, h.Length = client.FlagPayloadLen|client.FlagFUA, 1<<63, 1<<20
			f.Add(uint8(style), client.AppendRequest(b, style, h))
		}
	}
	f.Fuzz(func(t *testing.T, style uint8, b []byte) {
		conn := l.dial(t)
		w := enter(t, conn, client.ReplyStyle(style)%(client.ExtendedHeaders+1))
		play(t, conn, w, b)
	})
}

// FuzzRequests makes whole requests of the input, pipelines them, and wants
// each answered by the rules: the client's decoder knows them.
func FuzzRequests(f *testing.F) {
	_, l := serveFuzz(f)
	for style := range client.ExtendedHeaders + 1 {
		f.Add(uint8(style), []byte{0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 1})
		f.Add(uint8(style), []byte{7, 0, 0, 0, 0, 0, 16, 0, 6, 2, 0, 0, 0, 4, 8, 0})
		f.Add(uint8(style), []byte{3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, style uint8, b []byte) {
		c := enter(t, l.dial(t), client.ReplyStyle(style)%(client.ExtendedHeaders+1)).Conn(32)
		defer c.Close()
		var requests []*client.Request
		for ; len(b) >= 8 && len(requests) < 64; b = b[8:] {
			r := requestOf(b, c.Style())
			if r.Command == client.CmdDisconnect {
				continue
			}
			if err := c.Start(t.Context(), r); !errors.Is(err, backend.ErrInvalid) { // no such length on a compact wire
				must(t, err)
				requests = append(requests, r)
			}
		}
		for _, r := range requests {
			if err := r.Wait(); err != nil && !errors.As(err, new(*client.Error)) {
				t.Fatalf("%v, flags %#x, %d bytes at %d: %v", r.Command, uint16(r.Flags), r.Length, r.Offset, err)
			}
		}
	})
}

// requestOf makes a request of 8 bytes: command, flags, offset and length in
// blocks, or in bytes and anywhere when their upper bit is set.
func requestOf(b []byte, style client.ReplyStyle) *client.Request {
	r := &client.Request{Command: client.Command(b[0]), Flags: client.CommandFlags(b[1])}
	if style != client.ExtendedHeaders || r.Command == client.CmdBlockStatus {
		r.Flags &^= client.FlagPayloadLen // of which the engine takes care
	}
	place := func(b []byte) uint64 {
		v := uint64(binary.BigEndian.Uint16(b))
		if v&0x8000 != 0 {
			return v << 48 >> (v & 63)
		}
		return v * testBlock
	}
	r.Offset, r.Length = place(b[2:]), place(b[6:])
	r.Offset += uint64(b[4])
	r.Flags |= client.CommandFlags(b[5]) << 8
	if style == client.ExtendedHeaders && r.Command != client.CmdWrite {
		r.Flags &^= client.FlagPayloadLen
	}
	switch r.Command {
	case client.CmdRead:
		if r.Length <= 32*mib { // else it is refused
			r.Data = make([]byte, r.Length)
		}
	case client.CmdWrite:
		r.Data = make([]byte, r.Length%(64<<10))
	}
	return r
}
