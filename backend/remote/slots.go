package remote

import (
	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// maxSlots keeps a slot's index in the lower half of a request's number.
const maxSlots = 1 << 20

// slot is a request that has no reply yet.
type slot struct {
	op    *backend.Op // nil when it was cancelled
	frame pb.Frame    // until it is sent
	size  int64       // of the frame, in bytes
	// turn tells the slot's users apart: the upper half of a request's number.
	turn uint32
	used bool
	sent bool
	next int32 // in the list of free slots
}

// slots are the requests of a lane. A request's number is the turn and index of its
// slot, so that finding it takes no map.
type slots struct {
	limit int
	all   []slot
	// vacant is the first free slot plus 1, 0 for none; used counts those taken, ops
	// those of them with an operation.
	vacant    int32
	used, ops int
}

func (s *slots) full() bool { return s.used >= s.limit }

func (s *slots) take(op *backend.Op, size int64) (uint64, *slot) {
	i := s.vacant - 1
	if i < 0 {
		i = int32(len(s.all))
		s.all = append(s.all, slot{})
	} else {
		s.vacant = s.all[i].next
	}
	e := &s.all[i]
	e.op, e.size, e.used, e.sent = op, size, true, false
	e.turn++
	s.used++
	s.ops++
	return uint64(e.turn)<<32 | uint64(i), e
}

// get returns the slot of a request, nil when it has none.
func (s *slots) get(request uint64) *slot {
	i := int(uint32(request))
	if i >= len(s.all) || !s.all[i].used || s.all[i].turn != uint32(request>>32) {
		return nil
	}
	return &s.all[i]
}

func (s *slots) free(request uint64) {
	i := int32(uint32(request))
	e := &s.all[i]
	e.op, e.frame, e.used, e.next = nil, pb.Frame{}, false, s.vacant
	s.vacant = i + 1
	s.used--
}

// find looks an operation up: rare enough for a walk.
func (s *slots) find(op *backend.Op) (uint64, *slot) {
	for i := range s.all {
		if e := &s.all[i]; e.used && e.op == op {
			return uint64(e.turn)<<32 | uint64(i), e
		}
	}
	return 0, nil
}

// drain frees all slots and returns the operations that were in them.
func (s *slots) drain() (unsent, sent []*backend.Op) {
	for i := range s.all {
		e := &s.all[i]
		if !e.used {
			continue
		}
		switch {
		case e.op == nil:
		case e.sent:
			sent = append(sent, e.op)
		default:
			unsent = append(unsent, e.op)
		}
		e.frame.Free()
		s.free(uint64(i))
	}
	s.ops = 0
	return unsent, sent
}

// fifo is a queue of requests.
type fifo struct {
	items []uint64
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(request uint64) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		// Room at the front is used again before the queue grows.
		q.items = q.items[:copy(q.items, q.items[q.head:])]
		q.head = 0
	}
	q.items = append(q.items, request)
}

// keep drops the requests that are not wanted any more.
func (q *fifo) keep(wanted func(request uint64) bool) {
	kept := q.items[:0]
	for _, request := range q.items[q.head:] {
		if wanted(request) {
			kept = append(kept, request)
		}
	}
	q.items, q.head = kept, 0
}

func (q *fifo) pop() uint64 {
	request := q.items[q.head]
	q.head++
	if q.head == len(q.items) {
		q.clear()
	}
	return request
}

func (q *fifo) clear() { q.items, q.head = q.items[:0], 0 }
