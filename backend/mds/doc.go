// Package mds keeps what a cluster knows about itself: its volumes (names, sizes,
// segments, who has one open, the recycle bin), its chunkservers, and which of
// them hold which copyset. It implements backend.Meta and backend.Topology over a
// Store, a small transactional key-value store, so that one machine (OpenBolt), a
// throw-away gateway (NewMemStore) and later a replicated store share every rule.
// Server offers both over gRPC (package pb); Purger deletes what was removed.
//
// # Transactions
//
// Each method is one short transaction, save PurgeDone, which forgets the
// segments of a volume in many so that no transaction grows with the volume.
// What a method returned is durable, and the checks it rests on (name free,
// epoch current, size) were made in the same transaction as the change.
//
// # Leases
//
// The epoch of a volume grows with every open and is stored before the lease is
// returned. Openers who share a volume (backend.OpenShared) hold one epoch
// together: were each given its own, the newest would fence the others, since
// chunks serve only the newest epoch they have seen. The epoch is new when the
// first of them opens, and when one of them opens again after a crash; the
// others then learn ErrStaleEpoch and open again. Since CloseVolume names a
// lease by its epoch alone, a shared volume is free once it was closed as often
// as it was opened.
//
// Every open has a session number of its own, from a counter. With a LeaseTTL, an
// owner that is silent for that long excludes nobody any more (see acquire); what
// was heard is kept in memory, and counted from the start of the MDS at most.
//
// # Requests that are sent again
//
// A call over the network whose answer was lost is sent again. What is not
// repeatable by nature names its request (WithRequest): the outcome is stored in
// the transaction of the change, so that the repetition, be it after a crash of
// the MDS, is answered and not done.
//
// # Records of front ends
//
// Their versions come from one counter for all, so that none comes back for a key.
// Number and size of all are kept beside them: what is made must fit the bounds
// without a look at the rest.
//
// # Chunkservers
//
// Who is registered, and which servers shall hold which copyset, is stored; what
// the heartbeats say is kept in memory and decides nothing that a restart could
// not decide again. States are computed when they are asked for, and schedulers
// run within heartbeats: there are no timers and no goroutines but the purger's.
//
// What a chunkserver is told is a function of what is stored and reported
// (orders.go), and declares what shall be rather than steps. The dangerous order
// is Wipe, by which a replica forgets its votes: it is given only once a majority
// of the group has said, since the replica became unwanted, that it is out of the
// configuration. It rests on these rules for chunkservers: a leader acts only on
// orders that came since it leads; it takes nobody out who is not in Rebuild
// before all Peers are voters, and nobody in who is in Rebuild; and of two
// heartbeats' answers the later one counts.
//
// # Files
//
// format.go and topologyformat.go have the key layout and the records; every
// record starts with its version and is decoded strictly. names.go says what a
// name may be.
package mds
