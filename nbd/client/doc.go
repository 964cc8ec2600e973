// Package client speaks the client's half of the NBD protocol: it copies
// volumes in and out, and it is the measure the server is tested with.
//
// A connection has two lives, and a type for each:
//
//	Dial → Handshake: options, one at a time, in any order the caller likes
//	     → Go or ExportName → Wire: the transmission phase, bare
//	                        → Conn: requests in flight, replies by cookie
//
// Open does all of it for callers that want an export and no more.
//
// # Contract
//
//   - Handshake and Wire send what they are told to, legal or not; a test can
//     be as rude as it likes. What comes back is held against the protocol.
//   - Every reply is checked in full: magic, cookie, chunk types and lengths,
//     that content chunks cover the read exactly once, that block status fits
//     the request and names a negotiated context. A server that breaks a rule
//     loses the connection, with ErrProtocol saying which.
//   - Nothing the server sends makes the client allocate more than the limits
//     of limits.go; read data goes straight into the caller's buffer.
//   - An error reply is an *Error or an *OptionError. They match the sentinel
//     errors of package backend with errors.Is.
//   - Requests may be started from any goroutine, up to a window; one goroutine,
//     owned by Conn, reads replies. Close stops it and waits for it.
//   - A caller's buffer is the connection's from Start until the request is
//     complete. A context that ends meanwhile therefore breaks the connection:
//     there is no other way to get the buffer back.
//
// TLS is not spoken.
package client
