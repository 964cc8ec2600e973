package volume

import "sync"

// queue is a FIFO between two stages that hands its readers everything that
// waits at once, so that one wake-up serves a burst. It needs no bound of its
// own: what it holds is bounded by the permits of the requests (Limits).
// Closed by the owner of the stage before it, after the last push.
type queue[T any] struct {
	mu     sync.Mutex
	ready  sync.Cond
	items  []T
	closed bool
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.ready.L = &q.mu
	return q
}

func (q *queue[T]) push(item T) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	q.ready.Signal()
}

// pop waits for items and moves up to max of them (all for max 0) into buf[:0].
// It returns an empty slice once the queue is closed and drained.
func (q *queue[T]) pop(buf []T, max int) []T {
	var zero T
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.ready.Wait()
	}
	n := len(q.items)
	if max > 0 && n > max {
		n = max
		q.ready.Signal() // another reader takes the rest
	}
	buf = append(buf[:0], q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	for i := rest; i < len(q.items); i++ {
		q.items[i] = zero // keep no reference to what was handed out
	}
	q.items = q.items[:rest]
	return buf
}

func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}
