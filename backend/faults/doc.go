// Package faults breaks what tests run: processes, connections between them, and
// single messages on those. Only tests may import it.
//
//   - Process stops, continues and kills a process, and waits until that is so.
//   - Network stands between parties as TCP proxies on loopback: it holds, delays
//     and throttles one direction of one pair, cuts connections, refuses new ones.
//   - Streams stands in front of one gRPC server and hands every message to a
//     hook, which may drop it, keep it, or keep a copy, for later.
//   - Plan injects one fault after the other by a seed.
//
// # What a proxy is not
//
// Bytes on a held direction are kept, not lost: TCP would send them again once the
// partition heals, so the receiver sees the same. A connection that is opened
// during a partition is accepted by the proxy, where a SYN would get no answer; it
// gets no further until the partition heals. A proxy whose target refuses
// connections refuses too, some milliseconds later.
//
// Every goroutine belongs to a Network or a Streams, whose Close ends it and waits.
package faults
