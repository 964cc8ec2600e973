package raftlog

// Leftovers of idle groups keep the oldest segment from being freed. When they
// are few they are written again at the new end: for each group that has
// something there, all that it holds. The reset before it makes the batch that
// holds it replace everything earlier of the group, so that a crash finds either
// the old records or the new ones.

// A group that has only stable values there has those written again, for its
// entries may be many.

// move is a group to be written again, with those of its entries that were only
// on disk.
type move struct {
	group   *Group
	values  bool // only the values in the oldest segment
	fetched map[uint64]*raftEntry
}

// fetchMoves chooses what to write again, if anything, and reads it.
func (l *Log) fetchMoves() []move {
	l.mu.Lock()
	moves := l.chooseMoves()
	type place struct {
		move  int
		index uint64
		slot  slot
	}
	var cold []place
	for m := range moves {
		g := moves[m].group
		for i := 0; i < g.slots.n && !moves[m].values; i++ {
			if s := g.slots.at(i); s.log == nil {
				cold = append(cold, place{m, g.first + uint64(i), *s})
			}
		}
	}
	l.mu.Unlock()
	for _, c := range cold {
		m := &moves[c.move]
		r, err := c.slot.seg.read(c.slot.off, c.slot.size, false)
		if err != nil {
			l.opts.Logger.Error("raft log entry cannot be moved; its segment stays until the group takes a raft snapshot",
				"copyset", m.group.id, "index", c.index, "error", err)
			l.mu.Lock()
			m.group.unmovable = true
			l.mu.Unlock()
			return nil
		}
		if m.fetched == nil {
			m.fetched = make(map[uint64]*raftEntry)
		}
		log := entryOf(r)
		m.fetched[c.index] = &log
	}
	return moves
}

// chooseMoves returns the groups whose rewriting empties the oldest segment, none
// if it is not worth it. Caller holds mu.
func (l *Log) chooseMoves() []move {
	if !l.reconsider {
		return nil
	}
	l.reconsider = false
	if len(l.segs) <= keepSegments {
		return nil
	}
	oldest := l.segs[0]
	var moves []move
	var total int64
	for _, g := range l.groups {
		m, bytes := g.moveFrom(oldest)
		if bytes == 0 {
			continue
		}
		total += bytes
		if bytes > l.opts.maxRestate() || total > oldest.size/4 || g.unmovable && !m.values {
			return nil // see Pinning
		}
		moves = append(moves, m)
	}
	return moves
}

// moveFrom says what must be written again so that the group needs nothing of
// seg, the oldest segment, and how many bytes that is; 0 for nothing.
func (g *Group) moveFrom(seg *segment) (move, int64) {
	// Entries lie in the order of their indexes, and all are moved together.
	if g.slots.n > 0 && g.slots.at(0).seg == seg {
		return move{group: g}, g.restateBytes()
	}
	var bytes int64
	for _, v := range g.stable {
		if v.seg == seg {
			bytes += v.size
		}
	}
	return move{group: g, values: true}, bytes
}

func (g *Group) restateBytes() int64 {
	n := g.bytes + recordHeadLen
	for _, v := range g.stable {
		n += v.size
	}
	return n
}

// relocate appends the groups to be moved to items, as they are now. Caller holds
// mu.
func (l *Log) relocate(items []item, moves []move) []item {
	for _, m := range moves {
		if m.values {
			items = m.group.renewValues(items, l.segs[0])
			continue
		}
		if n := m.group.restateBytes(); n > l.opts.maxRestate() || !m.covers() {
			l.reconsider = true // it changed meanwhile
			continue
		}
		items = m.group.restate(items, m.fetched)
	}
	return items
}

// covers says whether every entry of the group is in memory.
func (m move) covers() bool {
	g := m.group
	for i := range g.slots.n {
		if g.slots.at(i).log == nil && m.fetched[g.first+uint64(i)] == nil {
			return false
		}
	}
	return true
}

// restate appends to items the whole of what the group holds.
func (g *Group) restate(items []item, fetched map[uint64]*raftEntry) []item {
	first := len(items)
	if !g.parent.opts.planted.skipReset {
		items = append(items, item{kind: recordReset, size: recordHeadLen})
	}
	for _, v := range g.stable {
		items = append(items, item{kind: recordSet, size: v.size, value: v})
	}
	for i := range g.slots.n {
		s, index := g.slots.at(i), g.first+uint64(i)
		log := s.log
		if log == nil {
			log = fetched[index]
		}
		items = append(items, item{kind: recordEntry, index: index, size: int64(s.size), log: log, from: s.seg, fromOff: s.off})
	}
	items[first].together = g.restateBytes()
	return g.number(items, first)
}

// renewValues appends to items the stable values that lie in seg.
func (g *Group) renewValues(items []item, seg *segment) []item {
	first := len(items)
	for _, v := range g.stable {
		if v.seg == seg {
			items = append(items, item{kind: recordSet, size: v.size, value: v})
		}
	}
	return g.number(items, first)
}

// number makes the items from first on the group's newest records.
func (g *Group) number(items []item, first int) []item {
	for i := first; i < len(items); i++ {
		g.num++
		items[i].group, items[i].num = g, g.num
	}
	g.round = g.parent.round
	return items
}
