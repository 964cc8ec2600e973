package mds

import (
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// maxGroup bounds the Updates in one commit, and so the memory of a bolt
// transaction and the time the first of them waits.
const maxGroup = 128

// update is one Update on its way through a group commit.
type update struct {
	fn   func(Txn) error
	err  error         // valid once done is closed
	done chan struct{} // closed by whoever committed it
}

// Update queues fn. Whoever gets the turn commits all that wait, its own among
// them, in one bolt transaction; no goroutine is needed for it.
func (s *boltStore) Update(ctx context.Context, fn func(Txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &update{fn: fn, done: make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, u)
	s.mu.Unlock()

	select {
	case <-u.done:
	case s.turn <- struct{}{}:
		s.commitUntil(u)
	case <-ctx.Done():
		if s.withdraw(u) {
			return ctx.Err()
		}
		<-u.done // being committed: its outcome is near and must be told
	}
	return u.err
}

// commitUntil commits groups, oldest first, until u was among them, and gives
// the turn back. More than one only where more than maxGroup wait.
func (s *boltStore) commitUntil(u *update) {
	defer func() { <-s.turn }()
	for {
		select {
		case <-u.done:
			return
		default:
		}
		s.mu.Lock()
		n := min(len(s.waiting), maxGroup)
		group := s.waiting[:n:n]
		s.waiting = s.waiting[n:]
		s.mu.Unlock()

		err := s.commit(group)
		for _, m := range group {
			if err != nil {
				m.err = err
			}
			close(m.done)
		}
	}
}

// commit runs a group in one transaction. A member that fails is undone alone
// and keeps its error; an error returned here is everybody's.
func (s *boltStore) commit(group []*update) error {
	err := s.run(true, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketName)
		changed := false
		for _, m := range group {
			t := &boltTxn{bucket: b, writable: true}
			if m.err = m.fn(t); m.err == nil {
				changed = changed || len(t.old) > 0
				continue
			}
			if err := t.undo(); err != nil {
				return fmt.Errorf("undo in metadata file %s: %w", s.path, diskError(err))
			}
		}
		if !changed {
			return errNothingToCommit
		}
		return nil
	})
	if errors.Is(err, errNothingToCommit) {
		return nil
	}
	return err
}

// errNothingToCommit rolls a group back that changed nothing: an empty commit
// would flush the disk for nothing.
var errNothingToCommit = errors.New("nothing to commit")

// withdraw takes u out of the queue, unless somebody commits it already.
func (s *boltStore) withdraw(u *update) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, w := range s.waiting {
		if w == u {
			// A fresh slice: the group that is being committed shares the array.
			s.waiting = append(append([]*update(nil), s.waiting[:i]...), s.waiting[i+1:]...)
			return true
		}
	}
	return false
}
