package copyset

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// A read is served from the leader's chunks when, before and after it looked at
// them: the lease had not run out, the leadership was the same, no repair had put
// blocks from the future into the chunk, nothing was being made again out of turn,
// and no newer epoch of the volume had been seen. Otherwise it is parked, and
// runReads starts it again when what it waits for has come, or answers it when the
// leadership is over.

const (
	// maxReads bounds the reads that are not answered.
	maxReads = 8192
	// maxMends is how often a read that finds damage is tried again.
	maxMends = 3
	// leaseRetry is the time between two tries to get a lease.
	leaseRetry = 10 * time.Millisecond
)

// noFloor: nobody knows yet what the chunk's blocks are up to.
const noFloor = ^uint64(0)

var (
	errParked   = errors.New("read waits")
	errTooMany  = fmt.Errorf("%w: too many reads wait in the copyset", backend.ErrOverload)
	readQueries = sync.Pool{New: func() any { return new(readQuery) }}
)

// readQuery is a read on its way: what the store is asked, for whom.
type readQuery struct {
	q     backend.Op
	r     *Replica
	op    *backend.Op
	lead  *leadership
	redo  uint64
	mends int
	next  *readQuery
}

// readers holds parked reads and what keeps them.
type readers struct {
	// open counts reads not answered; answered tells of each while closing.
	open     atomic.Int32
	closing  atomic.Bool
	answered news

	mu sync.Mutex
	// parked is a list of reads to be started again at the next kick, which may
	// have been: kicks counts them.
	parked *readQuery
	wake   chan struct{}
	closed bool
	// floors are chunks whose blocks may be ahead of the log: reads wait until
	// applied has reached the floor.
	floors    map[backend.ChunkID]uint64
	hasFloors atomic.Bool
	// fences are the volumes for which a fence command is under way, and up to
	// which epoch.
	fences map[backend.VolumeID]backend.Epoch
}

func (s *readers) init() {
	s.wake = make(chan struct{}, 1)
	s.floors = make(map[backend.ChunkID]uint64)
	s.fences = make(map[backend.VolumeID]backend.Epoch)
}

// kick has runReads look at the parked reads again.
func (s *readers) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *readers) floored() bool { return s.hasFloors.Load() }

// setFloor makes reads of a chunk wait for an index; noFloor until further notice.
func (s *readers) setFloor(id backend.ChunkID, floor uint64) {
	s.mu.Lock()
	s.floors[id] = floor
	s.hasFloors.Store(true)
	s.mu.Unlock()
}

// below says whether a chunk's floor is above applied, and forgets one that is not.
func (s *readers) below(id backend.ChunkID, applied uint64) bool {
	if !s.hasFloors.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	floor, ok := s.floors[id]
	if !ok {
		return false
	}
	if floor > applied {
		return true
	}
	delete(s.floors, id)
	s.hasFloors.Store(len(s.floors) > 0)
	return false
}

// Try is Submit for a read that needs no waiting; false when it would.
func (r *Replica) Try(op *backend.Op) bool {
	l := r.lead.Load()
	if op.Kind != backend.OpRead || l == nil || op.Check() != nil {
		return false
	}
	redo := r.redo.Load()
	if r.readable(op, l, redo) != nil {
		return false
	}
	n := readQueries.Get().(*readQuery)
	n.ask(op)
	done := r.hole(&n.q) || r.store.Try(&n.q) && n.q.Err == nil
	done = done && r.readable(op, l, redo) == nil
	if done {
		op.Hole, op.Err = n.q.Hole, nil
	}
	n.free()
	return done
}

func (n *readQuery) ask(op *backend.Op) {
	n.q = backend.Op{
		Kind: backend.OpRead, Volume: op.Volume, Epoch: storeEpoch,
		Chunk: op.Chunk, Off: op.Off, Len: op.Len, Data: op.Data,
	}
}

// hole serves a read of a chunk that does not exist by what the log says, whatever
// file the store may have.
func (r *Replica) hole(q *backend.Op) bool {
	if r.chunks.shown(q.Chunk.ID) {
		return false
	}
	clear(q.Data)
	q.Hole, q.Err = true, nil
	return true
}

func (n *readQuery) free() {
	*n = readQuery{}
	readQueries.Put(n)
}

// readable says whether a read may look, or may keep what it saw: nil, errParked,
// or what it is to be answered.
func (r *Replica) readable(op *backend.Op, l *leadership, redo uint64) error {
	switch epoch := r.fence.epochOf(op.Volume); {
	case r.lead.Load() != l:
		return r.notLeader()
	case epoch > op.Epoch && !r.opts.Unfenced:
		return r.staleEpoch(op.Volume, op.Epoch)
	case epoch < op.Epoch && !r.opts.Unfenced,
		redo%2 == 1, r.redo.Load() != redo,
		r.reads.below(op.Chunk.ID, r.applied.Load()),
		!time.Now().Before(r.net.LeaseUntil()):
		return errParked
	}
	return nil
}

func (r *Replica) submitRead(op *backend.Op) {
	if r.reads.open.Add(1) > maxReads {
		r.reads.open.Add(-1)
		finish(op, errTooMany)
		return
	}
	n := readQueries.Get().(*readQuery)
	n.r, n.op = r, op
	r.startRead(n)
}

// submitBarrier completes what only has to be let in: flushes, since all that is
// acknowledged is durable, and changes of nothing.
func (r *Replica) submitBarrier(op *backend.Op) {
	switch epoch := r.fence.epochOf(op.Volume); {
	case r.opts.Unfenced || op.Epoch == epoch:
		finish(op, nil)
	case op.Epoch < epoch:
		finish(op, r.staleEpoch(op.Volume, op.Epoch))
	default:
		err := r.prop.command(kindFence, 0, encodeFence(op.Volume, op.Epoch), func(err error) { finish(op, err) })
		if err != nil {
			finish(op, r.notLeader())
		}
	}
}

// startRead sends a read to the store if it may look, else parks or answers it. It
// may wait for the store's queue.
func (r *Replica) startRead(n *readQuery) {
	l := r.lead.Load()
	if l == nil {
		n.answer(r.notLeader())
		return
	}
	n.lead, n.redo = l, r.redo.Load()
	switch err := r.readable(n.op, l, n.redo); err {
	case nil:
		n.ask(n.op)
		if r.hole(&n.q) {
			n.OpDone(&n.q)
			return
		}
		n.q.Done = n
		r.store.Submit(&n.q)
	case errParked:
		r.park(n)
	default:
		n.answer(err)
	}
}

// OpDone implements backend.Completer: the store has read.
func (n *readQuery) OpDone(*backend.Op) {
	r, err := n.r, n.q.Err
	if err == nil {
		err = r.readable(n.op, n.lead, n.redo)
	}
	switch {
	case err == nil:
		n.op.Hole = n.q.Hole
		n.answer(nil)
	case err == errParked:
		r.park(n)
	case n.q.Err != nil && mendable(n.q.Err) && n.mends < maxMends:
		n.mends++
		r.mend.ask(n.op.Chunk, n.op.Volume, func(err error) {
			if err != nil && r.lead.Load() == n.lead {
				n.answer(err)
			} else {
				r.park(n)
			}
		})
	case n.q.Err != nil && r.lead.Load() != n.lead:
		n.answer(r.notLeader())
	default:
		n.answer(err)
	}
}

// answer completes the read. Nothing touches n afterwards.
func (n *readQuery) answer(err error) {
	r, op := n.r, n.op
	n.free()
	finish(op, err)
	if r.reads.open.Add(-1) == 0 && r.reads.closing.Load() {
		r.reads.answered.tell()
	}
}

// park keeps a read until the next kick. What it waits for may have come since it
// was looked at, so that one kick is due at once.
func (r *Replica) park(n *readQuery) {
	s := &r.reads
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		n.answer(errClosing)
		return
	}
	n.next, s.parked = s.parked, n
	s.mu.Unlock()
	s.kick()
}

func (s *readers) takeParked() *readQuery {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.parked
	s.parked = nil
	return list
}

// runReads starts parked reads again.
func (r *Replica) runReads() {
	for {
		select {
		case <-r.reads.wake:
		case <-r.closing:
			return
		}
		l := r.lead.Load()
		if l != nil && !time.Now().Before(r.net.LeaseUntil()) {
			r.renewLease(l)
		}
		r.restart(r.reads.takeParked(), l)
	}
}

// restart starts the reads of a list that no longer wait for anything but the
// lease; the others go back without another kick.
func (r *Replica) restart(list *readQuery, l *leadership) {
	for list != nil {
		n := list
		list, n.next = n.next, nil
		if l == nil || r.lead.Load() != l || !r.waits(n) {
			r.startRead(n)
			continue
		}
		r.reads.mu.Lock()
		n.next, r.reads.parked = r.reads.parked, n
		r.reads.mu.Unlock()
	}
	// Between the look and going back, what they wait for may have come: it then
	// has kicked, and the wake channel keeps that.
}

// waits says whether a read waits for something that will kick when it comes, and
// sees to it that it does come.
func (r *Replica) waits(n *readQuery) bool {
	if r.redo.Load()%2 == 1 || r.reads.below(n.op.Chunk.ID, r.applied.Load()) {
		return true
	}
	if r.opts.Unfenced || r.fence.epochOf(n.op.Volume) >= n.op.Epoch {
		return false
	}
	return r.proposeFence(n.op.Volume, n.op.Epoch)
}

// proposeFence sees to it that a fence command for that epoch is under way.
func (r *Replica) proposeFence(volume backend.VolumeID, epoch backend.Epoch) bool {
	s := &r.reads
	s.mu.Lock()
	if s.fences[volume] >= epoch {
		s.mu.Unlock()
		return true
	}
	s.fences[volume] = epoch
	s.mu.Unlock()
	done := func(error) {
		s.mu.Lock()
		if s.fences[volume] == epoch {
			delete(s.fences, volume)
		}
		s.mu.Unlock()
		s.kick()
	}
	if err := r.prop.command(kindFence, 0, encodeFence(volume, epoch), done); err != nil {
		done(err)
	}
	return true
}

// renewLease waits for a lease, once for all reads that wait.
func (r *Replica) renewLease(l *leadership) {
	if err := r.net.AwaitLease(l.ctx); err != nil && l.ctx.Err() == nil {
		r.slog.Debug("no lease", "err", err)
		if r.sleep(leaseRetry) == nil {
			r.reads.kick()
		}
	}
}

// close answers what is parked and waits for what the store still reads.
func (s *readers) close() {
	s.mu.Lock()
	s.closed = true
	list := s.parked
	s.parked = nil
	s.mu.Unlock()
	for list != nil {
		n := list
		list = n.next
		n.answer(errClosing)
	}
	s.closing.Store(true)
	for {
		answered := s.answered.wait()
		if s.open.Load() == 0 {
			return
		}
		<-answered
	}
}
