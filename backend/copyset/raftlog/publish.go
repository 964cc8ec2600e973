package raftlog

// publish ends a round: what it wrote is durable.
func (w *writer) publish() {
	l := w.l
	l.mu.Lock()
	for i := range w.items {
		it := &w.items[i]
		l.place(it)
		it.group.durable.Store(it.group.writing)
	}
	for _, d := range w.drops {
		d.seg.live -= d.bytes
		l.reconsider = l.reconsider || d.seg == l.segs[0]
	}
	l.free()
	l.cache.evict()
	l.queued -= w.taken
	l.durableRound = l.round - 1
	done, after := l.writingDone, l.writingAfter
	l.writingDone = nil
	l.room.Broadcast()
	l.mu.Unlock()
	clear(w.items)
	clear(w.drops)
	if done != nil {
		close(done)
	}
	for i, fn := range after {
		fn()
		after[i] = nil
	}
}

// place notes where a record is now. Caller holds mu.
func (l *Log) place(it *item) {
	switch it.kind {
	case recordEntry:
		s := it.group.slot(it.index)
		switch {
		case s == nil || it.from == nil && s.log != it.log || it.from != nil && (s.seg != it.from || s.off != it.fromOff):
			// Deleted meanwhile; the record that says so is in the next round.
			it.seg.live += it.size
			l.dropLive(it.seg, it.size)
			return
		case s.seg != nil:
			s.seg.live -= it.size
		}
		s.seg, s.off = it.seg, it.off
		it.seg.live += it.size
	case recordSet:
		v := it.value
		it.seg.live += v.size
		if v.seg != nil && !v.dead {
			v.seg.live -= v.size
		}
		if r := v.replaces; r != nil {
			v.replaces = nil
			r.seg.live -= r.size
		}
		v.seg, v.off = it.seg, it.off
		if v.dead {
			l.dropLive(it.seg, v.size)
		}
	}
}

// free gives away the segments at the old end that nothing needs. Caller holds mu.
func (l *Log) free() {
	for len(l.segs) > 1 && l.segs[0].live == 0 {
		l.pool.put(l.segs[0])
		l.segs[0] = nil
		l.segs = l.segs[1:]
		l.reconsider = true
		l.pool.wake()
	}
}
