// Package remote is the cluster as a client sees it: the MDS (Meta) and the
// chunkservers (Chunks).
//
// # Chunks
//
// One connection goes to each chunkserver, made when it is first needed and made
// again for as long as it is wanted, with Options.Streams streams of frames on it
// (package pb). Chunks sends each operation once, to the server that it names, and
// retries nothing; who leads, and what to do about an operation without an answer,
// is the caller's to decide, helped by the servers' news (Watch, Ask).
//
// Nothing here waits for a chunkserver on the caller's goroutine: Submit copies a
// change's payload and sends or queues it, and beyond Options.MaxOps and MaxBytes
// completes it with ErrOverload. A connection that breaks is noticed at once, by its
// end or by a refused dial; everything in flight on it then completes, with
// ErrOutcomeUnknown if it may have been sent and with ErrUnreachable if it was not.
// A server that hangs is not noticed here before gRPC's keepalive: its operations
// wait until the caller cancels them.
//
// # Goroutines
//
// Each server has one that dials; each stream has a sender and a receiver. All end
// with Close. Completions run on the receiver, on the goroutine that noticed the end
// of a connection, or on the caller's own.
package remote
