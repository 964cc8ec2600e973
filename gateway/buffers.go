package gateway

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencurve/curve-nbd/volume"
)

// MaxBuffer is the size of the largest buffer, in bytes. A front end serves
// larger requests piece by piece, so that a client that stops half-way through
// one holds little.
const MaxBuffer = 1 << 20

// bufferClasses are the sizes, in bytes, that buffers come in. Class 0 is a bare
// permit, for requests without payload.
var bufferClasses = [...]int64{0, 16 << 10, 64 << 10, 256 << 10, MaxBuffer}

// Buffer is room for one payload together with the permit for one request of
// that size.
type Buffer struct {
	// Data is at least as long as was asked for.
	Data []byte
	// Head is room for the protocol header that goes out in front of Data.
	Head   [64]byte
	size   int64
	limits *volume.Limits
	pool   *bufferPool
	class  int
}

// Release gives memory and permit back. The buffer must not be used afterwards.
func (b *Buffer) Release() {
	limits, size := b.limits, b.size
	b.limits = nil
	b.pool.put(b)
	limits.Release(size)
	if size > 0 {
		b.pool.shares.released()
	}
}

// bufferPool keeps released buffers for the next request. What is kept and what
// is out together stay below limit, except for what permits allow beyond it.
type bufferPool struct {
	limit  int64
	shares *shares

	mu   sync.Mutex // guards all below
	held int64      // bytes in buffers out and kept
	free [len(bufferClasses)][]*Buffer
}

// classOf returns the smallest class that holds n bytes.
func classOf(n int64) int {
	for i, c := range bufferClasses {
		if n <= c {
			return i
		}
	}
	panic(fmt.Sprintf("gateway: buffer of %d bytes asked for, the largest is %d", n, MaxBuffer))
}

// get waits until limits allow a buffer of n bytes and returns one.
func (p *bufferPool) get(ctx context.Context, limits *volume.Limits, n int64) (*Buffer, error) {
	class := classOf(n)
	if err := limits.Acquire(ctx, bufferClasses[class]); err != nil {
		return nil, err
	}
	return p.take(class, limits), nil
}

// tryGet returns a buffer, or nil where get would wait.
func (p *bufferPool) tryGet(limits *volume.Limits, n int64) *Buffer {
	class := classOf(n)
	if !limits.TryAcquire(bufferClasses[class]) {
		return nil
	}
	return p.take(class, limits)
}

func (p *bufferPool) take(class int, limits *volume.Limits) *Buffer {
	p.mu.Lock()
	if kept := p.free[class]; len(kept) > 0 {
		b := kept[len(kept)-1]
		kept[len(kept)-1] = nil
		p.free[class] = kept[:len(kept)-1]
		p.mu.Unlock()
		b.limits = limits
		return b
	}
	size := bufferClasses[class]
	p.makeRoom(size)
	p.held += size
	p.mu.Unlock()
	return &Buffer{Data: make([]byte, size), size: size, class: class, limits: limits, pool: p}
}

// makeRoom lets kept buffers of other sizes go to the garbage collector, the
// largest first, so that a change of request size does not double the memory.
func (p *bufferPool) makeRoom(size int64) {
	for class := len(p.free) - 1; class > 0 && p.held+size > p.limit; class-- {
		for len(p.free[class]) > 0 && p.held+size > p.limit {
			last := len(p.free[class]) - 1
			p.held -= p.free[class][last].size
			p.free[class][last] = nil
			p.free[class] = p.free[class][:last]
		}
	}
}

func (p *bufferPool) put(b *Buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held > p.limit {
		p.held -= b.size
		return
	}
	p.free[b.class] = append(p.free[b.class], b)
}

// heldBytes is the memory in buffers, out and kept.
func (p *bufferPool) heldBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}
