// Package raftlog is the log of all copysets on one disk: every raft group of a
// chunkserver appends to the same segments, and one sync serves all that wait.
// A Group is raft.LogStore, raft.StableStore and raft.MonotonicLogStore of one
// copyset.
//
// # Durability
//
// StoreLogs and DeleteRange return once their records are queued, unless
// Options.Blocking is set; what a promise to others rests on is asked of Durable,
// AfterDurable and WaitDurable. Set and Delete wait. All records of the log,
// whosever they are, become durable in the order in which they were queued. When
// a write or a sync fails the log has failed for good: Options.Failed is called,
// who waits gets backend.ErrIO, and AfterDurable's functions are never called.
//
// # Files
//
// Segment files have their size and space from the start and are used again
// under a new sequence number when nothing in them is needed. One goroutine
// writes: all that is queued goes into batches (format.go), one write each, and
// one sync. Every Open goes on in a segment of its own, so that nothing is ever
// written behind a torn batch.
//
// # What damage looks like
//
// A batch that is not whole is the end of the log if the power may have cut it,
// and damage if it had been durable. What had been durable is told by every later
// batch, by the header of the next segment, and, once the log rests, by a file of
// its own, the mark. The records of each group are numbered without gaps, and
// every segment, and the mark, begin with a roster of all groups and their
// numbers: so it shows which groups lost something, and where that does not show,
// all that may have are taken for damaged. Damage that hits the last batch within
// 100 ms of its writing, before a crash, looks like a torn write; nothing can tell.
package raftlog
