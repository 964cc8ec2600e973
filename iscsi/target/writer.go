package target

import "sync"

// writer sends the answers of commands that complete on other goroutines, and what
// the target says by itself. It runs from the first of them on.
type writer struct {
	session *session
	done    sync.WaitGroup

	mu       sync.Mutex // guards all below
	wake     sync.Cond
	inFlight int
	finished []reply
	closing  bool
}

// begin counts something that will be finished.
func (w *writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wake.L == nil {
		w.wake.L = &w.mu
		w.done.Go(w.run)
	}
	w.inFlight++
}

// finish takes what was begun, from any goroutine.
func (w *writer) finish(r reply) {
	w.mu.Lock()
	w.finished = append(w.finished, r)
	w.mu.Unlock()
	w.wake.Signal()
}

// post is begin and finish.
func (w *writer) post(r reply) {
	w.begin()
	w.finish(r)
}

// post sends something, unless the session is about to end.
func (s *session) post(r reply) {
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.writer.begin()
	}
	s.mu.Unlock()
	if !ended {
		s.writer.finish(r)
	}
}

// drop forgets what the reader answers itself.
func (w *writer) drop() {
	w.mu.Lock()
	w.inFlight--
	closing := w.closing
	w.mu.Unlock()
	if closing {
		w.wake.Signal()
	}
}

// busy says that something was begun that is not answered.
func (w *writer) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inFlight > 0
}

// run sends what has finished, together, until closed and idle.
func (w *writer) run() {
	var replies []reply
	for {
		w.mu.Lock()
		w.inFlight -= len(replies)
		for len(w.finished) == 0 && (!w.closing || w.inFlight > 0) {
			w.wake.Wait()
		}
		clear(replies)
		replies, w.finished = w.finished, replies[:0]
		w.mu.Unlock()
		if len(replies) == 0 {
			return
		}
		// A failed write ends the connection; the commands are over all the same.
		if err := w.session.sender.send(replies); err != nil {
			w.session.conn.fail(err)
		}
		for _, r := range replies {
			r.sent()
		}
		w.session.feed()
	}
}

// close waits until everything is answered.
func (w *writer) close() {
	w.mu.Lock()
	w.closing = true
	started := w.wake.L != nil
	w.mu.Unlock()
	if !started {
		return // never used
	}
	w.wake.Signal()
	w.done.Wait()
}
