package raftlog

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Log is an open log directory.
type Log struct {
	fs     disk.FS
	dir    string
	opts   Options
	pool   *pool
	meters *meters
	// busySince is when the write or sync now under way began, in ns since 1970.
	busySince atomic.Int64
	// meanSync is the mean time of the last few syncs, in ns.
	meanSync atomic.Int64

	// mu guards everything below and what Group says it guards. Never held
	// across a disk.
	mu     sync.Mutex
	room   *sync.Cond // StoreLogs waits here while the queue is full
	groups map[backend.CopysetID]*Group
	// members counts the groups that the roster lists.
	members int
	segs    []*segment // in use, oldest first; the last one is written
	cache   cache

	// round collects what is queued; the one before it may be being written, all
	// earlier ones are durable. queued counts the bytes of both.
	round, durableRound uint64
	queue               []item
	drops               []drop
	queued              int64
	// after and done wait for the round that collects, writingAfter and
	// writingDone for the one being written. The channels are made on demand.
	after, writingAfter []func()
	done, writingDone   chan struct{}

	// reconsider: the oldest segment may have become worth emptying.
	reconsider bool
	err        error
	closing    bool
	// lost: records were destroyed and it is not known whose they were.
	lost error

	wake    chan struct{}
	dead    chan struct{} // closed when the log has failed
	stopped chan struct{} // closed when the writer is gone
}

// item is a record on its way to the disk.
type item struct {
	kind  recordType
	group *Group
	num   uint64
	index uint64
	size  int64 // of the record
	log   *raftEntry
	value *value
	// from and fromOff are where a record that is written again was.
	from    *segment
	fromOff uint32
	// seg and off are where the writer put it.
	seg *segment
	off uint32
	// together is how many bytes from this record on must share a batch.
	together int64
}

// drop is live bytes that are dead once the round that it was noted in is durable.
type drop struct {
	seg   *segment
	bytes int64
}

// Damaged lists the groups whose records were damaged where they had been
// durable: their replicas must not vote or serve (backend.ReplicaDamaged) until
// Group.Delete. The others are whole.
func (l *Log) Damaged() map[backend.CopysetID]error {
	l.mu.Lock()
	defer l.mu.Unlock()
	damaged := make(map[backend.CopysetID]error)
	for id, g := range l.groups {
		if g.damage != nil {
			damaged[id] = g.damage
		}
	}
	return damaged
}

// Lost is not nil when records were destroyed of which nothing tells whose they
// were. All groups that the log knows of and that may have had any are in
// Damaged; a group that ought to be here and that the log has never heard of may
// be the victim too.
func (l *Log) Lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Groups lists the groups that the log holds anything of, in order.
func (l *Log) Groups() []backend.CopysetID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []backend.CopysetID
	for _, id := range slices.Sorted(maps.Keys(l.groups)) {
		if g := l.groups[id]; g.slots.n > 0 || len(g.stable) > 0 || g.damage != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// Group returns the part of one copyset, empty if it is new. The same *Group
// each time.
func (l *Log) Group(id backend.CopysetID) *Group {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.group(id)
}

func (l *Log) group(id backend.CopysetID) *Group {
	g := l.groups[id]
	if g == nil {
		g = &Group{parent: l, id: id, stable: make(map[string]*value), first: 1, cached: 1}
		l.groups[id] = g
	}
	return g
}

// Bytes is the disk space of all segments in use.
func (l *Log) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, s := range l.segs {
		n += s.size
	}
	return n
}

// Pinning returns the group with the oldest live entry and how many bytes of the
// log would be freed were that group's entries gone: whom to ask for a raft
// snapshot when the log grows. 0 bytes when nobody's would help.
func (l *Log) Pinning() (id backend.CopysetID, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var oldest *Group
	head := l.segs[len(l.segs)-1].seq
	first, second := head, head // segments that the oldest and the next group need
	for _, g := range l.groups {
		if g.slots.n == 0 || g.slots.at(0).seg == nil {
			continue
		}
		switch seq := g.slots.at(0).seg.seq; {
		case seq < first || oldest == nil:
			oldest, first, second = g, seq, min(first, head)
		case seq < second:
			second = seq
		}
	}
	if oldest == nil {
		return 0, 0
	}
	for _, s := range l.segs {
		if s.seq >= first && s.seq < second {
			bytes += s.size
		}
	}
	return oldest.id, bytes
}

// Stalled is how long the write or sync now under way has been running; 0 when
// there is none. For a watchdog.
func (l *Log) Stalled() time.Duration {
	since := l.busySince.Load()
	if since == 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(0, since)))
}

// Full says that the disk has no space left to keep segments in reserve: the log
// goes on with those it has, and fails when it needs another.
func (l *Log) Full() bool { return l.pool.full.Load() }

// Close writes and syncs what is queued and closes the files. No call may follow.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return nil
	}
	l.closing = true
	l.room.Broadcast()
	l.mu.Unlock()
	l.kick()
	<-l.stopped
	err := l.pool.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		err = errors.Join(err, s.close())
	}
	if l.err != nil {
		return l.err
	}
	if err != nil {
		return diskError("close", err)
	}
	return nil
}

// fail ends all writing. Called by the writer only, once.
func (l *Log) fail(err error) {
	if !errors.Is(err, backend.ErrIO) {
		err = fmt.Errorf("%w: %w", backend.ErrIO, err)
	}
	l.mu.Lock()
	l.err = err
	l.after, l.writingAfter = nil, nil
	close(l.dead)
	l.room.Broadcast()
	l.mu.Unlock()
	l.opts.Logger.Error("raft log failed; this process must stop serving", "dir", l.dir, "error", err)
	l.opts.Failed(err)
}

// refuses returns why nothing can be queued. Caller holds mu.
func (l *Log) refuses() error {
	if l.err != nil {
		return l.err
	}
	if l.closing {
		return fmt.Errorf("%w: raft log", backend.ErrClosed)
	}
	return nil
}

// push queues a record of g. Caller holds mu and calls kick afterwards.
func (l *Log) push(g *Group, it item) {
	if g.num == 0 && it.kind != recordDelete {
		l.members++
	}
	g.num++
	it.group, it.num = g, g.num
	g.round = l.round
	l.queued += it.size
	l.queue = append(l.queue, it)
}

func (l *Log) kick() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// settled returns a channel that is closed when the round is durable, nil if it
// is already. Caller holds mu.
func (l *Log) settled(round uint64) <-chan struct{} {
	var done *chan struct{}
	switch {
	case round <= l.durableRound:
		return nil
	case round == l.round:
		done = &l.done
	default:
		done = &l.writingDone
	}
	if *done == nil {
		*done = make(chan struct{})
	}
	return *done
}

// await waits for what settled returned.
func (l *Log) await(done <-chan struct{}) error {
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-l.dead:
	}
	select {
	case <-done: // it made it before the log failed
		return nil
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// dropLive notes that bytes of seg are dead once the round that collects is
// durable; not before, because a crash may bring the records back to life.
func (l *Log) dropLive(seg *segment, bytes int64) {
	if l.opts.planted.freeEarly {
		seg.live -= bytes
		return
	}
	if n := len(l.drops); n > 0 && l.drops[n-1].seg == seg {
		l.drops[n-1].bytes += bytes
		return
	}
	l.drops = append(l.drops, drop{seg, bytes})
}
