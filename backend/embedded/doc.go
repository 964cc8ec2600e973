// Package embedded is the storage of one machine: an MDS and one chunk store in
// this process, without RPC or replicas. It is what a gateway serves from when
// it is given a data directory.
//
// # Data directory
//
//	curve-nbd.json  identity: format version, uuid, when made; written last
//	lock            flock of the process that has it open, and who that is
//	meta/meta.db    names, segments, leases, recycle bin (package mds)
//	chunks/         chunk files (package chunkstore)
//
// Open makes a directory that is missing or empty, goes on with one whose making
// was cut short, and refuses every other that has no identity. It takes the
// lock before it changes anything, and no two processes get it.
//
// # Background work
//
// One goroutine purges volumes whose time in the recycle bin is over, and those
// whose purge a crash cut short. Another, after Open only, deletes chunk files
// that belong to no segment. Both are paced, and Close stops and waits for them.
//
// # Fencing
//
// Whoever holds the lock knows that every earlier owner of a lease is dead, so
// Open gives all leases back. While open, Meta shows each new epoch to the chunk
// store before OpenVolume returns: operations under the old epoch are refused
// from then on, not only from the new owner's first operation.
package embedded
