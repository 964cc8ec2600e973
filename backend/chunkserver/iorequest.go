package chunkserver

import (
	"errors"
	"fmt"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// request is one operation of a client, from its frame to its reply.
type request struct {
	op backend.Op
	st *ioStream
	id uint64
	// reply is a read's frame under construction: room for the header, then
	// op.Data.
	reply *[]byte
	// admitted are the bytes taken from the server's admission, -1 for none.
	admitted int64
	// prev and next link the requests under way; guarded by st.mu, and so is
	// cancelled.
	prev, next *request
	cancelled  bool
}

var requestPool = sync.Pool{New: func() any { return new(request) }}

var errOverload = fmt.Errorf("%w: its limit of operations under way is reached", backend.ErrOverload)

// operate starts the operation of an OP frame. The error is one of the protocol and
// ends the stream; an operation's own goes into its reply.
func (st *ioStream) operate(head []byte, f *pb.Frame) error {
	r := requestPool.Get().(*request)
	id, err := pb.ReadOp(head, f.Len(), &r.op)
	if err != nil {
		requestPool.Put(r)
		return err
	}
	r.st, r.id, r.op.Done, r.admitted = st, id, r, -1
	st.requests.Add(1)
	st.mu.Lock()
	r.prev, r.next = st.under.prev, &st.under
	r.prev.next, st.under.prev = r, r
	st.mu.Unlock()

	target := st.replicas.get(r.op.Chunk.Copyset)
	if target == nil {
		r.fail(&noCopyset)
		return nil
	}
	size := r.payload()
	if !st.admission.admit(size) {
		r.fail(&errOverload)
		return nil
	}
	r.admitted = size
	var assembled *[]byte
	switch r.op.Kind {
	case backend.OpRead:
		r.reply = pb.Pool.Get(pb.ReplySize + int(size))
		r.op.Data = (*r.reply)[pb.ReplySize:]
	case backend.OpWrite:
		data, whole := f.Whole(pb.OpSize)
		if !whole {
			assembled = pb.Pool.Get(int(size))
			f.CopyTo(*assembled, pb.OpSize)
			data = *assembled
		}
		r.op.Data = data
	}
	if err := r.op.Check(); err != nil {
		r.fail(&err)
	} else if r.op.Kind != backend.OpRead || !r.try(target) {
		target.Submit(&r.op)
	}
	// From here on r may be another request already. The replica has copied a
	// change's payload.
	if assembled != nil {
		pb.Pool.Put(assembled)
	}
	return nil
}

var noCopyset error = backend.ErrNoCopyset

// payload is the bytes of data that the operation carries.
func (r *request) payload() int64 {
	if r.op.Kind == backend.OpRead || r.op.Kind == backend.OpWrite {
		return r.op.Len
	}
	return 0
}

func (r *request) fail(err *error) {
	r.op.Err = *err
	r.OpDone(&r.op)
}

// try serves a read without waiting, and answers it at once if nobody else is
// sending.
func (r *request) try(target replica) bool {
	if !target.Try(&r.op) {
		return false
	}
	st := r.st
	r.leave()
	st.mu.Lock()
	r.unlinkLocked()
	if st.sending || len(st.out) > 0 || st.ended {
		r.queueLocked()
		st.mu.Unlock()
		return true
	}
	st.sending = true
	st.mu.Unlock()
	var f pb.Frame
	r.sendReply(&f)
	st.mu.Lock()
	st.sending = false
	if len(st.out) > 0 || len(st.toTell) > 0 {
		st.pokeLocked()
	}
	st.mu.Unlock()
	return true
}

// OpDone implements backend.Completer.
func (r *request) OpDone(*backend.Op) {
	st := r.st
	r.leave()
	st.mu.Lock()
	defer st.mu.Unlock()
	r.unlinkLocked()
	r.queueLocked()
}

// leave gives back what was admitted.
func (r *request) leave() {
	if r.admitted >= 0 {
		r.st.admission.release(r.admitted)
	}
	// The payload was the frame's, or is of no use any more.
	if r.op.Kind == backend.OpWrite {
		r.op.Data = nil
	}
	r.st.requests.Done()
}

func (r *request) unlinkLocked() {
	r.prev.next, r.next.prev = r.next, r.prev
	r.prev, r.next = nil, nil
}

func (r *request) queueLocked() {
	if r.st.ended {
		r.recycle()
		return
	}
	r.st.out = append(r.st.out, r)
	r.st.unsent += r.weight()
	r.st.pokeLocked()
}

// weight is the reply's size, or nearly, in bytes.
func (r *request) weight() int64 {
	n := int64(pb.ReplySize)
	if r.reply != nil {
		n += int64(len(*r.reply))
	}
	return n
}

// sendReply answers the request, and recycles it. It returns its weight.
func (r *request) sendReply(f *pb.Frame) int64 {
	weight := r.weight()
	*f = r.frame()
	_ = r.st.stream.SendMsg(f) // an error ends the stream, which receive notices
	f.Free()
	r.recycle()
	return weight
}

// frame makes the REPLY.
func (r *request) frame() pb.Frame {
	reply := pb.Reply{Request: r.id, Status: pb.StatusOf(r.op.Err)}
	if reply.Status == pb.StatusOK && r.op.Kind == backend.OpRead && !r.cancelled {
		b := r.reply
		r.reply = nil
		if reply.Hole = r.op.Hole; reply.Hole {
			*b = (*b)[:pb.ReplySize]
		}
		reply.Length = len(*b) - pb.ReplySize
		pb.PutReply(*b, reply)
		return pb.FrameOf(b)
	}
	text := ""
	switch reply.Status {
	case pb.StatusOK:
		if r.op.Kind == backend.OpRead { // cancelled: nobody wants the data
			reply.Status = pb.StatusOutcomeUnknown
		}
	case pb.StatusNotLeader:
		var hint *backend.NotLeaderError
		if errors.As(r.op.Err, &hint) {
			reply.Leader, reply.Term = hint.Leader, hint.Term
		}
	case pb.StatusClosed:
		// The replica is, not the client's volume; nothing was done.
		reply.Status = pb.StatusUnreachable
		text = "the chunkserver is stopping"
	default:
		text = pb.ErrorText(r.op.Err)
	}
	reply.Length = len(text)
	b := pb.Pool.Get(pb.ReplySize + len(text))
	pb.PutReply(*b, reply)
	copy((*b)[pb.ReplySize:], text)
	return pb.FrameOf(b)
}

func (r *request) recycle() {
	if r.reply != nil {
		pb.Pool.Put(r.reply)
	}
	*r = request{}
	requestPool.Put(r)
}

// cancel notes that nobody waits for a request any more: a read's data need not be
// sent. What a replica has begun goes on.
func (st *ioStream) cancel(id uint64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for r := st.under.next; r != &st.under; r = r.next {
		if r.id == id {
			r.cancelled = true
			return
		}
	}
}
