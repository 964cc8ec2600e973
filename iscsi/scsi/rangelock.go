package scsi

import "sync"

// rangeLock keeps commands that must be atomic apart from those that touch the
// same blocks. Plain reads and writes hold their range shared and never wait for
// each other: SCSI leaves them in any order. First come, first served, so that
// a stream of small writes cannot keep a COMPARE AND WRITE out.
type rangeLock struct {
	mu            sync.Mutex // guards all below
	held, waiting holdList
	exclusive     int // holds in either list
}

// hold is a command's claim on blocks [from, to). Part of the command, so that
// locking takes no memory.
type hold struct {
	from, to    uint64
	exclusive   bool
	held        bool
	command     *Command
	lock        *rangeLock
	older, next *hold
}

func (h *hold) excludes(o *hold) bool {
	return (h.exclusive || o.exclusive) && h.from < o.to && o.from < h.to
}

// acquire takes the lock, or queues the command, which is resumed when it has
// it. What has to be set for that must be set before.
func (l *rangeLock) acquire(c *Command) bool {
	h := &c.hold
	h.command, h.lock = c, l
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.exclusive {
		l.exclusive++
	}
	if l.exclusive > 0 && (l.held.excludes(h, nil) || l.waiting.excludes(h, nil)) {
		c.inline = false
		l.waiting.push(h)
		return false
	}
	h.held = true
	l.held.push(h)
	return true
}

// release gives the lock back and resumes those that waited for it.
func (h *hold) release() {
	l := h.lock
	l.mu.Lock()
	defer l.mu.Unlock()
	h.held = false
	l.held.remove(h)
	if h.exclusive {
		l.exclusive--
	}
	for w := l.waiting.first; w != nil; {
		next := w.next
		if !l.held.excludes(w, nil) && !l.waiting.excludes(w, w) {
			l.waiting.remove(w)
			w.held = true
			l.held.push(w)
			w.command.resume()
		}
		w = next
	}
}

// holdList is a list of holds, oldest first.
type holdList struct{ first, last *hold }

func (l *holdList) push(h *hold) {
	h.older, h.next = l.last, nil
	if l.last == nil {
		l.first = h
	} else {
		l.last.next = h
	}
	l.last = h
}

func (l *holdList) remove(h *hold) {
	if h.older == nil {
		l.first = h.next
	} else {
		h.older.next = h.next
	}
	if h.next == nil {
		l.last = h.older
	} else {
		h.next.older = h.older
	}
	h.older, h.next = nil, nil
}

// excludes says whether a hold of the list, older than until, excludes h.
func (l *holdList) excludes(h, until *hold) bool {
	for o := l.first; o != nil && o != until; o = o.next {
		if o.excludes(h) {
			return true
		}
	}
	return false
}
