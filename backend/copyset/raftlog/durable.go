package raftlog

import (
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// Durable is the index up to which the group's entries are on stable storage, or
// were, before they were deleted as a prefix.
func (g *Group) Durable() uint64 { return g.durable.Load() }

// AfterDurable calls fn once everything that the group has appended so far is on
// stable storage: at once on the caller's goroutine if it is, else on a goroutine
// of the log, which fn must not block. Never called after the log failed. Those
// of one group that have to wait are called in order; one that need not wait may
// overtake them.
func (g *Group) AfterDurable(fn func()) {
	l := g.parent
	l.mu.Lock()
	switch {
	case g.round <= l.durableRound:
		l.mu.Unlock()
		if l.failed() == nil {
			fn()
		}
		return
	case l.err != nil:
	case g.round == l.round:
		l.after = append(l.after, fn)
	default:
		l.writingAfter = append(l.writingAfter, fn)
	}
	l.mu.Unlock()
}

func (l *Log) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// WaitDurable waits until index is durable. backend.ErrIO when the log failed,
// backend.ErrInvalid for an entry that the group does not have.
func (g *Group) WaitDurable(index uint64) error {
	l := g.parent
	for {
		if g.durable.Load() >= index {
			return nil
		}
		l.mu.Lock()
		if g.durable.Load() >= index {
			l.mu.Unlock()
			return nil
		}
		if index > g.last || g.damage != nil {
			err := g.damage
			if err == nil {
				err = fmt.Errorf("%w: waiting for entry %d of %v, which ends at %d", backend.ErrInvalid, index, g.id, g.last)
			}
			l.mu.Unlock()
			return err
		}
		done := l.settled(g.round)
		l.mu.Unlock()
		if err := l.await(done); err != nil {
			return err
		}
	}
}
