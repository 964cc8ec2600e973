// Package copyset is one raft group of replicas of the same chunks: it replicates
// changes, applies them to the chunk store, serves reads from the leader, brings
// replicas up to date, and repairs damaged chunks. Raft is hashicorp/raft; the log
// is raftlog's, the links and leases are raftnet's.
//
// # Changes
//
// Submit copies a change into the entry under construction (propose.go). An entry
// leaves as soon as few enough are in flight, so that entries grow with the load and
// nothing waits for a timer. Nobody waits for raft's futures: the state machine
// (fsm.go) finds the proposal of an entry that it applies by a number in the entry
// and answers its operations; the end of the leadership answers the rest with
// ErrOutcomeUnknown. An entry that raft did take, of a leadership that is over, may
// still be applied. That is what the fence is for.
//
// # The fence
//
// Per volume the state machine keeps the newest epoch, and per session of that epoch
// which numbers were applied (fence.go). It decides in log order, so all replicas
// decide alike: an older epoch is refused, a number seen before is answered as done
// and not applied. The store below gets a constant epoch and decides nothing. The
// first operation of a new epoch raises it before it is served: a change by being in
// the log, a read or a flush by a fence command before it.
//
// # Durability
//
// The log may report entries as stored before they are durable. The edges make up
// for it: links hold acknowledgements and the commit index back (raftnet), and
// entries are applied, and so answered, once the local copy is durable too. Chunk
// files lag behind in the page cache: the log has what they may lose.
//
// An outcome never depends on one replica's disk. A full disk makes the replica
// wait, a damaged block is fetched from a peer, and a disk that fails stops the
// replica (Options.Failed): it applies and acknowledges nothing until it is opened
// again, while its log goes on counting for the majority.
//
// # Reads
//
// See read.go. A leader is ready when a barrier command of its own term is applied.
//
// # Raft snapshots
//
// A raft snapshot at entry S is synced chunk files and a small file: the fence, the
// list of chunks, and the configuration, all as of S (snapshot.go). The chunk files
// are as of S or later, every sector by itself; "fuzzy". A restart loads the file and
// replays the log from S on. That gives what the log says because
//
//   - the fence of S decides on every entry as it did before;
//   - a change sets sectors to values that do not depend on what was there, so a
//     replay in log order leaves in each sector the value of the last entry that
//     changed it, whatever newer value was there in between;
//   - a block's checksum covers what the block is after each change, so a block whose
//     sectors are of different moments is consistent with its checksum;
//   - a chunk that the log makes anew (it is not in the list) is emptied first, so
//     that a file from before the restart, or from an earlier life of the replica,
//     does not show through.
//
// Let F be an entry that no sector is beyond. From F on the chunks are exactly what
// the log says. F is committed, so only a replica whose log reaches F can be elected,
// and it serves when a barrier of its own term, beyond F, is applied: what is fuzzy
// is never seen.
//
// # Catching up
//
// A follower that lacks entries which the leader's log no longer has is sent the
// small file (InstallSnapshot), and then itself pulls the blocks that differ from its
// own by checksum, from the leader or anyone else who has applied S (catchup.go).
// Meanwhile the source goes on changing: what comes is at S or later, fuzzy again,
// bounded by the source's last entry F, and everything said above holds. Chunks that
// are not in the list are deleted.
//
// The small file counts only when all blocks are there and synced. If the replica
// stops before, it comes back as what it was: the older raft snapshot, its log up to
// some entry L, and chunks of which some are newer than L. It may vote: it claims no
// entry that it does not have. It cannot lead before its log has reached F. And if it
// is sent entries from L on, rather than the raft snapshot again, replaying them
// repairs every sector that differs, since what differs was changed in between. Until
// one or the other has happened Status says that it is catching up.
//
// # Repair
//
// A block that does not match its checksum is fetched from a peer that has applied
// what is applied here, and may be ahead (repair.go). Applying pauses, so that the
// block is not older than what has been; reads of the chunk wait until this replica
// has applied as much as the peer had, so that they do not see the future and then
// the past. A chunk file that is damaged as a whole is fetched as a whole; a mark in
// the directory keeps a crash in between from being taken for an empty chunk.
//
// # Threads
//
// Raft applies on one goroutine. Three more belong to a Replica: runLife (leadership),
// runReads (reads that wait), runMender (repairs); and short ones for transfers and
// probes. Close ends all and waits for them. Bounds: operations and bytes pending,
// reads pending, entries in flight, operations made at once.
package copyset
