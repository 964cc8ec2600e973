// Package chunkstore keeps chunks as files of one directory on one disk. It
// implements backend.Chunks.
//
// # Layout
//
// A chunk is one sparse file, named by its id in 16 hex digits, in one of 256
// subdirectories named by the id's low byte. format.go draws it: a header of
// one sector, a table with the checksum of every 4 KiB block, a seal, the data.
//
// # Durability
//
// The store is a disk with a volatile write cache: a change goes to the page
// cache and is acknowledged; Flush and FUA sync. Nothing orders a block and its
// table entry on their way to the disk, so a chunk carries a dirty mark in its
// header:
//
//   - The mark is durable before the first change to a chunk that was clean.
//     A new chunk is born with the mark; until its first flush it may vanish.
//   - While the mark is set, steady writing costs no sync of its own, and its
//     table no writes: the blocks say what belongs in it. Only entries of zeros
//     that have space are flushed with their block.
//   - It is taken off, after data and table are synced, when the chunk has been
//     idle for Options.CleanAfter, when it is evicted from memory, and at Close.
//   - A chunk found with the mark was open in a crash. It is reconciled when it
//     is first used: entries that do not match their block are computed anew.
//     What was flushed is on the disk and stays; a block that was changed since
//     its flush is old or new, and mixes both only at sector borders.
//   - In a chunk without the mark every mismatch is damage: backend.ErrChecksum.
//
// A process that died left its changes in the page cache, where the next one
// can read them but would not know to flush them. Open therefore syncs the
// whole file system once.
//
// After a failed sync the kernel may have dropped what it could not write, and
// a repeated sync would succeed without it. Such a chunk is poisoned: changes
// and flushes of it fail with backend.ErrIO until the store is opened again or
// the chunk is deleted; reads go on and verify checksums.
//
// # Fencing
//
// The newest epoch of a volume is remembered while the store is open. An
// operation is held against it under the chunk's lock, so none that was let in
// before a newer open can land after that open's first look at the chunk.
//
// # Threads
//
// Try works on the caller's goroutine and gives up (returns false) rather than
// wait for the disk or for a lock that is held across disk IO. Submit hands
// over to a fixed set of goroutines, owned by the Store and gone after Close:
// every chunk's changes go through one of the writers in order, reads go to any
// reader, flushes of one volume run one at a time and those that arrive
// meanwhile share the next run. All queues are bounded; Submit waits while its
// queue is full.
//
// The directory must belong to one Store at a time; the owner of the data
// directory sees to that.
package chunkstore
