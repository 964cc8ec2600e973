package stream

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Going to sleep on a socket and being woken costs 10-20 us of CPU and as much
// latency; trying the read again costs 0.3 us. So a reader that expects the next
// bytes at once tries again for a while before it sleeps, where that has paid
// off:
//
//   - in the middle of a payload, which the client is just copying;
//   - when requests come one at a time: a client at queue depth 1 sends the next
//     one some 10-20 us after its reply. With more in flight the client is busy
//     sending, and would only be disturbed.
//
// Measured at 4k, depth 1: 1.75 times the IOPS at less CPU for each. A client that
// thinks longer than that teaches the connection to sleep at once. On one processor
// nobody waits awake: it is the one that the other side needs.

const (
	// payloadSpins is some 10 us of trying.
	payloadSpins = 50
	// lonelySpins is some 20 us, with the processor offered to others each time.
	lonelySpins = 60
	// lonelySingles in a row make a client one of depth 1.
	lonelySingles = 16
	// forgivenMisses in a row change nothing; more halve the patience each.
	forgivenMisses = 3
	// retryMisses is after how many misses patience is given another chance.
	retryMisses = 64
)

// several: there is another processor, on which what is waited for may come up.
var several = runtime.NumCPU() > 1

// busyPoll learns whether waiting awake for the next request pays off. The zero
// value sleeps at once until it learns otherwise.
type busyPoll struct {
	patience int // tries before sleeping
	misses   int // in a row
}

// nextSpins is how many tries are worth while; it offers the processor to
// others, since somebody may need it to produce what is waited for.
func (p *busyPoll) nextSpins() int {
	if p.patience > 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	return p.patience
}

// learn takes the outcome of a wait: hit says that the reader did not sleep.
func (p *busyPoll) learn(hit bool) {
	if hit {
		p.misses, p.patience = 0, lonelySpins
		return
	}
	p.misses++
	switch {
	case p.misses%retryMisses == 0:
		p.patience = lonelySpins
	case p.misses > forgivenMisses:
		p.patience /= 2
	}
}
