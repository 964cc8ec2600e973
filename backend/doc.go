// Package backend is the contract between a volume and the storage behind it.
//
// It declares words and rules, and holds no behaviour of its own: ids and
// geometry (ids.go), one asynchronous data operation on one chunk (op.go), the
// two interfaces every storage implements (Chunks for data, Meta for the
// namespace, allocation and ownership), and the errors both may return
// (errors.go). It imports nothing of ours, and everything below volume speaks
// only these words.
//
// # Durability
//
// A backend is a disk with a volatile write cache unless it says otherwise: an
// acknowledged write may sit in a cache, and Flush, or the FUA flag, makes it
// survive kill -9 and power cut. A replicated backend may acknowledge only what
// is already durable; then Flush is a barrier.
//
// # Ownership and fencing
//
// Every open of a volume gets a new Epoch from Meta. Each Op carries it; once
// Chunks has seen an epoch of a volume, an Op with an older one fails with
// ErrStaleEpoch, so that a gateway that lost a volume cannot write to it.
//
// # Conformance
//
// backend/backendtest is the executable form of this contract; every
// implementation passes it.
package backend
