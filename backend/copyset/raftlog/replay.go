package raftlog

import (
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// segment replays what a segment holds and returns where it ends. Content that
// ends where the next segment begins is given without what lies beyond. The last
// segment ends at the first batch that is not whole, unless that was durable.
func (r *recovery) segment(s *segment, content []byte, last bool) int64 {
	own := s.header()
	off := int64(dataStart)
	for off < int64(len(content)) {
		pos := at(s.seq, off)
		h, ok := decodeBatchHeader(content, off, own)
		whole := ok && r.whole(content, off, h)
		if !whole && last && pos >= r.durable {
			return off
		}
		r.passMark(pos)
		if ok {
			r.batch(s, content, off, h)
			off += h.bytes()
			continue
		}
		next, found := r.nextBatch(content, off, own)
		switch {
		case found && off == dataStart && next.prev == pos:
			r.loseRoster()
		case found:
			r.lose(next.pos, fmt.Sprintf("batch at %v is destroyed", pos))
		case last:
			end := off
			if r.durable.seq() == s.seq {
				end = max(off, min(r.durable.off(), int64(len(content))))
			}
			r.lose(max(r.durable, at(s.seq, end)), fmt.Sprintf("batch at %v is destroyed", pos))
			return end
		default:
			r.lose(at(s.seq, int64(len(content))), fmt.Sprintf("batch at %v is destroyed", pos))
			return int64(len(content))
		}
		off = next.pos.off()
	}
	return off
}

// nextBatch finds the next header beyond off.
func (r *recovery) nextBatch(content []byte, off int64, own segmentHeader) (batchHeader, bool) {
	for off += sectorBytes; off < int64(len(content)); off += sectorBytes {
		if h, ok := decodeBatchHeader(content, off, own); ok {
			return h, true
		}
	}
	return batchHeader{}, false
}

// whole says whether every record of a batch is sound.
func (r *recovery) whole(content []byte, off int64, h batchHeader) bool {
	at0, rest := h.pos+batchHeadLen, content[off+batchHeadLen:off+batchHeadLen+h.length]
	for range h.count {
		rec, headOK, ok := decodeRecord(rest, h.salt, at0)
		if !ok && !(headOK && r.l.opts.planted.skipChecksum) {
			return false
		}
		rest = rest[rec.size:]
		at0 += position(rec.size)
	}
	return len(rest) == 0
}

// batch replays a batch, skipping what of it is destroyed.
func (r *recovery) batch(s *segment, content []byte, off int64, h batchHeader) {
	end := off + batchHeadLen + h.length
	at0 := off + batchHeadLen
	for range h.count {
		rec, headOK, ok := decodeRecord(content[at0:end], h.salt, at(s.seq, at0))
		switch {
		case ok || headOK && r.l.opts.planted.skipChecksum:
			r.record(s, uint32(at0), h.pos, rec)
		case h.flags&flagRoster != 0:
			r.loseRoster()
			return
		case headOK:
			t := r.track(rec.copyset)
			t.group.num = rec.num
			r.damage(t, fmt.Errorf("%w: raft log of %v: record at %v", backend.ErrChecksum, rec.copyset, at(s.seq, at0)))
		default:
			r.lose(h.pos+position(h.bytes()), fmt.Sprintf("record at %v is destroyed", at(s.seq, at0)))
			return
		}
		at0 += rec.size
	}
}

// record replays one record of a batch at pos.
func (r *recovery) record(s *segment, off uint32, pos position, rec record) {
	if rec.kind == recordRoster {
		if roster, ok := decodeRoster(rec.data); ok {
			r.roster(pos, roster)
			return
		}
		r.lose(pos+1, fmt.Sprintf("roster at %v is impossible", pos))
		return
	}
	r.fresh = false
	r.records++
	t := r.track(rec.copyset)
	g := t.group
	switch {
	case rec.kind == recordDelete:
		r.forget(t)
		t.seen, t.proven = true, pos
		return
	case rec.kind == recordReset:
		r.forget(t)
	case rec.num != g.num+1 && (t.seen || !r.lenient):
		r.damage(t, fmt.Errorf("%w: raft log of %v: record %d follows record %d", backend.ErrChecksum, g.id, rec.num, g.num))
	}
	g.num, t.seen, t.proven = rec.num, true, pos
	if g.damage == nil {
		if err := r.apply(g, s, off, rec); err != nil {
			r.damage(t, err)
		}
	}
}

// apply changes a group as a record says.
func (r *recovery) apply(g *Group, s *segment, off uint32, rec record) error {
	switch rec.kind {
	case recordEntry:
		if g.slots.n > 0 && rec.index != g.last+1 || rec.index == 0 {
			return fmt.Errorf("%w: raft log of %v: entry %d follows entry %d", backend.ErrChecksum, g.id, rec.index, g.last)
		}
		if g.slots.n == 0 {
			g.first, g.last = rec.index, rec.index-1
		}
		g.appendSlot(slot{seg: s, off: off, size: uint32(rec.size), term: rec.term})
		s.live += rec.size
	case recordPrefix:
		for g.slots.n > 0 && g.first <= rec.index {
			g.forget(g.slots.at(0))
			g.slots.popFront()
			g.first++
		}
	case recordSuffix:
		for g.slots.n > 0 && g.last >= rec.index {
			g.forget(g.slots.at(g.slots.n - 1))
			g.slots.popBack()
			g.last--
		}
	case recordSet:
		v := &value{key: string(rec.head), val: append([]byte(nil), rec.data...), seg: s, off: off, size: rec.size}
		if old := g.stable[v.key]; old != nil {
			r.l.dropLive(old.seg, old.size)
		}
		g.stable[v.key] = v
		s.live += rec.size
	}
	r.applyDrops()
	return nil
}

func (r *recovery) applyDrops() {
	for _, d := range r.l.drops {
		d.seg.live -= d.bytes
	}
	r.l.drops = r.l.drops[:0]
}

// track returns what is known of a group.
func (r *recovery) track(id backend.CopysetID) *track {
	t := r.tracks[id]
	if t == nil {
		t = &track{group: r.l.group(id)}
		r.tracks[id] = t
	}
	return t
}

// damage notes that a group has lost something.
func (r *recovery) damage(t *track, err error) {
	if t.group.damage == nil {
		t.group.damage = err
	}
}

// forget makes a group new.
func (r *recovery) forget(t *track) {
	t.group.clear()
	r.applyDrops()
	t.group.num, t.group.damage = 0, nil
}

// lose notes that records before end were destroyed, and not whose.
func (r *recovery) lose(end position, what string) {
	r.l.opts.Logger.Error("raft log is damaged", "dir", r.l.dir, "what", what)
	r.fresh = false
	r.lost = max(r.lost, end)
}

// loseRoster notes that a roster was destroyed, and nothing else.
func (r *recovery) loseRoster() {
	r.l.opts.Logger.Error("raft log is damaged where it only repeats itself", "dir", r.l.dir)
	if r.fresh {
		r.fresh, r.lenient = false, true
	}
}

// passMark applies the mark's roster when the position that it was made at is
// reached.
func (r *recovery) passMark(pos position) {
	if r.markPassed || pos < r.mark.durable {
		return
	}
	r.markPassed = true
	if len(r.used) > 0 && r.mark.durable < at(r.used[0].seq, dataStart) {
		return // older than all that is left
	}
	if r.mark.count > 0 {
		r.roster(r.mark.durable, r.mark.roster)
	}
}

// roster holds the groups against what they were at pos. What a roster does not
// list had been deleted.
func (r *recovery) roster(pos position, roster []member) {
	listed := make(map[backend.CopysetID]bool, len(roster))
	for _, m := range roster {
		listed[m.id] = true
		t := r.track(m.id)
		g := t.group
		if g.num != m.num && !r.fresh && (t.seen || !r.lenient) {
			r.damage(t, fmt.Errorf("%w: raft log of %v: its records end with number %d where %d were written", backend.ErrChecksum, m.id, g.num, m.num))
		}
		if m.damaged {
			r.damage(t, fmt.Errorf("%w: raft log of %v: found damaged earlier", backend.ErrChecksum, m.id))
		}
		g.num, t.seen, t.proven = m.num, true, pos
	}
	for id, t := range r.tracks {
		if !listed[id] {
			r.forget(t)
			t.seen, t.proven = true, pos
		}
	}
	r.fresh, r.lenient = false, false
}
