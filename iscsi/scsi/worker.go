package scsi

import "sync"

// worker carries on with commands of several steps. A step must not be taken
// where a request completes: that may be the very goroutine that has to make
// room for the next request.
type worker struct {
	mu     sync.Mutex
	ready  sync.Cond
	queue  []*Command
	closed bool
	ended  chan struct{}
}

func startWorker(serve func(*Command)) *worker {
	w := &worker{ended: make(chan struct{})}
	w.ready.L = &w.mu
	go func() {
		defer close(w.ended)
		var batch []*Command
		for {
			if batch = w.pop(batch); len(batch) == 0 {
				return
			}
			for _, c := range batch {
				serve(c)
			}
			clear(batch)
		}
	}()
	return w
}

func (w *worker) push(c *Command) {
	w.mu.Lock()
	w.queue = append(w.queue, c)
	w.mu.Unlock()
	w.ready.Signal()
}

func (w *worker) pop(batch []*Command) []*Command {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closed {
		w.ready.Wait()
	}
	batch = append(batch[:0], w.queue...)
	clear(w.queue)
	w.queue = w.queue[:0]
	return batch
}

// stop ends the worker after what is queued.
func (w *worker) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.ready.Signal()
	<-w.ended
}

// Commands that compare, merge or copy need memory of their own: scratchSize
// each, for scratchMax commands of a unit at a time; others wait. There is room
// apart for those that may take long, so that a COMPARE AND WRITE does not wait
// for the VERIFY of a disk.
const (
	scratchSize = 256 << 10
	scratchMax  = 4
)

var scratchPool = sync.Pool{New: func() any { b := make([]byte, scratchSize); return &b }}

type scratchRoom struct {
	mu      sync.Mutex // guards all below
	out     int
	waiting []*Command
}

// take gives the command scratch memory, or queues it: then it is resumed at
// its next step, with the memory.
func (s *scratchRoom) take(c *Command) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == scratchMax {
		c.inline = false
		s.waiting = append(s.waiting, c)
		return false
	}
	s.out++
	c.room = s
	c.scratch = *scratchPool.Get().(*[]byte)
	return true
}

// pass gives the command's memory to who waits for it, and queues the command behind the
// others; false if nobody does.
func (s *scratchRoom) pass(c *Command) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return false
	}
	first := s.waiting[0]
	s.waiting = append(s.waiting[1:], c)
	first.scratch, first.room = c.scratch, s
	c.scratch, c.inline = nil, false
	first.resume()
	return true
}

func (s *scratchRoom) release(c *Command) {
	b := c.scratch
	c.scratch = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		s.out--
		scratchPool.Put(&b)
		return
	}
	first := s.waiting[0]
	s.waiting = s.waiting[1:]
	first.scratch, first.room = b, s
	first.resume()
}
