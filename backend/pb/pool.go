package pb

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// Pool gives out the buffers of frames. Unlike gRPC's default pool it does not zero
// what it gives, because every frame is written whole, and it has a size for a power
// of two with a header in front, so that a 4 KiB payload does not take 16 KiB.
var Pool mem.BufferPool = &framePool{}

const (
	// headRoom is what each size has beyond a power of two: room for the header of
	// a frame, and for gRPC's own.
	headRoom = 128
	// Sizes are 2^minShift+headRoom to 2^maxShift+headRoom bytes; smaller requests
	// are rounded up, larger ones are not pooled. gRPC does not pool buffers of
	// 1 KiB or less, so the smallest is larger than that.
	minShift = 11
	maxShift = 22
)

type framePool struct {
	sizes [maxShift - minShift + 1]sync.Pool
}

// Get implements mem.BufferPool. The content is undefined.
func (p *framePool) Get(n int) *[]byte {
	i := poolIndex(n)
	if i >= len(p.sizes) {
		b := make([]byte, n)
		return &b
	}
	if b, ok := p.sizes[i].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(minShift+i)+headRoom)
	return &b
}

// Put implements mem.BufferPool.
func (p *framePool) Put(b *[]byte) {
	i := poolIndex(cap(*b))
	if i < len(p.sizes) && cap(*b) == 1<<(minShift+i)+headRoom {
		p.sizes[i].Put(b)
	}
}

// poolIndex is the smallest size that n bytes fit in, len(sizes) or more for none.
func poolIndex(n int) int {
	if n <= 1<<minShift+headRoom {
		return 0
	}
	return bits.Len(uint(n-headRoom-1)) - minShift
}
