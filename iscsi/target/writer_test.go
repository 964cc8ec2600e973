package target_test

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// smallBuffers makes connections that hold next to nothing of what the initiator does
// not take.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetWriteBuffer(1)
	}
	return c, err
}

// reached says whether an operation is held soon.
func (g *gatedChunks) reached() bool {
	select {
	case <-g.came:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// TestAnswersThatTheInitiatorTakesLaterArriveWhole: one command at a time, whose answer
// goes out from where it completed, until the initiator's window is full in the middle
// of one.
func TestAnswersThatTheInitiatorTakesLaterArriveWhole(t *testing.T) {
	for _, tc := range []struct {
		name string
		keys []string
	}{
		{"without digests", usual},
		{"with digests", append([]string{"HeaderDigest=CRC32C", "DataDigest=CRC32C"}, usual...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := serve(t, setup{listen: func(l net.Listener) net.Listener { return smallBuffers{l} }})
			i := p.login(t, tc.keys...)
			const blocks, reads = 64, 100 // more than the window, less than the session's buffers
			want := bytes.Repeat([]byte("0123456789abcdef"), blocks*blockSize/16)
			i.store(0, 0, want)

			under := make(map[uint32]*command)
			for len(under) < reads {
				p.chunks.close()
				c := &command{cdb: read10(0, blocks), read: true, expected: blocks * blockSize}
				i.start(c)
				under[c.tag] = c
				if !p.chunks.reached() {
					break // the answer before has to wait for us, and the target does not read on
				}
				p.chunks.open() // the command completes in here
			}
			p.chunks.open()
			results := make(map[uint32]*result)
			for len(under) > 0 {
				a := i.recv()
				tag := a.InitiatorTaskTag()
				if under[tag] == nil {
					t.Fatalf("%v for a command that is over, or never was", a.Opcode())
				}
				if results[tag] == nil {
					results[tag] = new(result)
				}
				if i.take(under[tag], results[tag], a) {
					delete(under, tag)
				}
			}
			for tag, r := range results {
				if r.status != good || !bytes.Equal(r.data, want) {
					t.Errorf("read %d: status %#x, %d bytes as expected: %v", tag, r.status, len(r.data), bytes.Equal(r.data, want))
				}
			}
			i.alive()
		})
	}
}
