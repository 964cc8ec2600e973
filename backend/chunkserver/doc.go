// Package chunkserver is one chunkserver: a disk with its chunk store and its raft
// log, the replicas of many copysets on them, and the gRPC server that clients and
// other chunkservers talk to.
//
// # Data directory
//
//	identity.N   who this is: UUID, and the id that the MDS gave it
//	servers.N    address book of the cluster, so that a restart needs no MDS
//	lock         held while a process uses the directory
//	probe        what the watchdog writes
//	log/         the raft log of all copysets (package raftlog)
//	chunks/      the chunks of all copysets (package chunkstore)
//	copysets/ID/ replica.N says that there is a replica; the rest is package copyset's
//
// Names ending in .N are records (record.go), replaced as a whole.
//
// # Life
//
// Open takes the directory and the listeners; Start serves, after the MDS has given a
// new chunkserver its id. A chunkserver that has one starts without the MDS, with the
// address book that it kept. From then on it reports once a second and whenever a
// leadership changes, and carries out what the MDS orders in its answers (orders.go).
// Drain hands every leadership over and closes; Close just closes.
//
// # Block IO
//
// Each client has a stream of frames (package pb). One goroutine receives: it hands
// operations to the replicas, which never block, and answers reads that need no
// waiting itself; another sends the other replies, and news of leaderships. What is
// under way in the whole server is bounded (Options.MaxOps, MaxBytes), and what does
// not fit is refused with backend.ErrOverload. A client that does not take its replies
// is not read from any more, and holds up nobody else.
//
// # When the disk is not well
//
//   - Log or disk hang, or the disk fails writes: leaderships are handed over for as
//     long as that lasts and a while longer (watchdog.go).
//   - The raft log or a replica failed for good: Options.Fatal; the process should end.
//   - Disk nearly full: leaders answer changes with backend.ErrNoSpace until there is
//     room again (full.go).
//   - The log grows: copysets take raft snapshots (snapshots.go).
//   - A replica is damaged: it neither votes nor serves, and is reported so; the MDS
//     has the others take it out and make it again.
//
// All of it goes into the reports' Trouble.
package chunkserver
