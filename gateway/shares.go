package gateway

import (
	"context"
	"sync"
)

// shares wakes clients that wait for their share of the buffers to grow.
type shares struct {
	mu      sync.Mutex // guards all below
	waiters int
	changed chan struct{} // closed at the next release
}

// wait returns when grown says true, which it may whenever a buffer comes back.
func (s *shares) wait(ctx context.Context, grown func() bool) error {
	if grown() {
		return nil
	}
	s.mu.Lock()
	s.waiters++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.waiters--
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if grown() { // a release since changed was taken closes it
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// released is called after a buffer came back.
func (s *shares) released() {
	s.mu.Lock()
	if s.waiters > 0 && s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	s.mu.Unlock()
}
