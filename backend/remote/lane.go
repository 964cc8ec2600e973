package remote

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// inlineBytes may be on their way on a stream for a submitter to send its own
	// frame. gRPC takes 64 KiB from a sender before it makes it wait for the peer,
	// so that below this a submitter never waits.
	inlineBytes = 32 << 10
	// maxControls bounds the ASK and CANCEL frames that wait; both only save time,
	// so that what comes beyond is dropped.
	maxControls = 4096
	// batch is how many operations the sender takes at once.
	batch = 32
)

// laneState is how far a lane's stream is:
//
//	down ⇄ queueing → up → down
type laneState uint8

const (
	// laneDown: the server was not reached; submitting fails.
	laneDown laneState = iota
	// laneQueueing: it is being dialled; operations wait.
	laneQueueing
	// laneUp: the stream is there.
	laneUp
)

// lane is one stream to a chunkserver, from one connection to the next: its queue
// and what is in flight on it.
//
// An operation is in a slot from submit until its reply, or the end of the stream.
// Whoever takes it out of the slot, under mu, completes it.
type lane struct {
	s *server

	// mu guards everything below.
	mu    sync.Mutex
	state laneState
	// why the state is laneDown.
	why    error
	stream grpc.ClientStream
	slots  slots
	// queue are the slots that wait to be sent, in order.
	queue    fifo
	queued   int64 // bytes of them
	controls []pb.Frame
	// sending: somebody is in stream.SendMsg, with out.
	sending bool
	out     pb.Frame
	// air are the bytes sent and not answered.
	air int64
	// refusing is set by Close; idle is closed when it is and no operation is left.
	refusing bool
	idle     chan struct{}

	// wake has a token when the sender should look.
	wake chan struct{}
	// batch is the sender's.
	batch []pb.Frame
}

func newLane(s *server) *lane {
	return &lane{s: s, why: errUnreachable, idle: make(chan struct{}), wake: make(chan struct{}, 1), slots: slots{limit: s.c.opts.MaxOps}, state: laneQueueing}
}

// accepts is a look ahead whether submit would refuse, before a payload is copied.
func (l *lane) accepts(op *backend.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusalLocked(int64(len(op.Data)))
}

func (l *lane) refusalLocked(bytes int64) error {
	switch {
	case l.refusing:
		return errClosed
	case l.state == laneDown:
		return l.why
	case l.slots.full(), l.queued > 0 && l.queued+bytes > l.s.c.opts.MaxBytes:
		return errQueueFull
	}
	return nil
}

// submit sends op in frame, or queues it. On an error nothing happened.
func (l *lane) submit(op *backend.Op, frame *[]byte) error {
	size := int64(len(*frame))
	l.mu.Lock()
	if err := l.refusalLocked(size); err != nil {
		l.mu.Unlock()
		return err
	}
	id, slot := l.slots.take(op, size)
	pb.SetRequest(*frame, id)
	if l.state == laneUp && !l.sending && l.queue.len() == 0 && l.air+size <= inlineBytes {
		slot.sent = true
		l.air += size
		l.out = pb.FrameOf(frame)
		l.sendLocked()
		l.mu.Unlock()
		return nil
	}
	slot.frame = pb.FrameOf(frame)
	l.queued += size
	if l.queue.len() >= 2*l.slots.limit {
		// Most are cancelled, and the stream does not move.
		l.queue.keep(func(request uint64) bool { return l.slots.get(request) != nil })
	}
	l.queue.push(id)
	wake := l.state == laneUp && !l.sending
	l.mu.Unlock()
	if wake {
		l.poke()
	}
	return nil
}

// sendLocked sends l.out, without mu, and wakes the sender if more came meanwhile. An
// error of the stream is the receiver's to deal with, which gets it too.
func (l *lane) sendLocked() {
	l.sending = true
	stream := l.stream
	l.mu.Unlock()
	_ = stream.SendMsg(&l.out)
	l.mu.Lock()
	l.sending = false
	l.out.Free()
	if l.queue.len() > 0 || len(l.controls) > 0 {
		l.poke()
	}
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// send is the sender's loop, for one stream.
func (l *lane) send(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		l.mu.Lock()
		for !l.sending && ctx.Err() == nil && l.takeBatchLocked() {
			l.sending = true
			stream := l.stream
			l.mu.Unlock()
			for i := range l.batch {
				_ = stream.SendMsg(&l.batch[i])
				l.batch[i].Free()
			}
			l.mu.Lock()
			l.sending = false
		}
		l.mu.Unlock()
	}
}

// takeBatchLocked moves what waits to l.batch.
func (l *lane) takeBatchLocked() bool {
	clear(l.batch)
	l.batch = append(l.batch[:0], l.controls...)
	clear(l.controls)
	l.controls = l.controls[:0]
	for n := 0; n < batch && l.queue.len() > 0; n++ {
		slot := l.slots.get(l.queue.pop())
		if slot == nil {
			continue // cancelled
		}
		slot.sent = true
		l.queued -= slot.size
		l.air += slot.size
		l.batch = append(l.batch, slot.frame)
		slot.frame = pb.Frame{}
	}
	return len(l.batch) > 0
}

// ask asks who leads, and reports false when the stream is not there.
func (l *lane) ask(copyset backend.CopysetID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != laneUp {
		return false
	}
	l.controlLocked(pb.AppendAsk(nil, copyset))
	return true
}

func (l *lane) controlLocked(frame []byte) {
	if len(l.controls) >= maxControls {
		return
	}
	l.controls = append(l.controls, pb.FrameOf(&frame))
	l.poke()
}

// cancel takes op out of its slot; the caller completes it. False when it is not
// there.
func (l *lane) cancel(op *backend.Op) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	id, slot := l.slots.find(op)
	if slot == nil {
		return false
	}
	slot.op = nil
	if slot.sent {
		l.controlLocked(pb.AppendCancel(nil, id)) // the slot stays until the reply
	} else {
		l.queued -= slot.size
		slot.frame.Free()
		l.slots.free(id)
	}
	l.leaveLocked()
	return true
}

// leaveLocked counts an operation that has left its slot.
func (l *lane) leaveLocked() {
	l.slots.ops--
	if l.refusing && l.slots.ops == 0 {
		close(l.idle)
	}
}

// claim takes the operation that a reply answers out of its slot; nil for one that
// was cancelled.
func (l *lane) claim(request uint64) (*backend.Op, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slot := l.slots.get(request)
	if slot == nil || !slot.sent {
		return nil, fmt.Errorf("%w: reply to request %#x, which is not in flight", backend.ErrInvalid, request)
	}
	op := slot.op
	l.air -= slot.size
	l.slots.free(request)
	if op != nil {
		l.leaveLocked()
	}
	return op, nil
}

// dialling lets operations wait for the stream.
func (l *lane) dialling() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = laneQueueing
}

// up gives the lane its stream.
func (l *lane) up(stream grpc.ClientStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.stream, l.air = laneUp, stream, 0
	l.poke()
}

// down takes the stream away; everything in flight completes. The stream must have
// ended, so that nobody stays in SendMsg.
func (l *lane) down(why error) {
	l.mu.Lock()
	l.state, l.why, l.stream = laneDown, why, nil
	l.queue.clear()
	l.queued = 0
	for i := range l.controls {
		l.controls[i].Free()
	}
	clear(l.controls)
	l.controls = l.controls[:0]
	unsent, sent := l.slots.drain()
	if l.refusing && len(unsent)+len(sent) > 0 {
		close(l.idle)
	}
	l.mu.Unlock()
	for _, op := range sent {
		complete(op, errLostSent)
	}
	for _, op := range unsent {
		complete(op, why)
	}
}

// refuse makes submit fail with ErrClosed; the channel is closed when no operation is
// in flight any more.
func (l *lane) refuse() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.refusing {
		l.refusing = true
		if l.slots.ops == 0 {
			close(l.idle)
		}
	}
	return l.idle
}
