// Package nbd speaks the NBD protocol: the handshake picks an export, the
// transmission phase turns requests into volume requests on a gateway handle
// and completions into replies.
//
// # The way of a request
//
//	socket ─► input (64 KiB) ─► decode ─► handle.Try ──yes──► batch of replies ─► one writev
//	                                          │ no                                   ▲
//	                                          ▼                                      │
//	                                     handle.Submit ─► completion ─► writer ──────┘
//
// The reader of a connection parses everything that one read brought, serves
// what will not block by itself, and sends all those replies with one system
// call when nothing complete is left in its buffer. What has to wait goes
// through the volume's queues and is answered by the connection's writer, in
// any order.
//
// # Contract
//
//   - A request is answered once, or the connection ends. A refused request
//     leaves the stream in step: its payload is read and dropped (up to
//     maxDrain).
//   - Nothing is allocated on a client's word: lengths are checked first, and
//     payload memory is a gateway.Buffer, which is its own permit.
//   - A peer that is silent in the middle of something (handshake, request,
//     reply) loses its connection after a deadline; one that is idle between
//     requests does not.
//   - Flush covers all connections of an export (CAN_MULTI_CONN).
//   - Shutdown stops reading, finishes what was read, answers it, and closes.
//
// The wire format is in protocol.go. Of go-nbd we use the protocol numbers; its
// server is a peer in the benchmarks.
package nbd
