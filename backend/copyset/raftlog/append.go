package raftlog

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// StoreLog implements raft.LogStore.
func (g *Group) StoreLog(log *raft.Log) error { return g.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore. The entries are kept by reference: they
// and their Data must not change any more. Indexes within logs are consecutive.
// Entries at and beyond the first of them are replaced. Entries that end before
// it are covered by a raft snapshot, or there would be no gap, and go.
func (g *Group) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	var bytes int64
	next := logs[0].Index
	for i, log := range logs {
		size := recordBytes(len(log.Extensions), len(log.Data))
		switch {
		case log.Index == 0 || log.Index != next+uint64(i):
			return fmt.Errorf("%w: entry %d of %v follows entry %d in one StoreLogs", backend.ErrInvalid, log.Index, g.id, next+uint64(i)-1)
		case size > g.parent.opts.maxRecord():
			return fmt.Errorf("%w: entry %d of %v takes %d bytes, a segment of %d takes no record above %d",
				backend.ErrInvalid, log.Index, g.id, size, g.parent.opts.SegmentBytes, g.parent.opts.maxRecord())
		}
		bytes += size
	}
	return g.change(bytes, func() {
		g.startAt(next)
		for _, log := range logs {
			size := recordBytes(len(log.Extensions), len(log.Data))
			g.appendSlot(slot{size: uint32(size), term: log.Term, log: log})
			g.parent.cache.bytes += size
			g.parent.push(g, item{kind: recordEntry, index: log.Index, size: size, log: log})
		}
		g.parent.cache.note(g)
	})
}

// startAt makes room for an entry with that index.
func (g *Group) startAt(next uint64) {
	switch {
	case g.slots.n > 0 && next > g.last+1:
		g.parent.opts.Logger.Warn("raft entries skip ahead; dropping those before", "copyset", g.id, "last", g.last, "next", next)
		g.dropPrefix(g.last)
	case g.slots.n > 0 && next <= g.last:
		g.dropSuffix(next)
	}
	if g.slots.n == 0 {
		g.first, g.last, g.cached = next, next-1, next
	}
	g.clamp(next - 1)
}

// clamp notes that no entry beyond last is durable, nor about to be.
func (g *Group) clamp(last uint64) {
	if g.parent.opts.planted.skipClamp {
		return
	}
	g.writing = min(g.writing, last)
	g.durable.Store(min(g.durable.Load(), last))
}

func (g *Group) appendSlot(s slot) {
	g.slots.push(s)
	g.last++
	g.bytes += int64(s.size)
}

// change runs queue, which queues at most bytes of entries, when there is room,
// and waits for the sync in Blocking mode.
func (g *Group) change(bytes int64, queue func()) error {
	l := g.parent
	l.mu.Lock()
	for l.refuses() == nil && l.queued > 0 && l.queued+bytes > l.opts.QueueBytes {
		l.room.Wait()
	}
	if err := g.mayChange(); err != nil {
		l.mu.Unlock()
		return err
	}
	queue()
	l.cache.evict()
	var done <-chan struct{}
	if l.opts.Blocking {
		done = l.settled(g.round)
	}
	l.mu.Unlock()
	l.kick()
	return l.await(done)
}

// mayChange returns why the group cannot be changed. Caller holds parent.mu.
func (g *Group) mayChange() error {
	if err := g.parent.refuses(); err != nil {
		return err
	}
	if g.damage != nil {
		return g.damage
	}
	if limit := g.parent.maxMembers(); g.num == 0 && g.parent.members >= limit {
		return fmt.Errorf("%w: %v: the raft log holds %d groups, which is all it takes: use larger segments or fewer copysets",
			backend.ErrInvalid, g.id, limit)
	}
	return nil
}

func (l *Log) maxMembers() int { return int(min(maxGroups, l.opts.SegmentBytes/4/memberLen)) }

// DeleteRange implements raft.LogStore for prefixes and suffixes. It takes its
// place in the order of the group's records, and is not waited for unless
// Blocking: what is appended later is never durable without it.
func (g *Group) DeleteRange(low, high uint64) error {
	g.parent.mu.Lock()
	first, last, n := g.first, g.last, g.slots.n
	g.parent.mu.Unlock()
	switch {
	case n == 0 || low > high || high < first || low > last:
		return nil
	case low > first && high < last:
		return fmt.Errorf("%w: deleting entries %d to %d of %v, which holds %d to %d: only the oldest or the newest can go",
			backend.ErrInvalid, low, high, g.id, first, last)
	}
	return g.change(0, func() {
		if low <= g.first {
			g.dropPrefix(high)
		} else {
			g.dropSuffix(low)
		}
	})
}

// dropPrefix drops the entries up to high and queues the record that says so.
// What is durable stays so: a raft snapshot stands for it.
func (g *Group) dropPrefix(high uint64) {
	high = min(high, g.last)
	if g.slots.n == 0 || high < g.first {
		return
	}
	for g.slots.n > 0 && g.first <= high {
		g.forget(g.slots.at(0))
		g.slots.popFront()
		g.first++
	}
	g.cached = max(g.cached, g.first)
	g.parent.push(g, item{kind: recordPrefix, index: high, size: recordHeadLen})
}

// dropSuffix drops the entries from low on.
func (g *Group) dropSuffix(low uint64) {
	low = max(low, g.first)
	if g.slots.n == 0 || low > g.last {
		return
	}
	for g.slots.n > 0 && g.last >= low {
		g.forget(g.slots.at(g.slots.n - 1))
		g.slots.popBack()
		g.last--
	}
	g.cached = min(g.cached, g.last+1)
	g.clamp(g.last)
	if g.parent.opts.planted.skipTruncateRecord {
		return
	}
	g.parent.push(g, item{kind: recordSuffix, index: low, size: recordHeadLen})
}

// forget takes a slot that goes out of the sums.
func (g *Group) forget(s *slot) {
	size := int64(s.size)
	g.bytes -= size
	if s.log != nil {
		g.parent.cache.bytes -= size
	}
	if s.seg != nil {
		g.parent.dropLive(s.seg, size)
	}
}

// Pair is a key of the stable store with its value.
type Pair struct {
	Key string
	Val []byte
}

// Uint64 is a Pair whose value GetUint64 reads.
func Uint64(key string, val uint64) Pair {
	return Pair{key, binary.LittleEndian.AppendUint64(nil, val)}
}

// Set implements raft.StableStore; durable when it returns.
func (g *Group) Set(key, val []byte) error { return g.SetAll(Pair{string(key), val}) }

// SetAll sets several values, at the cost of one; durable when it returns. Of a
// call that does not return, the first values may be set, in the order given.
func (g *Group) SetAll(pairs ...Pair) error {
	values := make([]*value, len(pairs))
	for i, p := range pairs {
		if len(p.Key) > maxKey || len(p.Val) > maxValue {
			return fmt.Errorf("%w: stable value of %d bytes under a key of %d: at most %d and %d", backend.ErrInvalid, len(p.Val), len(p.Key), maxValue, maxKey)
		}
		values[i] = &value{key: p.Key, val: slices.Clone(p.Val), size: recordBytes(len(p.Key), len(p.Val))}
	}
	return g.settle(func() error {
		if err := g.mayChange(); err != nil {
			return err
		}
		for _, v := range values {
			v.replaces = g.stable[v.key]
			g.stable[v.key] = v
			g.parent.push(g, item{kind: recordSet, size: v.size, value: v})
		}
		return nil
	})
}

// SetUint64 implements raft.StableStore; durable when it returns.
func (g *Group) SetUint64(key []byte, val uint64) error {
	return g.SetAll(Uint64(string(key), val))
}

// Delete forgets the group: entries, votes and damage; durable when it returns.
// The Group is empty and usable afterwards.
func (g *Group) Delete() error {
	var damage error
	err := g.settle(func() error {
		if err := g.parent.refuses(); err != nil {
			return err
		}
		if g.num == 0 && g.damage == nil {
			return nil
		}
		damage = g.damage
		if g.num > 0 {
			g.parent.members--
		}
		g.clear()
		g.parent.push(g, item{kind: recordDelete, size: recordHeadLen})
		g.num = 0
		return nil
	})
	if err != nil {
		return err
	}
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	if g.damage == damage {
		g.damage = nil
	}
	return nil
}

// settle runs queue and waits until what the group has queued is durable.
func (g *Group) settle(queue func() error) error {
	l := g.parent
	l.mu.Lock()
	if err := queue(); err != nil {
		l.mu.Unlock()
		return err
	}
	done := l.settled(g.round)
	l.mu.Unlock()
	l.kick()
	return l.await(done)
}

// clear drops everything that the group holds in memory.
func (g *Group) clear() {
	for g.slots.n > 0 {
		g.forget(g.slots.at(g.slots.n - 1))
		g.slots.popBack()
	}
	for key, v := range g.stable {
		if v.seg != nil {
			g.parent.dropLive(v.seg, v.size)
		}
		v.dead = true
		delete(g.stable, key)
	}
	g.first, g.last, g.cached, g.writing = 1, 0, 1, 0
	g.durable.Store(0)
}
