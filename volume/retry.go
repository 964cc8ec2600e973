package volume

import (
	"errors"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// retryAction is what to do about an operation that failed.
type retryAction uint8

const (
	// retryRedirect: take the hint, if there is one, and send again; otherwise
	// search.
	retryRedirect retryAction = iota
	// retrySearch: ask all peers who leads, and send again to that one.
	retrySearch
	// retryRefresh: retrySearch, and ask Meta who the peers are.
	retryRefresh
	// retryLater: send again to the same leader after a back-off.
	retryLater
	// retryNever: the operation fails.
	retryNever
	// retryLost: the volume belongs to somebody else; everything fails.
	retryLost
)

// retryRow says what to do about one class of errors.
type retryRow struct {
	err    error
	reason string // in metrics
	action retryAction
	// broke: the leader could not be reached, rather than that it refused.
	broke bool
	// The back-off of retryLater doubles from the first to the last.
	first, last time.Duration
}

const (
	overloadFirst = 2 * time.Millisecond
	overloadLast  = 500 * time.Millisecond
	troubleFirst  = 100 * time.Millisecond
	troubleLast   = 2 * time.Second
)

// retryTable is the whole of what a volume does about errors of Replicas. The
// first row that matches counts. Sending again never does a change twice: the
// fence sees to it.
var retryTable = []retryRow{
	{err: backend.ErrStaleEpoch, reason: "stale-epoch", action: retryLost},
	{err: backend.ErrNotLeader, reason: "not-leader", action: retryRedirect},
	{err: backend.ErrNoCopyset, reason: "no-copyset", action: retryRefresh},
	{err: backend.ErrUnreachable, reason: "unreachable", action: retrySearch, broke: true},
	{err: backend.ErrOutcomeUnknown, reason: "outcome-unknown", action: retrySearch},
	{err: backend.ErrOverload, reason: "overload", action: retryLater, first: overloadFirst, last: overloadLast},
	{err: backend.ErrNoSpace, reason: "no-space", action: retryLater, first: troubleFirst, last: troubleLast},
	{err: backend.ErrIO, reason: "io", action: retryLater, first: troubleFirst, last: troubleLast},
	{err: backend.ErrChecksum, reason: "checksum", action: retryLater, first: troubleFirst, last: troubleLast},
	{err: backend.ErrInvalid, reason: "invalid", action: retryNever},
	{err: backend.ErrNotSupported, reason: "not-supported", action: retryNever},
	{err: backend.ErrReadOnly, reason: "read-only", action: retryNever},
	{err: backend.ErrClosed, reason: "closed", action: retryNever},
	// What nobody has thought of may pass, too.
	{err: nil, reason: "other", action: retryLater, first: troubleFirst, last: troubleLast},
}

// reasonTakenBack counts operations that were not refused, but cancelled by us to
// be sent elsewhere or anew.
const reasonTakenBack = "taken-back"

// retryFor finds the row of an error.
func retryFor(err error) *retryRow {
	last := len(retryTable) - 1
	for i := range retryTable[:last] {
		if errors.Is(err, retryTable[i].err) {
			return &retryTable[i]
		}
	}
	return &retryTable[last]
}

// hint returns who leads, and in which term, where the error says so.
func hint(err error) (leader backend.ServerID, term uint64) {
	var e *backend.NotLeaderError
	if errors.As(err, &e) {
		return e.Leader, e.Term
	}
	return 0, 0
}

// backOff is the wait before the n-th repetition (from 0), of which spread, in
// [0, 1), takes up to half away, so that those who were refused together do not
// come back together.
func (row *retryRow) backOff(n int, spread float64) time.Duration {
	d := doubled(row.first, n, row.last)
	return (d - time.Duration(spread*float64(d)/2)).Truncate(100 * time.Microsecond)
}
