package copyset

import (
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
)

// The keys under which raft stores its term and its vote: LastVoteTerm, then
// LastVoteCand.
const (
	keyTerm          = "CurrentTerm"
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
)

// ballots is the log as raft's StableStore. Raft stores a vote as two values, one
// after the other. Here the term waits for the candidate, and one wait for the disk
// is enough for both. The candidate comes first on the disk: a power cut between the
// two in raft's order leaves the new term with the candidate of an older vote, and
// that one would get the vote again, whatever its log.
//
// Raft also stores its term again whenever it becomes a follower. A leader that was
// just elected would wait for that at each follower that has begun to stand, and on a
// slow disk step down for not hearing of them.
type ballots struct {
	groupLog
	// stored is the current term that was made durable last, 0 if not known.
	stored atomic.Uint64
	// term is that of the vote that is being stored, nil for none. Raft stores votes
	// on its main goroutine only.
	term *uint64
}

var _ raft.StableStore = (*ballots)(nil)

// SetUint64 implements raft.StableStore.
func (b *ballots) SetUint64(key []byte, val uint64) error {
	switch string(key) {
	case keyTerm:
		return b.setTerm(key, val)
	case keyVoteTerm:
		b.term = &val
		return nil
	}
	return b.groupLog.SetUint64(key, val)
}

// setTerm is called on raft's main goroutine and on the one of its heartbeats. What
// either has stored counts only while it is still the newest value.
func (b *ballots) setTerm(key []byte, term uint64) error {
	if b.stored.Load() == term {
		if now, err := b.GetUint64(key); err == nil && now == term {
			return nil
		}
	}
	if err := b.groupLog.SetUint64(key, term); err != nil {
		return err
	}
	b.stored.Store(term)
	return nil
}

// Set implements raft.StableStore.
func (b *ballots) Set(key, val []byte) error {
	if string(key) != keyVoteCandidate || b.term == nil {
		return b.groupLog.Set(key, val)
	}
	term := raftlog.Uint64(keyVoteTerm, *b.term)
	b.term = nil
	return b.SetAll(raftlog.Pair{Key: keyVoteCandidate, Val: val}, term)
}
