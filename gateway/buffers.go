package gateway

import (
	"context"
	"sync"

	"github.com/opencurve/curve-nbd/volume"
)

// bufferClasses are the sizes, in bytes, that buffers come in. A larger one is
// made to measure and not kept. Class 0 is a bare permit, for requests without
// payload.
var bufferClasses = [...]int64{0, 16 << 10, 64 << 10, 256 << 10, 1 << 20}

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
}

// Release gives memory and permit back. The buffer must not be used afterwards.
func (b *Buffer) Release() {
	limits, size := b.limits, b.size
	b.limits = nil
	b.pool.put(b)
	limits.Release(size)
}

// bufferPool keeps released buffers for the next request. What is kept and what
// is out together stay below limit, except for what permits allow beyond it.
type bufferPool struct {
	limit int64

	mu   sync.Mutex // guards all below
	held int64      // bytes in buffers out and kept
	free [len(bufferClasses)][]*Buffer
}

// classOf returns the smallest class that holds n bytes, and its size; a class
// of -1 stands for "made to measure".
func classOf(n int64) (class int, size int64) {
	for i, c := range bufferClasses {
		if n <= c {
			return i, c
		}
	}
	return -1, n
}

// get waits until limits allow a buffer of n bytes and returns one.
func (p *bufferPool) get(ctx context.Context, limits *volume.Limits, n int64) (*Buffer, error) {
	class, size := classOf(n)
	if err := limits.Acquire(ctx, size); err != nil {
		return nil, err
	}
	return p.take(class, size, limits), nil
}

// tryGet returns a buffer, or nil where get would wait.
func (p *bufferPool) tryGet(limits *volume.Limits, n int64) *Buffer {
	class, size := classOf(n)
	if !limits.TryAcquire(size) {
		return nil
	}
	return p.take(class, size, limits)
}

func (p *bufferPool) take(class int, size int64, limits *volume.Limits) *Buffer {
	p.mu.Lock()
	if class >= 0 {
		if kept := p.free[class]; len(kept) > 0 {
			b := kept[len(kept)-1]
			kept[len(kept)-1] = nil
			p.free[class] = kept[:len(kept)-1]
			p.mu.Unlock()
			b.limits = limits
			return b
		}
	}
	p.makeRoom(size)
	p.held += size
	p.mu.Unlock()
	return &Buffer{Data: make([]byte, size), size: size, limits: limits, pool: p}
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
	class, size := classOf(b.size)
	p.mu.Lock()
	defer p.mu.Unlock()
	if class < 0 || p.held > p.limit {
		p.held -= size
		return
	}
	p.free[class] = append(p.free[class], b)
}

// heldBytes is the memory in buffers, out and kept.
func (p *bufferPool) heldBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}
