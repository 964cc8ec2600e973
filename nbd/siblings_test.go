package nbd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd"
)

// heldWrites holds writes of a byte back until they are let go.
type heldWrites struct {
	backend.Chunks
	hold byte

	mu   sync.Mutex
	held []*backend.Op
	came chan struct{}
}

func (h *heldWrites) Submit(op *backend.Op) {
	if op.Kind == backend.OpWrite && op.Data[0] == h.hold {
		h.mu.Lock()
		h.held = append(h.held, op)
		h.mu.Unlock()
		h.came <- struct{}{}
		return
	}
	h.Chunks.Submit(op)
}

func (h *heldWrites) Try(op *backend.Op) bool {
	if op.Kind == backend.OpWrite {
		return false
	}
	return h.Chunks.Try(op)
}

func (h *heldWrites) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, op := range h.held {
		h.Chunks.Submit(op)
	}
	h.held = nil
}

// kernelEnd is the kernel's end of an attached connection, spoken by hand.
type kernelEnd struct {
	t  *testing.T
	nc net.Conn
}

// attach gives a server a connection without a handshake.
func attachKernel(t *testing.T, tg *target, siblings *nbd.Siblings) (kernelEnd, <-chan struct{}) {
	t.Helper()
	k, ours := newPair(t)
	return k, attachTo(t, tg, ours, siblings)
}

// newPair is a connected pair: the kernel's end and the server's.
func newPair(t *testing.T) (kernelEnd, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { ends[1].Close() })
	return kernelEnd{t, ends[1]}, ends[0]
}

func attachTo(t *testing.T, tg *target, ours net.Conn, siblings *nbd.Siblings) <-chan struct{} {
	t.Helper()
	handle, err := tg.gateway.Open(t.Context(), testVolume)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := tg.server.Attach(ours, handle, siblings)
	if err != nil {
		t.Fatal(err)
	}
	return ended.Ended()
}

const (
	wireRead       = 0
	wireWrite      = 1
	wireDisconnect = 2
)

func (k kernelEnd) send(command uint16, cookie, off uint64, length uint32, data []byte) {
	k.t.Helper()
	k.write(k.request(command, cookie, off, length, data))
}

func (k kernelEnd) write(b []byte) {
	k.t.Helper()
	k.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := k.nc.Write(b); err != nil {
		k.t.Fatal(err)
	}
}

func (k kernelEnd) request(command uint16, cookie, off uint64, length uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, data...)
}

// answer takes a simple reply without data, or with length bytes of it.
func (k kernelEnd) answer(cookie uint64, length int) []byte {
	k.t.Helper()
	k.nc.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 16+length)
	if _, err := io.ReadFull(k.nc, b); err != nil {
		k.t.Fatal(err)
	}
	if magic, code, got := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]); magic != 0x67446698 || code != 0 || got != cookie {
		k.t.Fatalf("reply with magic %#x, error %d, cookie %d; want cookie %d", magic, code, got, cookie)
	}
	return b[16:]
}

// refusal takes a simple reply without data, and returns its error.
func (k kernelEnd) refusal(cookie uint64) uint32 {
	k.t.Helper()
	k.nc.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 16)
	if _, err := io.ReadFull(k.nc, b); err != nil {
		k.t.Fatal(err)
	}
	if got := binary.BigEndian.Uint64(b[8:]); got != cookie {
		k.t.Fatalf("reply with cookie %d, want %d", got, cookie)
	}
	return binary.BigEndian.Uint32(b[4:])
}

func TestAttachedConnectionNeedsNoHandshake(t *testing.T) {
	tg := serve(t, setup{})
	k, ended := attachKernel(t, tg, nil)
	want := bytes.Repeat([]byte{7}, testBlock)
	k.send(wireWrite, 1, testBlock, testBlock, want)
	k.answer(1, 0)
	k.send(wireRead, 2, testBlock, testBlock, nil)
	if got := k.answer(2, testBlock); !bytes.Equal(got, want) {
		t.Error("what was written does not come back")
	}
	k.send(wireDisconnect, 3, 0, 0, nil)
	<-ended
	handle, err := tg.gateway.Open(t.Context(), testVolume)
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, ours := newPair(t)
	if _, err := tg.server.Attach(ours, handle, nil); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("attached after Shutdown: %v", err)
	}
}

// The client gives connection A up in the middle of a write, sends the write again
// over B, and then a newer one: the first attempt must not undo that.
func TestGivenUpConnectionIsOverBeforeItsSiblingsGoOn(t *testing.T) {
	held := &heldWrites{hold: 1, came: make(chan struct{}, 4)}
	tg := serve(t, setup{wrap: func(c backend.Chunks) backend.Chunks { held.Chunks = c; return held }})
	var siblings nbd.Siblings
	a, endedA := attachKernel(t, tg, &siblings)
	b, _ := attachKernel(t, tg, &siblings)
	a.send(wireWrite, 1, 0, testBlock, bytes.Repeat([]byte{1}, testBlock))
	<-held.came
	if err := a.nc.(*net.UnixConn).CloseWrite(); err != nil { // the half that tells the server
		t.Fatal(err)
	}
	newer := bytes.Repeat([]byte{2}, testBlock)
	b.send(wireWrite, 2, 0, testBlock, newer)
	b.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // a wrong answer takes far less
	if n, err := b.nc.Read(make([]byte, 1)); err == nil {
		t.Fatalf("%d bytes of an answer while the older write is still under way", n)
	}
	select {
	case <-endedA:
		t.Fatal("A is over, and its write is not")
	default:
	}
	held.letGo()
	<-endedA
	b.answer(2, 0)
	b.send(wireRead, 3, 0, testBlock, nil)
	if got := b.answer(3, testBlock); !bytes.Equal(got, newer) {
		t.Error("the older write has undone the newer one")
	}
}

// What a client has sent and then given up unread is not served: it comes again
// elsewhere. Two that are given up at one time do not wait for each other.
func TestUnreadRequestsOfAGivenUpConnectionAreDropped(t *testing.T) {
	held := &heldWrites{hold: 1, came: make(chan struct{}, 4)}
	tg := serve(t, setup{wrap: func(c backend.Chunks) backend.Chunks { held.Chunks = c; return held }})
	var siblings nbd.Siblings
	attachKernel(t, tg, &siblings) // where these could be sent again
	var ended []<-chan struct{}
	for range 2 {
		k, ours := newPair(t)
		k.send(wireWrite, 1, 0, testBlock, bytes.Repeat([]byte{1}, testBlock))
		k.nc.Close()
		ended = append(ended, attachTo(t, tg, ours, &siblings))
	}
	for _, done := range ended {
		<-done
	}
	if n := len(held.came); n != 0 {
		t.Errorf("%d requests were served that their client had given up", n)
	}
}
