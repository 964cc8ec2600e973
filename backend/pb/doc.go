// Package pb is what the processes of a cluster say to each other.
//
// Control goes by unary gRPC: chunk.proto is what chunkservers answer, mds.proto
// what the MDS does, with the generated code beside them. Data goes by frames on
// one long-lived bidirectional stream (frame.go draws them, codec.go puts them into
// gRPC without a copy through protobuf, stream.go names the stream).
//
// # The stream of a client and a chunkserver
//
// The client's first frame is HELLO, and so is the server's answer; both carry the
// version, and either side ends the stream when it does not speak the other's. Then
// the client sends OP, ASK and CANCEL in any order and number, and the server REPLY
// and ROUTE. Every OP is answered by exactly one REPLY, cancelled ones included,
// unless the stream ends first; replies come in any order. A client may have as many
// operations in flight as it likes; the server refuses those beyond its limits with
// StatusOverload.
//
// # Trust
//
// Every decoder checks the exact length, the limits before it allocates, and that
// reserved bytes are zero; a frame that breaks a rule ends the stream. Whether an
// operation's values make sense is backend.Op.Check's to say, at the boundary of the
// store.
//
// # Errors
//
// status.go is the one table between package backend's errors and what goes over
// the wire, in frames and in gRPC statuses alike.
package pb
