package copyset

import (
	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
)

// The keys under which raft stores a vote: LastVoteTerm, then LastVoteCand.
const (
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
)

// ballots is the log as raft's StableStore. Raft stores a vote as two values, one
// after the other. Here the term waits for the candidate, and one wait for the disk
// is enough for both. The candidate comes first on the disk: a power cut between the
// two in raft's order leaves the new term with the candidate of an older vote, and
// that one would get the vote again, whatever its log.
type ballots struct {
	groupLog
	// term is that of the vote that is being stored, nil for none. Raft stores votes
	// on its main goroutine only.
	term *uint64
}

var _ raft.StableStore = (*ballots)(nil)

// SetUint64 implements raft.StableStore.
func (b *ballots) SetUint64(key []byte, val uint64) error {
	if string(key) != keyVoteTerm {
		return b.groupLog.SetUint64(key, val)
	}
	b.term = &val
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
