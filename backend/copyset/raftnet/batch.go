package raftnet

import (
	"encoding/binary"
	"hash/crc32"
	"net"
)

// copyBelow is the length up to which bytes are copied into a batch; longer ones
// are written from where they are.
const copyBelow = 2048

// keepArena is how large a batch's memory may be to be kept for the next one.
const keepArena = 1 << 20

// batch is messages that wait to be written together.
type batch struct {
	arena []byte
	segs  []segment
	bytes int
	vec   [][]byte
}

// segment is the arena up to end, since the last segment, and then foreign bytes.
type segment struct {
	end     int
	foreign []byte
}

func (q *batch) empty() bool { return q.bytes == 0 }

func (q *batch) reset() {
	clear(q.segs)
	q.segs, q.bytes = q.segs[:0], 0
	clear(q.vec)
	if q.arena = q.arena[:0]; cap(q.arena) > keepArena {
		q.arena = nil
	}
}

// buffers lists the bytes in order; valid until reset.
func (q *batch) buffers() net.Buffers {
	q.vec = q.vec[:0]
	from := 0
	for _, s := range q.segs {
		if s.end > from {
			q.vec = append(q.vec, q.arena[from:s.end])
		}
		q.vec = append(q.vec, s.foreign)
		from = s.end
	}
	if from < len(q.arena) {
		q.vec = append(q.vec, q.arena[from:])
	}
	return q.vec
}

// message is being appended to a batch.
type message struct {
	q    *batch
	at   int // of its head in the arena
	segs int // before it
}

func (q *batch) begin() message {
	m := message{q: q, at: len(q.arena), segs: len(q.segs)}
	var zero [headBytes]byte
	q.arena = append(q.arena, zero[:]...)
	return m
}

func (m *message) u8(v uint8)   { m.q.arena = append(m.q.arena, v) }
func (m *message) u32(v uint32) { m.q.arena = binary.BigEndian.AppendUint32(m.q.arena, v) }
func (m *message) u64(v uint64) { m.q.arena = binary.BigEndian.AppendUint64(m.q.arena, v) }

// bytes appends b, which must not change until the message is written.
func (m *message) bytes(b []byte) {
	if len(b) < copyBelow {
		m.q.arena = append(m.q.arena, b...)
		return
	}
	m.q.segs = append(m.q.segs, segment{end: len(m.q.arena), foreign: b})
}

// end fills the head in.
func (m *message) end(h head) {
	q := m.q
	size := len(q.arena) - m.at
	for _, s := range q.segs[m.segs:] {
		size += len(s.foreign)
	}
	h.length = uint32(size - headBytes)
	h.put(q.arena[m.at:])
	sum, from := uint32(0), m.at+8
	for _, s := range q.segs[m.segs:] {
		sum = crc32.Update(sum, castagnoli, q.arena[from:s.end])
		sum = crc32.Update(sum, castagnoli, s.foreign)
		from = s.end
	}
	sum = crc32.Update(sum, castagnoli, q.arena[from:])
	binary.BigEndian.PutUint32(q.arena[m.at+4:], sum)
	q.bytes += size
}
