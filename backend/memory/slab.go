package memory

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slabSize is what the slab takes from the system at a time: a few of the
// largest pages a processor has, so that random access misses its address
// cache less often.
const slabSize = 64 << 20

// slab hands out pages from outside the garbage collector's heap, which would
// otherwise allow as much garbage as there is data. Pages given back are handed
// out again; the system gets its memory back at close.
type slab struct {
	mu     sync.Mutex // guards all below
	free   []*[pageSize]byte
	rest   []byte // of the last region, not handed out yet
	region [][]byte
	closed bool
}

// get returns a page with undefined content.
func (s *slab) get() *[pageSize]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p
	}
	if len(s.rest) == 0 && !s.closed {
		s.grow()
	}
	if len(s.rest) == 0 {
		return new([pageSize]byte) // the system gave none; the heap may say why
	}
	p := (*[pageSize]byte)(unsafe.Pointer(&s.rest[0]))
	s.rest = s.rest[pageSize:]
	return p
}

// grow maps another region. Its pages take memory when they are first used.
func (s *slab) grow() {
	region, err := unix.Mmap(-1, 0, slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return
	}
	_ = unix.Madvise(region, unix.MADV_HUGEPAGE) // only faster
	s.region = append(s.region, region)
	s.rest = region
}

func (s *slab) put(p *[pageSize]byte) {
	s.mu.Lock()
	s.free = append(s.free, p)
	s.mu.Unlock()
}

// close gives everything back. No page may be in use.
func (s *slab) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, region := range s.region {
		_ = unix.Munmap(region)
	}
	s.region, s.rest, s.free, s.closed = nil, nil, nil, true
}
