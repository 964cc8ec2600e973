// Package volume turns one block request into chunk operations, hands them to
// the backend and completes the request once.
//
// The way of a request (aio.go draws it):
//
//	Try ──────────────────────────────────────────────┐ one chunk, nothing to wait for:
//	                                                   ▼ runs on the caller's goroutine
//	Submit → throttle → aio queue → split → dispatch → backend.Chunks
//	         (QoS only)  (bounded    (look up,  (a worker owns
//	                      by permits) then cut)  its copysets)
//
// On backend.Replicas a router (router.go draws it) stands between dispatch and
// backend: it knows who leads each copyset (route.go), decides what an error means
// (retry.go, one table), numbers changes so that a repetition never undoes a newer
// one (fence.go), and shows what is stalled (stall.go).
//
// # Contract
//
//   - A request is complete exactly once: Try returned true, or Done was told.
//   - Nothing orders requests that are in flight together; a request sees the
//     effect of every request that was complete before it was submitted.
//   - Flush covers every change acknowledged before it was submitted, by
//     whichever front end or connection.
//   - A front end takes a permit from Limits before it makes room for a
//     request's payload and gives it back when the room is free again, so that
//     memory is bounded by configuration and back-pressure reaches the socket.
//   - Close refuses new requests, waits for those in flight, ends the stages in
//     the order of the flow, flushes, and gives the lease back.
//   - On replicas a change of leader is never an error, only a wait, for as long as
//     Options.Deadline allows. Once the volume was opened elsewhere (Lost), every
//     request fails with backend.ErrStaleEpoch. A change that failed because it was
//     given up never takes effect after a later change of the same blocks that was
//     acknowledged.
//
// Reads of what was never allocated are answered with zeros and no IO; writes
// allocate. A volume may grow while it is open.
package volume
