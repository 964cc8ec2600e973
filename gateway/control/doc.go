// Package control lets the commands of curve-nbd talk to a running gateway:
// gRPC over a unix socket, served by Server and asked by Client.
//
// The socket's mode is the access control: only the user who runs the gateway
// (and root) may connect. Requests are small and bounded; none of them is on
// the path of IO.
//
// Errors keep their meaning on the way: status.go is the one table, both ways,
// so that errors.Is(err, backend.ErrBusy) holds at the client for what was
// ErrBusy in the gateway. A gateway that does not answer is ErrUnreachable.
//
// The standard gRPC health service tells whether the gateway takes new work: it
// is SERVING between SetServing(true) and the beginning of the drain.
package control
