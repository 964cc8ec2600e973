package nbd_test

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// awayChunks completes every operation on a goroutine of its own, as a disk does, and
// then says so: the reply is sent, or left to another goroutine.
type awayChunks struct {
	backend.Chunks
	done chan struct{}
}

func (c *awayChunks) Try(*backend.Op) bool { return false }

func (c *awayChunks) Submit(op *backend.Op) {
	go func() {
		c.Chunks.Submit(op)
		c.done <- struct{}{}
	}()
}

// served says whether a request is over soon. One whose reply has to wait for the client
// may not be: the server does not read on then.
func (c *awayChunks) served() bool {
	select {
	case <-c.done:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// smallBuffers makes connections that hold next to nothing of what the client does not
// take.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(1)
	}
	return c, err
}

// TestRepliesThatTheClientTakesLaterArriveWhole: one request at a time, whose reply goes
// out from where it finished, until the client's window is full in the middle of one.
func TestRepliesThatTheClientTakesLaterArriveWhole(t *testing.T) {
	for _, style := range styles {
		t.Run(style.String(), func(t *testing.T) {
			away := &awayChunks{done: make(chan struct{}, 200)}
			tg := serve(t, setup{
				network: "tcp",
				wrap:    func(c backend.Chunks) backend.Chunks { away.Chunks = c; return away },
				listen:  func(l net.Listener) net.Listener { return smallBuffers{l} },
			})
			w, sent := attach(t, tg, style), 0
			const size, reads = 32 << 10, 100 // more than the client's window, less than its buffers
			data := pattern(make([]byte, size), 1)
			write := client.Header{Command: client.CmdWrite, Length: size}
			if style == client.ExtendedHeaders {
				write.Flags = client.FlagPayloadLen
			}
			if _, err := w.NetConn().Write(append(client.AppendRequest(nil, style, write), data...)); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < reads && away.served(); i++ {
				if _, err := w.NetConn().Write(client.AppendRequest(nil, style, client.Header{Command: client.CmdRead, Cookie: uint64(i + 1), Length: size})); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			got, seen := make([]byte, size), make(map[uint64]bool)
			for i := range sent + 1 {
				h, err := w.ReadHeader()
				must(t, err)
				if h.Cookie > uint64(sent) || seen[h.Cookie] || h.Errno != 0 {
					t.Fatalf("reply %d: %+v", i, h)
				}
				seen[h.Cookie] = true
				if h.Cookie == 0 {
					continue // of the write
				}
				if style != client.SimpleReplies {
					must(t, skip(w, 8)) // the offset
				}
				for n := 0; n < size; {
					part, err := w.Read(got[n:])
					must(t, err)
					n += part
				}
				if !bytes.Equal(got, data) {
					t.Fatalf("read %d: %s", i, firstDifference(got, data))
				}
			}
			w.Close()
		})
	}
}

func skip(w *client.Wire, n int) error {
	b := make([]byte, n)
	for len(b) > 0 {
		part, err := w.Read(b)
		if err != nil {
			return err
		}
		b = b[part:]
	}
	return nil
}
