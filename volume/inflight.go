package volume

import (
	"sync"
	"time"
)

// inflight lists the queued requests in order of submission.
type inflight struct {
	mu           sync.Mutex // guards all, and the links of the listed requests
	first, last  *Request
	requestCount int
}

func (l *inflight) add(r *Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.older, r.newer = l.last, nil
	if l.last != nil {
		l.last.newer = r
	} else {
		l.first = r
	}
	l.last = r
	l.requestCount++
}

func (l *inflight) remove(r *Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.older != nil {
		r.older.newer = r.newer
	} else {
		l.first = r.newer
	}
	if r.newer != nil {
		r.newer.older = r.older
	} else {
		l.last = r.older
	}
	r.older, r.newer = nil, nil
	l.requestCount--
}

func (l *inflight) oldest() (int, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		return 0, 0
	}
	return l.requestCount, time.Since(l.first.Arrived)
}
