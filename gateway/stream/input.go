package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InputSize is the read buffer: room for hundreds of headers or a dozen small
// writes per system call. A larger one gained nothing.
const InputSize = 64 << 10

// headersOnly is how much is read at once while a client sends large writes:
// more would bring payload into the buffer that has to be copied out of it.
const headersOnly = 2 << 10

// ErrNothingYet is returned by Fill when it may not wait and nothing is there.
var ErrNothingYet = errors.New("nothing to read yet")

var inputBuffers = sync.Pool{New: func() any { return new([InputSize]byte) }}

// Input reads a connection in large pieces and hands out what it has. While the
// peer is silent and nothing is left over, it holds no memory.
type Input struct {
	nc  net.Conn
	raw syscall.RawConn
	buf *[InputSize]byte
	// buf[r:w] is what was read and not used yet.
	r, w int

	// Bulk: the last request was a large write, so more of them are likely.
	Bulk bool
	// lone: requests come one at a time, so the client waits for each reply;
	// singles counts the batches in a row that were one request.
	lone    bool
	singles int
	poll    busyPoll

	// Arguments and results of readReady, which is made once so that reading
	// does not allocate.
	readReady func(fd uintptr) bool
	target    []byte // nil: the buffer
	noWait    bool
	slept     bool
	n         int
	err       error

	// Resume, if not nil, says that a deadline was only to wake the reader: what has
	// begun is read to its end.
	Resume func() bool

	// waiting is the server's clock when the reader began to wait for the rest
	// of something, 0 while it waits for nothing or for something new.
	waiting atomic.Int64
	clock   *atomic.Int64
}

// NewInput reads nc. The clock is any that counts nanoseconds upward from above 0.
func NewInput(nc net.Conn, clock *atomic.Int64) *Input {
	in := &Input{nc: nc, clock: clock}
	if sc, ok := nc.(syscall.Conn); ok {
		// Without a raw connection (TLS, pipes) plain Read serves.
		in.raw, _ = sc.SyscallConn()
	}
	in.readReady = func(fd uintptr) bool {
		for spins := 0; ; {
			target := in.target
			if target == nil {
				target = in.space()
			}
			in.n, in.err = readNow(int(fd), target)
			switch in.err {
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				if in.noWait {
					in.err = ErrNothingYet
					return true
				}
				if spins < in.spins() {
					spins++
					continue
				}
				in.slept = true
				if in.target == nil && in.r == in.w {
					in.Free()
				}
				return false
			}
			return true
		}
	}
	return in
}

// Raw is the socket, nil where there is none to be had.
func (in *Input) Raw() syscall.RawConn { return in.raw }

// Stalled says that the peer has owed the rest of something since before the given
// time.
func (in *Input) Stalled(before int64) bool {
	since := in.waiting.Load()
	return since != 0 && since < before
}

// hold makes sure that there is a buffer.
func (in *Input) hold() {
	if in.buf == nil {
		in.buf = inputBuffers.Get().(*[InputSize]byte)
		in.r, in.w = 0, 0
	}
}

// space is the room for the next read.
func (in *Input) space() []byte {
	in.hold()
	space := in.buf[in.w:]
	if in.Bulk && len(space) > headersOnly {
		return space[:headersOnly]
	}
	return space
}

// Free lets the buffer go.
func (in *Input) Free() {
	if in.buf != nil {
		inputBuffers.Put(in.buf)
		in.buf = nil
	}
	in.r, in.w = 0, 0
}

// Bytes is what is there; valid until the next call that reads.
func (in *Input) Bytes() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf[in.r:in.w]
}

// Skip drops the first n of bytes.
func (in *Input) Skip(n int) { in.r += n }

// read does one read into target, or, when that is nil, into the buffer.
func (in *Input) read(target []byte) (int, error) {
	if in.raw == nil {
		if in.noWait {
			return 0, ErrNothingYet
		}
		if target == nil {
			target = in.space()
		}
		return in.nc.Read(target)
	}
	in.target = target
	for {
		err := in.raw.Read(in.readReady)
		if err == nil {
			break
		}
		if in.Resume == nil || in.waiting.Load() == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !in.Resume() {
			return 0, err
		}
		_ = in.nc.SetReadDeadline(time.Time{})
	}
	switch {
	case in.err != nil:
		return 0, in.err
	case in.n == 0:
		return 0, io.EOF
	}
	return in.n, nil
}

// More reads once more into the buffer if something is there, and says
// ErrNothingYet if not.
func (in *Input) More() error {
	in.noWait = true
	err := in.Fill(false)
	in.noWait = false
	return err
}

// Fill reads once more into the buffer. midway says that the peer owes the rest
// of something, so that silence now is a stall.
func (in *Input) Fill(midway bool) error {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if in.r > 0 {
		in.w = copy(in.buf[:], in.buf[in.r:in.w])
		in.r = 0
	}
	if midway {
		in.waiting.Store(in.clock.Load())
		defer in.waiting.Store(0)
	}
	in.slept = false
	n, err := in.read(nil)
	in.w += n
	if in.lone && !in.noWait {
		in.poll.learn(!in.slept)
	}
	return err
}

// NoteBatch takes the number of requests that were served together. busy says that
// requests are with the disk, so that the client has nothing to say before that has.
func (in *Input) NoteBatch(served int, busy bool) {
	switch {
	case served == 1:
		in.singles++
	case served > 1:
		in.singles = 0
	}
	in.lone = in.singles >= lonelySingles && !busy
}

// spins is how often the read that is under way may be tried again at once.
func (in *Input) spins() int {
	switch {
	case !several:
		return 0
	case in.target != nil:
		return payloadSpins
	case in.lone:
		return in.poll.nextSpins()
	default:
		return 0
	}
}

// Need makes sure that at least n bytes (n <= InputSize) are there.
func (in *Input) Need(n int) error {
	for in.w-in.r < n {
		if err := in.Fill(true); err != nil {
			return midwayEOF(err)
		}
	}
	return nil
}

// ReadFull fills dst, from the buffer first and then past it.
func (in *Input) ReadFull(dst []byte) error {
	n := copy(dst, in.Bytes())
	in.Skip(n)
	for n < len(dst) {
		in.waiting.Store(in.clock.Load())
		got, err := in.read(dst[n:])
		in.waiting.Store(0)
		if err != nil {
			return midwayEOF(err)
		}
		n += got
	}
	return nil
}

// Discard reads n bytes and forgets them.
func (in *Input) Discard(n int64) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.Fill(true); err != nil {
				return midwayEOF(err)
			}
		}
		part := min(n, int64(in.w-in.r))
		in.Skip(int(part))
		n -= part
	}
	return nil
}

func midwayEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
