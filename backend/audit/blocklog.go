package audit

import (
	"fmt"
	"math"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

// maxChangeBlocks bounds one change: 32 MiB, the largest request of NBD.
const maxChangeBlocks = 8192

// LogOptions describe the blocks that a Log keeps.
type LogOptions struct {
	Volume backend.VolumeID
	// Blocks of BlockBytes from the volume's start.
	Blocks int64
	// Seed tells this run's content from that of others.
	Seed uint64
	// Shared: a block may have several changes in flight, whose order nobody
	// knows. Otherwise a block's changes are made one after the other, each when
	// the one before was answered or given up, and take effect in that order.
	Shared bool
	// Cached: the volume has a volatile write cache, so that after a crash an
	// acknowledged change counts only if it was durable: acknowledged with FUA, or
	// before a flush was sent that was acknowledged too.
	Cached bool
}

// Log knows what each block of a volume may hold. Every change is noted before it
// is submitted, and again when it is acknowledged; one that is never acknowledged
// may have happened or not. What is read is held against that. A Log may be used
// from any goroutine.
type Log struct {
	o LogOptions

	mu     sync.Mutex // guards what follows
	blocks map[int64]*history
	// seq numbers events in the order in which they were noted: a change's
	// submission, an acknowledgement. flushed is the event up to which what was
	// acknowledged is durable.
	seq, flushed uint64
	file         *logFile // nil: kept in memory only
}

// never is when a change is acknowledged whose outcome is unknown.
const never = math.MaxUint64

// version is one change of one block.
type version struct {
	number    uint64 // of the block's changes, from 1; 0 is what was there before
	submitted uint64 // event
	acked     uint64 // event, or never
	writer    uint32
	zero      bool // reads as zeros
	durable   bool // acknowledged with FUA
	refused   bool // certain not to have happened
}

// history is what may be in one block.
type history struct {
	next     uint64 // number of the next change
	versions []version
	// readers are reads in flight, which may yet ask for old versions.
	readers int
}

// NewLog starts the Log of an empty volume, in memory only. ErrInvalid.
func NewLog(o LogOptions) (*Log, error) {
	if o.Blocks <= 0 || o.Blocks > backend.MaxVolumeSize/BlockBytes {
		return nil, fmt.Errorf("%w: block log of %d blocks, want 1 to %d", backend.ErrInvalid, o.Blocks, int64(backend.MaxVolumeSize/BlockBytes))
	}
	return &Log{o: o, blocks: map[int64]*history{}}, nil
}

// Options are those that the Log was made with.
func (l *Log) Options() LogOptions { return l.o }

// Change is a change that was noted. It may be of several neighbouring blocks.
type Change struct {
	Writer uint32
	Block  int64
	Blocks int
	id     uint64
}

// Write notes that writer is about to write data, whole blocks, from block on, and
// fills data with what to write.
func (l *Log) Write(writer uint32, block int64, data []byte) (Change, error) {
	if len(data)%BlockBytes != 0 {
		return Change{}, fmt.Errorf("%w: write of %d bytes, want whole blocks of %d", backend.ErrInvalid, len(data), BlockBytes)
	}
	c := Change{Writer: writer, Block: block, Blocks: len(data) / BlockBytes}
	numbers, err := l.submit(&c, false)
	if err != nil {
		return Change{}, err
	}
	for i := range c.Blocks {
		stamp := Stamp{Volume: l.o.Volume, Block: block + int64(i), Version: numbers[i], Writer: writer, Seed: l.o.Seed}
		stamp.Fill(data[i*BlockBytes:])
	}
	return c, nil
}

// Zero notes that writer is about to zero or trim n blocks.
func (l *Log) Zero(writer uint32, block int64, n int) (Change, error) {
	c := Change{Writer: writer, Block: block, Blocks: n}
	if _, err := l.submit(&c, true); err != nil {
		return Change{}, err
	}
	return c, nil
}

func (l *Log) submit(c *Change, zero bool) (numbers []uint64, err error) {
	if err := l.checkRange(c.Block, c.Blocks); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.id = l.seq + 1
	if err := l.file.note(record{kind: recordSubmit, zero: zero, event: c.id, block: c.Block, count: uint32(c.Blocks), writer: c.Writer}); err != nil {
		return nil, err
	}
	// It must be known before it can be in the volume.
	if err := l.file.flush(); err != nil {
		return nil, err
	}
	return l.addVersions(*c, zero), nil
}

func (l *Log) checkRange(block int64, n int) error {
	if block < 0 || n <= 0 || n > maxChangeBlocks || block > l.o.Blocks-int64(n) {
		return fmt.Errorf("%w: %d blocks from block %d of a log of %d, want 1 to %d", backend.ErrInvalid, n, block, l.o.Blocks, maxChangeBlocks)
	}
	return nil
}

func (l *Log) addVersions(c Change, zero bool) []uint64 {
	l.seq = c.id
	numbers := make([]uint64, c.Blocks)
	for i := range numbers {
		h := l.history(c.Block + int64(i))
		h.prune(l)
		numbers[i] = h.next
		h.versions = append(h.versions, version{number: h.next, submitted: c.id, acked: never, writer: c.Writer, zero: zero})
		h.next++
	}
	return numbers
}

// history of a block; l.mu is held. It begins with zeros that are durable.
func (l *Log) history(block int64) *history {
	h := l.blocks[block]
	if h == nil {
		h = &history{next: 1, versions: []version{{zero: true, durable: true}}}
		l.blocks[block] = h
	}
	return h
}

// Acknowledge notes that c was answered as done; durable when it carried FUA.
func (l *Log) Acknowledge(c Change, durable bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkChange(c); err != nil {
		return err
	}
	if err := l.file.note(record{kind: recordAcknowledge, durable: durable, event: c.id, block: c.Block, count: uint32(c.Blocks)}); err != nil {
		return err
	}
	l.acknowledge(c, durable)
	return nil
}

func (l *Log) acknowledge(c Change, durable bool) {
	l.seq++
	l.each(c, func(v *version) {
		v.acked = min(v.acked, l.seq)
		v.durable = v.durable || durable
	})
}

// Refuse notes that c is certain not to have happened, and never to happen. An
// error alone does not make that certain.
func (l *Log) Refuse(c Change) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.checkChange(c); err != nil {
		return err
	}
	if err := l.file.note(record{kind: recordRefuse, event: c.id, block: c.Block, count: uint32(c.Blocks)}); err != nil {
		return err
	}
	l.each(c, func(v *version) { v.refused = true })
	return nil
}

func (l *Log) checkChange(c Change) error {
	if c.id == 0 || c.id > l.seq || l.checkRange(c.Block, c.Blocks) != nil {
		return fmt.Errorf("%w: change %d of %d blocks from block %d was not made by this log", backend.ErrInvalid, c.id, c.Blocks, c.Block)
	}
	return nil
}

// each finds c's version in every block of it that still knows it.
func (l *Log) each(c Change, f func(*version)) {
	for i := range c.Blocks {
		versions := l.history(c.Block + int64(i)).versions
		for j := len(versions) - 1; j >= 0; j-- {
			if versions[j].submitted == c.id {
				f(&versions[j])
				break
			}
		}
	}
}

// Barrier is a flush in flight.
type Barrier uint64

// Flush notes that a flush is about to be sent.
func (l *Log) Flush() Barrier {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Barrier(l.seq)
}

// Flushed notes that the flush was acknowledged.
func (l *Log) Flushed(b Barrier) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.note(record{kind: recordFlush, event: uint64(b)}); err != nil {
		return err
	}
	l.flushed = max(l.flushed, uint64(b))
	return nil
}

// floor says what a block must hold at least, if what was acknowledged up to
// event by counts, or only what is durable: the version, and its rank. Versions
// of lower age() are older than it for certain.
func (h *history) floor(l *Log, by uint64, durableOnly bool) (rank uint64, floor *version) {
	for i := range h.versions {
		v := &h.versions[i]
		if v.acked > by || v.refused || durableOnly && !v.durable && v.acked > l.flushed {
			continue
		}
		if r := l.rank(v); floor == nil || r >= rank {
			rank, floor = r, v
		}
	}
	return rank, floor
}

// rank and age order two versions: v is older than w for certain if
// age(v) < rank(w).
func (l *Log) rank(v *version) uint64 {
	if l.o.Shared {
		return v.submitted
	}
	return v.number
}

func (l *Log) age(v *version) uint64 {
	if l.o.Shared {
		return v.acked
	}
	return v.number
}

// pruneAbove is how many versions of a block are kept without asking whether
// they still matter.
const pruneAbove = 16

// prune forgets versions that can never be there again.
func (h *history) prune(l *Log) {
	if len(h.versions) < pruneAbove || h.readers > 0 {
		return
	}
	rank, _ := h.floor(l, l.seq, l.o.Cached)
	kept := h.versions[:0]
	for i := range h.versions {
		if l.age(&h.versions[i]) >= rank {
			kept = append(kept, h.versions[i])
		}
	}
	h.versions = kept
}
