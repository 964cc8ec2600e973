// Package gateway holds the exports: it maps a name that a client asks for to
// an open volume, lends front ends the memory for payloads, counts, limits and
// drains. Both protocols, NBD and iSCSI, sit on the same exports, so a
// volume is open once however many clients use it, and a flush on one
// connection covers writes acknowledged on another.
//
// # Life of an export
//
// Open returns a handle and opens the volume for the first one; the last
// Release flushes and closes it. A front end drains its own connections before
// it releases, and all front ends stop before Close.
//
// # Memory
//
// Payloads live in Buffers. A Buffer is its own permit: taking one waits until
// the volume's and the gateway's limits allow its bytes, and giving it back
// returns both memory and permit. Nothing else in the path grows with load.
package gateway
