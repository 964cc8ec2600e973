package raftlog

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// roll goes on in another segment. The old one is durable before the new one's
// header says so, and the header is durable before any batch follows it.
func (w *writer) roll() error {
	if err := w.sync(); err != nil {
		return err
	}
	w.l.busy(true)
	next, err := w.l.pool.take(w.l.opts.Reserve)
	w.l.busy(false)
	if err != nil {
		return err
	}
	return w.enter(next, w.synced)
}

// enter puts a spare segment to use as the one that follows prev.
func (w *writer) enter(s *segment, prev position) error {
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails
	if w.nextSeq == 0 {
		return fmt.Errorf("%w: raft log used up its segment numbers", backend.ErrIO)
	}
	s.fileMu.Lock()
	s.seq, s.salt = w.nextSeq, binary.LittleEndian.Uint64(salt[:])
	s.fileMu.Unlock()
	w.nextSeq++
	h := s.header()
	h.prev, h.first = prev, w.l.firstSeq(s.seq)
	buf := make([]byte, dataStart)
	h.encode(buf)
	h.encode(buf[blockBytes:])
	w.l.busy(true)
	defer w.l.busy(false)
	if _, err := s.file.WriteAt(buf, 0); err != nil {
		return diskError("write header of "+s.path, err)
	}
	if !w.l.opts.planted.skipHeaderSync {
		if err := s.file.SyncData(); err != nil {
			return diskError("sync header of "+s.path, err)
		}
	}
	w.l.pool.firstDurable.Store(h.first)
	w.head, w.end, w.last = s, dataStart, 0
	w.synced = at(s.seq, dataStart)
	w.l.mu.Lock()
	w.l.segs = append(w.l.segs, s)
	w.l.reconsider = true
	w.l.mu.Unlock()
	if err := w.writeMark(); err != nil {
		return err
	}
	return w.putRoster()
}

// firstSeq is the oldest segment in use, or seq when there is none.
func (l *Log) firstSeq(seq uint32) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segs) == 0 {
		return seq
	}
	return l.segs[0].seq
}

// putRoster writes the batch that every segment starts with.
func (w *writer) putRoster() error {
	w.reset()
	r := record{kind: recordRoster, appended: never, data: appendRoster(nil, w.roster())}
	w.room(recordBytes(0, len(r.data)))
	w.buf = r.appendTo(w.buf, w.head.salt, at(w.head.seq, w.end+int64(len(w.buf))))
	w.count = 1
	return w.flush(flagRoster)
}

// roster lists the groups as of the last batch written.
func (w *writer) roster() []member {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	var roster []member
	for _, g := range w.l.groups {
		if g.wnum > 0 || g.wdamaged {
			roster = append(roster, member{id: g.id, num: g.wnum, damaged: g.wdamaged})
		}
	}
	slices.SortFunc(roster, func(a, b member) int { return cmp.Compare(a.id, b.id) })
	return roster
}
