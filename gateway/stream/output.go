package stream

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxVectors is how many pieces one writev takes (IOV_MAX).
const maxVectors = 1024

// Output writes replies to a connection: batches of the reader, and finished
// tasks of the writer goroutine, one at a time.
type Output struct {
	nc  net.Conn
	raw syscall.RawConn

	mu      sync.Mutex // held during a write; guards the fields below
	iovecs  []unix.Iovec
	pending [][]byte // what is left to write
	err     error    // the first failure; nothing is written after it
	// writeReady is made once so that writing does not allocate.
	writeReady func(fd uintptr) bool
	noWait     bool // it gives up rather than wait for the peer

	// waiting is the server's clock when the write last made progress, 0 while
	// none is under way.
	waiting atomic.Int64
	clock   *atomic.Int64
	// unread is what the peer had not taken when the watchdog, whose it is, last
	// looked.
	unread int
}

// NewOutput writes to nc, with the clock of its Input.
func NewOutput(nc net.Conn, clock *atomic.Int64) *Output {
	out := &Output{nc: nc, clock: clock}
	if sc, ok := nc.(syscall.Conn); ok {
		out.raw, _ = sc.SyscallConn()
	}
	out.writeReady = func(fd uintptr) bool {
		for len(out.pending) > 0 {
			n, err := out.writeOnce(int(fd))
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return out.noWait
			case err != nil:
				out.err = err
				return true
			}
			out.advance(n)
			out.waiting.Store(out.clock.Load())
		}
		return true
	}
	return out
}

// Lock keeps all others from writing, until Unlock.
func (out *Output) Lock() { out.mu.Lock() }

// TryLock is Lock, unless somebody else writes.
func (out *Output) TryLock() bool { return out.mu.TryLock() }

// Unlock ends Lock.
func (out *Output) Unlock() { out.mu.Unlock() }

// Stalled says that a write is under way of which the peer has taken nothing since
// the given time. One goroutine asks, again and again.
func (out *Output) Stalled(before int64) bool {
	out.noteProgress()
	since := out.waiting.Load()
	return since != 0 && since < before
}

// Write sends vecs in full. It returns the connection's first write error.
func (out *Output) Write(vecs [][]byte) error {
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.WriteLocked(vecs)
}

// WriteLocked is Write for a reply that goes out in several pieces, with Lock
// held from the first to the last.
func (out *Output) WriteLocked(vecs [][]byte) error {
	if out.err != nil {
		return out.err
	}
	out.waiting.Store(out.clock.Load())
	out.pending = vecs
	return out.WriteRest()
}

// WriteNow writes what the peer takes at once, with Lock held. Unless that is all, or
// it fails, WriteRest is due, with the same Lock; vecs must last until then.
func (out *Output) WriteNow(vecs [][]byte) (all bool, err error) {
	if out.err != nil {
		return false, out.err
	}
	out.waiting.Store(out.clock.Load())
	out.pending = vecs
	if out.raw == nil {
		return false, nil
	}
	out.noWait = true
	err = out.raw.Write(out.writeReady)
	out.noWait = false
	if err != nil && out.err == nil {
		out.err = err
	}
	if len(out.pending) == 0 || out.err != nil {
		out.pending = nil
		out.waiting.Store(0)
	}
	return out.pending == nil, out.err
}

// WriteRest writes what WriteNow has left.
func (out *Output) WriteRest() error {
	defer out.waiting.Store(0)
	if out.raw == nil {
		return out.writePlain()
	}
	if err := out.raw.Write(out.writeReady); err != nil && out.err == nil {
		out.err = err
	}
	out.pending = nil
	return out.err
}

func (out *Output) writePlain() error {
	for _, v := range out.pending {
		if _, err := out.nc.Write(v); err != nil {
			out.err = err
			break
		}
		out.waiting.Store(out.clock.Load())
	}
	out.pending = nil
	return out.err
}

// writeOnce does one system call.
func (out *Output) writeOnce(fd int) (int, error) {
	if len(out.pending) == 1 {
		return writeNow(fd, out.pending[0])
	}
	out.iovecs = out.iovecs[:0]
	for _, v := range out.pending[:min(len(out.pending), maxVectors)] {
		if len(v) == 0 {
			continue
		}
		iov := unix.Iovec{Base: &v[0]}
		iov.SetLen(len(v))
		out.iovecs = append(out.iovecs, iov)
	}
	n, err := writevNow(fd, out.iovecs)
	if n == 0 && err == nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// noteProgress looks whether a write that waits goes on. A socket becomes
// writable again only when much of its buffer is free, so a slow peer may take
// bytes for a long time before the write goes on: that is progress too.
func (out *Output) noteProgress() {
	since := out.waiting.Load()
	if since == 0 || out.raw == nil {
		return
	}
	unread := out.unread
	_ = out.raw.Control(func(fd uintptr) { unread, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	if unread != out.unread {
		out.waiting.CompareAndSwap(since, out.clock.Load())
	}
	out.unread = unread
}

// advance drops n written bytes from pending.
func (out *Output) advance(n int) {
	for len(out.pending) > 0 && n >= len(out.pending[0]) {
		n -= len(out.pending[0])
		out.pending = out.pending[1:]
	}
	if n > 0 {
		// The caller's vecs may be changed: they are not used again.
		out.pending[0] = out.pending[0][n:]
	}
}

// sendBuffer is what the socket may hold of replies: a large read then goes out
// in one system call, without waiting for the client in between.
const sendBuffer = 1 << 20

// GrowSendBuffer asks for it on unix sockets, whose default is a fifth of that;
// TCP grows by itself. Beyond the system's limit it takes privileges, and
// without them we take what we get.
func GrowSendBuffer(nc net.Conn) {
	unixConn, ok := nc.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
		}
	})
}
