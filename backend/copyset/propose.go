package copyset

import (
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// maxPendingOps and maxPendingBytes bound what a leader has accepted and not
	// answered; beyond, it answers ErrOverload.
	maxPendingOps   = 8192
	maxPendingBytes = 64 << 20
	// maxInFlight keeps the entries handed to raft below the depth of its queue
	// (MaxAppendEntries), so that handing one over never waits.
	maxInFlight = 24
)

// proposal is one raft entry on its way: built, queued, in flight, taken by the
// state machine.
type proposal struct {
	number uint64
	kind   commandKind
	data   []byte
	// ops are a batch's, in order.
	ops []*backend.Op
	// count is that of a delete's chunks.
	count int
	// done is told the outcome of what is no batch.
	done func(error)
}

var proposals = sync.Pool{New: func() any { return new(proposal) }}

func (p *proposal) free() {
	clear(p.ops)
	*p = proposal{ops: p.ops[:0]}
	proposals.Put(p)
}

func (p *proposal) finish(err error) {
	for _, op := range p.ops {
		finish(op, err)
	}
	if p.done != nil {
		p.done(err)
	}
	p.free()
}

// proposer puts operations together into entries. There is no timer: an entry
// goes as soon as fewer than limit are in flight, and what comes meanwhile makes
// up the next one.
type proposer struct {
	// send hands an entry to raft.
	send func(data []byte)
	// origin tags this process's commands.
	origin uint64
	limit  int

	// mu guards the fields below.
	mu sync.Mutex
	// leading: raft was elected. opened: ready, operations are accepted. held:
	// accepted, but not sent.
	leading, opened, held bool
	number                uint64
	// queue are complete entries that wait; building is the one behind them.
	queue    []*proposal
	building *proposal
	inflight []*proposal
	// ops and bytes are accepted and not answered, those taken included.
	ops   int
	bytes int64
	// lastSize is how large the last batch became: a guess for the next.
	lastSize int
	// idle is closed when nothing is in flight, if somebody waits for that.
	idle chan struct{}
}

func (p *proposer) init(origin uint64, limit int, send func([]byte)) {
	p.origin, p.limit, p.send = origin, limit, send
}

// propose hands an entry to raft. Its future is not waited for: what is applied is
// answered by the state machine, what is not by the end of the leadership.
func (r *Replica) propose(data []byte) {
	r.raft.Load().ApplyLog(raft.Log{Data: data}, 0)
}

var errOverload = fmt.Errorf("%w: too many changes wait in the copyset", backend.ErrOverload)

// submitChange accepts a change. The caller has found this replica ready.
func (r *Replica) submitChange(op *backend.Op) {
	if err := checkChange(op); err != nil {
		finish(op, err)
		return
	}
	if op.Epoch < r.fence.epochOf(op.Volume) && !r.opts.Unfenced {
		finish(op, r.staleEpoch(op.Volume, op.Epoch))
		return
	}
	if r.full.Load() && !freesSpace(op) {
		finish(op, fmt.Errorf("%w: %v takes no changes until space is freed", backend.ErrNoSpace, r.opts.Self))
		return
	}
	switch err := r.prop.add(op); err {
	case nil:
	case backend.ErrNotLeader:
		finish(op, r.notLeader())
	default:
		finish(op, err)
	}
}

func freesSpace(op *backend.Op) bool {
	return op.Kind == backend.OpTrim || op.Kind == backend.OpZero && !op.Flags.Has(backend.FlagNoHole)
}

// add copies op into the entry under construction.
func (p *proposer) add(op *backend.Op) error {
	size := encodedOp(op)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.opened:
		return backend.ErrNotLeader
	case p.ops >= maxPendingOps || p.bytes+op.Len > maxPendingBytes && op.Kind == backend.OpWrite:
		return errOverload
	}
	b := p.building
	if b != nil && (len(b.ops) >= maxBatchOps || len(b.data)+size > maxBatchBytes) {
		p.queue = append(p.queue, b)
		b = nil
	}
	if b == nil {
		b = proposals.Get().(*proposal)
		b.kind = kindBatch
		room := size
		if p.held || len(p.inflight) >= p.limit { // more will follow
			room = max(room, min(p.lastSize, maxBatchBytes))
		}
		b.data = newCommand(room)
		p.building = b
	}
	b.data = appendOp(b.data, op)
	b.ops = append(b.ops, op)
	p.ops++
	p.bytes += payload(op)
	p.pump()
	return nil
}

func payload(op *backend.Op) int64 { return int64(len(op.Data)) }

// command accepts what is no batch; done is told its outcome.
func (p *proposer) command(kind commandKind, count int, data []byte, done func(error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.opened {
		return backend.ErrNotLeader
	}
	b := proposals.Get().(*proposal)
	b.kind, b.count, b.data, b.done = kind, count, data, done
	if p.building != nil {
		p.queue = append(p.queue, p.building)
		p.building = nil
	}
	p.queue = append(p.queue, b)
	p.pump()
	return nil
}

// begin starts a leadership with its barrier.
func (p *proposer) begin(done func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leading = true
	b := proposals.Get().(*proposal)
	b.kind, b.data, b.done = kindBarrier, newCommand(0), done
	p.sendOne(b)
}

// nudge sends a barrier, on a leader, so that the followers hear of what is
// committed now rather than with the next change.
func (p *proposer) nudge() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leading || len(p.inflight) > maxInFlight {
		return
	}
	b := proposals.Get().(*proposal)
	b.kind, b.data = kindBarrier, newCommand(0)
	p.sendOne(b)
}

// open accepts operations from now on.
func (p *proposer) open() {
	p.mu.Lock()
	p.opened = p.leading
	p.mu.Unlock()
}

// pump sends what may be sent. Caller holds mu.
func (p *proposer) pump() {
	for !p.held && len(p.inflight) < p.limit {
		var b *proposal
		switch {
		case len(p.queue) > 0:
			b = p.queue[0]
			p.queue[0] = nil
			p.queue = p.queue[1:]
			if len(p.queue) == 0 {
				p.queue = p.queue[:0:0]
			}
		case p.building != nil:
			b, p.building = p.building, nil
		default:
			return
		}
		p.sendOne(b)
	}
}

// sendOne hands an entry to raft. Caller holds mu.
func (p *proposer) sendOne(b *proposal) {
	p.number++
	b.number = p.number
	count := b.count
	if b.kind == kindBatch {
		count = len(b.ops)
		p.lastSize = len(b.data)
	}
	sealCommand(b.data, b.kind, count, p.origin, b.number)
	p.inflight = append(p.inflight, b)
	p.send(b.data)
}

// take gives the state machine the proposal of a command that it is about to
// apply, nil for one that is not pending here, and lets the next one go.
func (p *proposer) take(c *command) *proposal {
	if c.origin != p.origin {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range p.inflight {
		if b.number != c.number {
			continue
		}
		last := len(p.inflight) - 1
		p.inflight[i], p.inflight[last] = p.inflight[last], nil
		p.inflight = p.inflight[:last]
		b.data = nil // raft's now
		p.pump()
		p.tellIdle()
		return b
	}
	return nil
}

func (p *proposer) tellIdle() {
	if len(p.inflight) == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
}

// answered gives back the room of operations that have been completed.
func (p *proposer) answered(ops int, bytes int64) {
	p.mu.Lock()
	p.ops -= ops
	p.bytes -= bytes
	p.mu.Unlock()
}

// hold stops sending, or goes on with it. What is accepted waits.
func (p *proposer) hold(held bool) {
	p.mu.Lock()
	p.held = held
	if p.leading {
		p.pump()
	}
	p.mu.Unlock()
}

// drained is closed once nothing is in flight.
func (p *proposer) drained() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.tellIdle()
	return idle
}

// depose ends a leadership: what is in flight is answered with err, what was never
// sent is returned.
func (p *proposer) depose(err error) (unsent []*proposal) {
	p.mu.Lock()
	p.leading, p.opened = false, false
	sent := p.inflight
	unsent = p.queue
	if p.building != nil {
		unsent = append(unsent, p.building)
	}
	p.inflight, p.queue, p.building = nil, nil, nil
	p.tellIdle()
	p.mu.Unlock()
	p.fail(sent, err)
	return unsent
}

// fail answers proposals that will not be taken.
func (p *proposer) fail(list []*proposal, err error) {
	for _, b := range list {
		ops, bytes := len(b.ops), int64(0)
		for _, op := range b.ops {
			bytes += payload(op)
		}
		b.finish(err)
		p.answered(ops, bytes)
	}
}

// close ends it for good.
func (p *proposer) close(unknown, undone error) { p.fail(p.depose(unknown), undone) }
