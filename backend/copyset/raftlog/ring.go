package raftlog

import "github.com/hashicorp/raft"

// slot is where an entry is: on disk once seg is set, in memory while log is.
type slot struct {
	seg  *segment
	off  uint32
	size uint32
	term uint64
	log  *raft.Log
}

// ring is a queue of slots that also gives up its newest.
type ring struct {
	buf  []slot // length a power of two, or 0
	head int
	n    int
}

func (r *ring) at(i int) *slot { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring) push(s slot) {
	if r.n == len(r.buf) {
		r.resize(max(16, 2*len(r.buf)))
	}
	*r.at(r.n) = s
	r.n++
}

func (r *ring) popFront() {
	*r.at(0) = slot{}
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.n--
	r.shrink()
}

func (r *ring) popBack() {
	*r.at(r.n - 1) = slot{}
	r.n--
	r.shrink()
}

// shrink gives memory back once a quarter is enough.
func (r *ring) shrink() {
	if len(r.buf) > 1024 && r.n < len(r.buf)/8 {
		r.resize(len(r.buf) / 4)
	}
}

func (r *ring) resize(size int) {
	buf := make([]slot, size)
	for i := range r.n {
		buf[i] = *r.at(i)
	}
	r.buf, r.head = buf, 0
}
