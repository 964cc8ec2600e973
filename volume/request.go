package volume

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// ErrOutOfRange: the request does not lie inside the volume.
var ErrOutOfRange = fmt.Errorf("%w: request past the end of the volume", backend.ErrInvalid)

// ErrUnaligned: offset or length is not a multiple of the volume's block size.
var ErrUnaligned = fmt.Errorf("%w: request not aligned to the block size", backend.ErrInvalid)

// Request is one block request on a volume. The front end owns it, and Data,
// except between Submit (or Try) and completion. It may be used again after
// Reset.
type Request struct {
	Op    backend.OpKind
	Flags backend.Flags
	// Off and Len are bytes, multiples of the volume's block size. A flush has
	// neither.
	Off, Len int64
	// Data is the payload to write or the room to read into, Len bytes.
	Data []byte
	// Arrived is when the request came, and Ended when it was complete, as far as
	// that is known: Submit looks at the clock for what has no Arrived, and leaves
	// Ended zero where nobody had to look.
	Arrived, Ended time.Time
	// Done receives the request when it is complete, on any goroutine, exactly
	// once; it must not block. Not called after a Try that returned true.
	Done Completer

	// Err is the outcome: the first error of the pieces, or nil.
	Err error
	// Hole is set by a read whose whole range is known to be unallocated.
	Hole bool

	volume *Volume
	// cursor is the volume offset up to which pieces were handed out: a request
	// of many pieces (a trim of a terabyte) goes through split again and again,
	// a bounded window of pieces at a time.
	cursor int64
	// pending counts the pieces of the current window, plus one while split is
	// still handing them out.
	pending atomic.Int32
	failed  atomic.Pointer[error]
	// data says that a piece of the read was not a hole.
	data atomic.Bool
	// first is the piece of a request that needs one only.
	first piece
	// paid says that the throttle has let the request through.
	paid bool
	// older and newer link the volume's queued requests (inflight.go).
	older, newer *Request
}

// Completer is told when a request is complete.
type Completer interface{ RequestDone(*Request) }

// Reset prepares the request for another use.
func (r *Request) Reset() {
	r.Op, r.Flags, r.Off, r.Len, r.Data = 0, 0, 0, 0, nil
	r.Err, r.Hole = nil, false
	r.volume, r.cursor, r.paid = nil, 0, false
	r.pending.Store(0)
	r.failed.Store(nil)
	r.data.Store(false)
	r.first = piece{}
	r.Arrived, r.Ended = time.Time{}, time.Time{}
}

// piece is the part of a request that falls on one chunk.
type piece struct {
	op  backend.Op
	req *Request
	// dispatchedAt and sentAt are when the piece entered the dispatch queue and
	// when it went to the backend.
	dispatchedAt, sentAt time.Time
	// trip is what the router knows of it, if there is one.
	trip *trip
}

var pieces = sync.Pool{New: func() any { return new(piece) }}

// OpDone implements backend.Completer.
func (p *piece) OpDone(op *backend.Op) { p.req.pieceDone(p, Now()) }

// pieceDone accounts for one finished piece, and for the request when it was
// the last of its window.
func (r *Request) pieceDone(p *piece, now time.Time) {
	if err := p.op.Err; err != nil {
		r.fail(err)
	}
	if !p.op.Hole {
		r.data.Store(true)
	}
	r.volume.stats.piece(p, now)
	if p == &r.first && p.op.Len == r.Len {
		r.Ended = now
	}
	if p != &r.first {
		*p = piece{}
		pieces.Put(p)
	}
	r.windowDone()
}

// fail notes the request's first error.
func (r *Request) fail(err error) { r.failed.CompareAndSwap(nil, &err) }

// windowDone drops one count of pending; the last one out completes the
// request or sends it through split for the next window.
func (r *Request) windowDone() {
	if r.pending.Add(-1) != 0 {
		return
	}
	if r.cursor < r.Off+r.Len && r.failed.Load() == nil {
		r.volume.aio.push(r)
		return
	}
	r.complete()
}

// complete hands a queued request back to its front end.
func (r *Request) complete() {
	if errp := r.failed.Load(); errp != nil {
		r.Err = *errp
	}
	r.Hole = r.Op == backend.OpRead && r.Err == nil && !r.data.Load()
	v := r.volume
	v.queued.remove(r)
	v.leave()
	r.Done.RequestDone(r)
}
