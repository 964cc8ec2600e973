package backend

import (
	"errors"
	"fmt"
)

// Errors of Chunks and Meta. Callers compare with errors.Is; every layer that
// adds words wraps with %w. A protocol maps them once, at its boundary.
var (
	// ErrInvalid: the request breaks a rule, whoever serves it. Not retried.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound: no such volume, segment or directory.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("already exists")
	// ErrBusy: the volume is open, or a directory is not empty.
	ErrBusy = errors.New("busy")
	// ErrConflict: the record is not, or no more, as the caller read it. Nothing was
	// changed; read it again.
	ErrConflict = errors.New("changed by somebody else since it was read")
	// ErrStaleEpoch: a newer open owns the volume. The caller lost it and must
	// stop; a retry can never succeed.
	ErrStaleEpoch = errors.New("volume was opened elsewhere since (stale epoch)")
	// ErrNoSpace: the disk is full. The operation may have been done in part,
	// as on any disk; a later retry may succeed.
	ErrNoSpace = errors.New("no space left on the chunk store's disk")
	// ErrChecksum: stored data does not match its checksum. The data is not
	// returned.
	ErrChecksum = errors.New("stored data does not match its checksum")
	// ErrIO: the disk failed. After a failed flush, every later flush of the
	// same chunk fails too: what the disk dropped cannot be flushed again.
	ErrIO = errors.New("input/output error")
	// ErrNotSupported: the backend cannot do this, or not as fast as the
	// FastZero flag demands. Nothing was changed.
	ErrNotSupported = errors.New("operation not supported")
	// ErrReadOnly: a change to something opened for reading only.
	ErrReadOnly = errors.New("read-only")
	// ErrClosed: the volume or backend is closing; nothing was started.
	ErrClosed = errors.New("closed")

	// The errors below come from Replicas only, and say what to do next rather
	// than that something failed.

	// ErrNotLeader: the chunkserver does not lead the copyset; nothing was done.
	// A *NotLeaderError may say who does.
	ErrNotLeader = errors.New("not the leader of the copyset")
	// ErrNoCopyset: the chunkserver does not hold the copyset; nothing was done.
	// Ask Meta for its peers again.
	ErrNoCopyset = errors.New("copyset is not on this chunkserver")
	// ErrOverload: the chunkserver has too much to do; nothing was done. Back off.
	ErrOverload = errors.New("chunkserver is overloaded")
	// ErrUnreachable: the chunkserver cannot be reached; nothing was done.
	ErrUnreachable = errors.New("unreachable")
	// ErrOutcomeUnknown: the connection or the leadership was lost, or the
	// operation cancelled, after it was sent: it may have been done, or be done
	// yet. Send it again with the same Seq.
	ErrOutcomeUnknown = errors.New("outcome unknown")
)

// NotLeaderError is an ErrNotLeader with a hint.
type NotLeaderError struct {
	Copyset CopysetID
	// Leader in Term, as far as the answering server knows; 0 for unknown.
	Leader ServerID
	Term   uint64
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("%v: %v has no known leader in term %d", ErrNotLeader, e.Copyset, e.Term)
	}
	return fmt.Sprintf("%v: %v is led by %v in term %d", ErrNotLeader, e.Copyset, e.Leader, e.Term)
}

// Unwrap makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Unwrap() error { return ErrNotLeader }
