package backend

// Replicas is Chunks held by several chunkservers, of which one, the leader of
// the chunk's copyset, serves an operation. Who leads changes: the caller (package
// volume) keeps the routes, numbers the changes for the fence, and decides what to
// do about an operation that got no answer. An implementation sends each operation
// once, to Op.Server, and retries nothing.
//
// Differences to Chunks elsewhere: Try always declines. Every acknowledged change
// is on stable storage of a majority, so FUA changes nothing, and OpFlush is never
// sent here. Changes of one chunk that are in flight together may take effect in
// any order. A change's payload is not referenced any more when Submit returns; a
// read's buffer is, until completion.
//
// Errors that decide what happens next: ErrNotLeader, ErrNoCopyset, ErrOverload,
// ErrUnreachable, ErrOutcomeUnknown; ErrNoSpace, ErrIO and ErrChecksum may pass
// when the disk is freed, another replica leads or the block is repaired;
// ErrStaleEpoch, ErrInvalid and ErrNotSupported are final.
type Replicas interface {
	Chunks

	// Watch tells w of routes until Unwatch. It begins with what is known.
	Watch(w RouteWatcher)
	Unwatch(w RouteWatcher)

	// Ask asks a chunkserver who leads a copyset, connecting first if need be. It
	// never blocks; the answer, if one comes, goes to every RouteWatcher.
	Ask(server ServerID, copyset CopysetID)

	// Cancel gives up on a submitted operation: unless it is just completing, it
	// completes with ErrOutcomeUnknown before Cancel returns.
	Cancel(op *Op)
}

// RouteWatcher hears who leads. Calls come one at a time, on any goroutine; they
// must not block and must not call Submit.
type RouteWatcher interface {
	// LeaderIs: server says that it, or the other one that it follows, leads
	// copyset in term. News of older terms than seen before are stale. A leader of
	// 0 means that the one of that term has stepped down.
	LeaderIs(copyset CopysetID, leader ServerID, term uint64)
	// ServerLost: the connection to server broke, or cannot be made. What was in
	// flight on it completes with ErrOutcomeUnknown or ErrUnreachable by itself.
	ServerLost(server ServerID)
}
