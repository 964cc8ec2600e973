// Package mds keeps what a cluster knows about its volumes: names, sizes,
// segments, who has a volume open, and the recycle bin. It implements
// backend.Meta over a Store, a small transactional key-value store, so that one
// machine (OpenBolt), a throw-away gateway (NewMemStore) and later a replicated
// store share every rule.
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
// # Files
//
// format.go has the key layout and the records; every record starts with its
// version and is decoded strictly. names.go says what a name may be.
package mds
