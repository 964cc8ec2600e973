// Package device maps volumes to block devices of the kernel, /dev/nbdN, and keeps
// them there: across broken connections, and across restarts of the gateway, for
// which it writes down what it has mapped.
//
// A device has a number of connections, socket pairs between the kernel and the
// gateway's NBD server. When one breaks, its keeper waits until nothing that came
// over it is under way any more, and only then gives the kernel a fresh one: the
// kernel sends again what was not answered, and an old write must not come after
// its successor.
//
//	          Map                       a connection breaks
//	connecting ──► attached ────────────────────────────────► reattaching
//	                 │  ▲  all connections are there again        │
//	           Unmap │  └────────────────────────────────────────┘
//	                 ▼                 the gateway starts ────────┘
//	             detaching
//
// A device that somebody else has disconnected is forgotten.
package device
