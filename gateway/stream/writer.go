package stream

import "sync"

// Answers is what a Writer knows of the answers of a connection.
type Answers[A any] interface {
	// Send writes answers, together, and is done with them. A failed write ends the
	// connection; it is done with them all the same.
	Send([]A)
	// SendNow is Send of one, from the goroutine that it finished on, unless it would
	// have to wait for anything. Where the peer takes a part only it returns Begun, and
	// SendRest is due.
	SendNow(A) Sending
	// SendRest ends what SendNow began.
	SendRest(A)
}

// Sending is how far SendNow came.
type Sending uint8

const (
	// Declined: nothing was done.
	Declined Sending = iota
	// Begun: a part is written, and nobody else can write before SendRest.
	Begun
	// Sent: as after Send.
	Sent
)

// Writer sends the answers that finish on other goroutines than the connection's
// reader. It has a goroutine of its own, from the first of them on, so that a peer that
// does not take its answers stalls only itself.
//
// At depth 1 waking that goroutine costs as much as the write, and the peer waits for
// it: an answer that is the only one under way goes out from where it finished, if the
// peer takes it at once. For 4k writes that are synced this is a quarter of the
// processor's time.
type Writer[A any] struct {
	answers Answers[A]
	done    sync.WaitGroup

	mu       sync.Mutex // guards all below
	wake     sync.Cond
	inFlight int
	finished []A
	begun    []A // one at most: what SendRest is due for
	closing  bool
}

// Init sets whose answers are sent, before anything else.
func (w *Writer[A]) Init(answers Answers[A]) { w.answers = answers }

// Begin counts something whose Finish, or Drop, must follow.
func (w *Writer[A]) Begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wake.L == nil {
		w.wake.L = &w.mu
		w.done.Go(w.run)
	}
	w.inFlight++
}

// Finish takes the answer to what was begun, from any goroutine.
func (w *Writer[A]) Finish(a A) {
	w.mu.Lock()
	if w.inFlight > 1 {
		w.finishLocked(&w.finished, a)
		return
	}
	w.mu.Unlock()
	switch w.answers.SendNow(a) {
	case Sent:
		w.Drop()
	case Begun:
		w.mu.Lock()
		w.finishLocked(&w.begun, a)
	default:
		w.mu.Lock()
		w.finishLocked(&w.finished, a)
	}
}

// finishLocked leaves an answer to the goroutine, and unlocks mu.
func (w *Writer[A]) finishLocked(list *[]A, a A) {
	*list = append(*list, a)
	w.mu.Unlock()
	w.wake.Signal()
}

// Drop forgets what needs no answer any more, or got it from the reader.
func (w *Writer[A]) Drop() {
	w.mu.Lock()
	w.inFlight--
	closing := w.closing
	w.mu.Unlock()
	if closing {
		w.wake.Signal()
	}
}

// Busy says that something was begun that is not answered.
func (w *Writer[A]) Busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inFlight > 0
}

// run sends what has finished, together, until closed and idle.
func (w *Writer[A]) run() {
	var begun, finished []A
	for {
		w.mu.Lock()
		w.inFlight -= len(begun) + len(finished)
		clear(begun)
		clear(finished)
		for len(w.begun)+len(w.finished) == 0 && (!w.closing || w.inFlight > 0) {
			w.wake.Wait()
		}
		begun, w.begun = w.begun, begun[:0]
		finished, w.finished = w.finished, finished[:0]
		w.mu.Unlock()
		if len(begun)+len(finished) == 0 {
			return
		}
		for _, a := range begun {
			w.answers.SendRest(a)
		}
		if len(finished) > 0 {
			w.answers.Send(finished)
		}
	}
}

// Close waits until all that was begun is answered, after the last Begin.
func (w *Writer[A]) Close() {
	w.mu.Lock()
	w.closing = true
	started := w.wake.L != nil
	w.mu.Unlock()
	if started {
		w.wake.Signal()
		w.done.Wait()
	}
}
