package target

import (
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// Memory for payloads is lent by the gateway, under its permits. The reader must
// not wait for it: what would give memory back may be behind it in the stream. So
// there are three ways:
//
//   - a command that takes all the room it needs goes on at once;
//   - one that gets none waits in a queue, first come first served, while the
//     reader goes on. All or nothing: two commands that hold a part each would wait
//     for each other. The first that waits for long takes it from the spill;
//   - data that the initiator may send without being asked cannot wait. Where the
//     gateway has no room it goes to the spill, which is bounded for the whole
//     server; beyond it the initiator is told to come again (TASK SET FULL).

// maxSpill bounds the spill of a server, in bytes. Data that comes unasked fills half of
// it: its commands wait for the rest of their room, so some must be left that only goes to
// commands that then wait for nothing.
const (
	maxSpill   = 64 << 20
	maxUnasked = maxSpill / 2
)

// spill is memory for unsolicited data beyond the gateway's permits.
type spill struct{ used atomic.Int64 }

// take returns n bytes, unless more than limit were out then.
func (s *spill) take(n, limit int64) []byte {
	if s.used.Add(n) > limit {
		s.used.Add(-n)
		return nil
	}
	return make([]byte, n)
}

// getRoom appends room for n more bytes to slices; false, and nothing done, if there
// is not that much.
func (t *task) getRoom(slices *[][]byte, n int64) bool {
	if n == 0 {
		return true
	}
	if t.lender == nil {
		t.lender = t.lun.lend()
	}
	if t.lender == nil { // no volume to do anything with: it is about parameters
		return t.getSpill(slices, n, maxSpill)
	}
	had, held := len(*slices), len(t.buffers)
	for n > 0 {
		part := min(n, gateway.MaxBuffer)
		b := t.lender.TryBuffer(part)
		if b == nil {
			clear((*slices)[had:])
			*slices = (*slices)[:had]
			for i, b := range t.buffers[held:] {
				b.Release()
				t.buffers[held+i] = nil
			}
			t.buffers = t.buffers[:held]
			return false
		}
		t.buffers = append(t.buffers, b)
		*slices = append(*slices, b.Data[:part])
		n -= part
	}
	return true
}

// getSpill is getRoom from the server's spill, up to a limit.
func (t *task) getSpill(slices *[][]byte, n, limit int64) bool {
	b := t.session.server.spill.take(n, limit)
	if b == nil {
		return false
	}
	t.spilled += n
	*slices = append(*slices, b)
	return true
}

func (t *task) returnRoom() {
	for i, b := range t.buffers {
		b.Release()
		t.buffers[i] = nil
	}
	t.buffers = t.buffers[:0]
	if t.lender != nil {
		t.lender.letGo()
		t.lender = nil
	}
	if t.spilled > 0 {
		t.session.server.spill.used.Add(-t.spilled)
		t.spilled = 0
	}
}

// starved are the tasks of a session that wait for room. session.mu guards it.
type starved struct {
	session *session
	queue   []*task
	retry   *time.Timer
	// feeding: somebody is at it, and looks again if it is asked to.
	feeding, again bool
}

// retryRoom is how soon room is looked for again when no command of the session
// gives any back: other sessions do.
const retryRoom = 2 * time.Millisecond

// starve queues a task.
func (s *session) starve(t *task) error {
	if t.began.IsZero() {
		t.began = volume.Now()
	}
	s.register(t, phaseStarved)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starved.queue = append(s.starved.queue, t)
	s.starved.arm()
	return nil
}

// arm makes sure that the queue is looked at again. With session.mu held.
func (q *starved) arm() {
	switch {
	case len(q.queue) == 0:
	case q.retry == nil:
		q.retry = time.AfterFunc(retryRoom, q.session.feed)
	default:
		q.retry.Reset(retryRoom)
	}
}

// anyStarved says that somebody waits for room, whom an answer may give it.
func (s *session) anyStarved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.starved.queue) > 0
}

// feed gives room to those who wait for it, in their order, as far as there is some.
func (s *session) feed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &s.starved
	if q.feeding {
		q.again = true
		return
	}
	q.feeding = true
	defer func() { q.feeding = false }()
	for q.again = true; q.again; {
		q.again = false
		for !s.ended && len(q.queue) > 0 && q.queue[0].takeRest() {
			t := q.queue[0]
			q.queue[0] = nil
			q.queue = q.queue[1:]
			s.writer.Begin()
			if t.write {
				s.writer.Finish(t.nextR2T())
				continue
			}
			s.mu.Unlock()
			if t.lun.unit.Execute(&t.command) {
				s.writer.Finish(t)
			}
			s.mu.Lock()
		}
	}
	q.arm()
}

// starvedEnough is when a command that is first in its queue takes its room from the
// spill: where the gateway has little memory, or others keep much of it, there would never
// be a share as large as the largest commands.
const starvedEnough = 50 * time.Millisecond

func (t *task) getRoomInTime(slices *[][]byte, n int64) bool {
	return t.getRoom(slices, n) ||
		volume.Now().Sub(t.began) > starvedEnough && t.getSpill(slices, n, maxSpill)
}

// takeRest takes the room that the task has not got yet.
func (t *task) takeRest() bool {
	if t.write {
		if !t.getRoomInTime(&t.command.Out, int64(t.need-t.room)) {
			return false
		}
		t.room = t.need
		t.phase = phaseSolicited
		return true
	}
	if !t.getRoomInTime(&t.command.In, t.answerRoom()) {
		return false
	}
	t.phase = phaseExecuting
	return true
}
