package scsi

import (
	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// step does a part of a command and says what comes next. Afterwards the command
// continues with c.next.
type step func(*Unit, *Command) verdict

// verdict is the outcome of a step.
type verdict uint8

const (
	done verdict = iota // the command is complete
	io                  // run c.request, or c.parts, then c.next
	wait                // somebody resumes the command; it must not be touched
)

// Plan decodes a command and holds it against the state of the unit. It returns
// true if the command is to be executed; else the command is complete.
func (u *Unit) Plan(c *Command) bool {
	c.clear()
	c.unit = u
	c.epoch = c.Nexus.epoch.Load()
	if s := u.plan(c); s != nil {
		c.fail(s)
	}
	return c.Status == Good
}

func (u *Unit) plan(c *Command) *Sense {
	if u.absent {
		return u.planAbsent(c)
	}
	op, s := find(c.CDB)
	if s != nil {
		return s
	}
	c.op = op
	refused := op.load(c)
	blocks := u.blocks()
	n := c.Nexus
	if !op.quiet {
		if code, pending := n.attentions.take(); pending {
			c.attention = code
			return sense(UnitAttention, code)
		}
	}
	// The path comes first: in standby the reservations that are known may be old.
	if op.ready {
		if s := notReady(AccessState(n.state.Load())); s != nil {
			return s
		}
	}
	if c.access = op.access; op.accessOf != nil {
		c.access = op.accessOf(c)
	}
	if !n.may(c.access) {
		c.Status = ReservationConflict
		return nil
	}
	if op.ready && !op.empty || op.full {
		if s := u.noMedium(); s != nil {
			return s
		}
	}
	if u.sanitize.is() != sanitizeNone {
		if s := u.sanitized(op); s != nil {
			return s
		}
	}
	if refused != nil {
		return refused
	}
	if op.decode != nil {
		if s := op.decode(u, c, blocks); s != nil {
			return s
		}
	}
	c.Asked = c.Transfer
	if c.Direction == DataOut && (c.ExpectedOut < c.Transfer || c.exact && c.ExpectedOut != c.Transfer) {
		return u.mismatch(c)
	}
	return nil
}

// mismatch decides about a command that asks for more than the initiator means to
// send. Of a write the blocks that come are written, as they are by other targets, and
// the transport tells of the rest (RFC 7143 11.4.5.1). Of all else a part would be a
// guess at which of the two is meant.
func (u *Unit) mismatch(c *Command) *Sense {
	if !c.op.partial || c.ExpectedOut%u.blockSize != 0 || c.ExpectedIn > 0 {
		return sense(IllegalRequest, InvalidFieldInIU)
	}
	c.count = uint64(c.ExpectedOut / u.blockSize)
	c.Transfer = int64(c.count) * u.blockSize
	return nil
}

// Execute does a planned command. It returns true if the command is complete;
// else Done is told of the completion, possibly before Execute returns.
func (u *Unit) Execute(c *Command) bool {
	if !c.Nexus.enter(c) {
		c.cutShort()
		return true
	}
	c.next = begin
	if c.Nexus.gate.hold(c) {
		return false
	}
	c.inline = true
	return u.run(c)
}

// begin is the first step of every command.
func begin(u *Unit, c *Command) verdict {
	if !c.Nexus.may(c.access) { // its data took longer than somebody's order to shut it out
		c.Status = ReservationConflict
		return done
	}
	if c.op.ready && !u.mounted(c) {
		return c.fail(standby())
	}
	if c.Direction == DataOut && lengthOf(c.Out) < c.Transfer {
		return c.fail(sense(IllegalRequest, InvalidFieldInIU))
	}
	c.next = c.op.execute
	if c.op.lock != lockNone && !c.unlocked && c.count > 0 && !u.lock(c, c.lba, c.lba+c.count, c.op.lock == lockExclusive) {
		return wait
	}
	return c.next(u, c)
}

// lock takes the lock on a range of blocks; false if the command has to wait for
// it.
func (u *Unit) lock(c *Command, from, to uint64, exclusive bool) bool {
	c.hold = hold{from: from, to: to, exclusive: exclusive}
	return u.ranges.acquire(c)
}

// maxTurn bounds the requests that a command makes in one go, so that a long one
// keeps neither the transport nor other commands from going on.
const maxTurn = 32

// run takes steps until the command is complete, then true, or waits for
// something.
func (u *Unit) run(c *Command) bool {
	for requests := 0; ; requests++ {
		if requests == maxTurn {
			c.inline = false
			c.resume()
			return false
		}
		if c.aborted() {
			u.finish(c)
			return true
		}
		switch c.next(u, c) {
		case done:
			u.finish(c)
			return true
		case wait:
			return false
		}
		if s := c.stopped(); s != nil {
			c.fail(s)
			u.finish(c)
			return true
		}
		if !u.issue(c) {
			return false
		}
	}
}

// stopped says why a command that was let in must not touch the medium now.
func (c *Command) stopped() *Sense {
	if c.copying != nil {
		if s := c.copying.stopped(); s != nil {
			return s
		}
	}
	switch {
	case c.mount.gone.Load():
		return standby()
	case c.mount.unit.sanitize.is() != sanitizeNone:
		return c.mount.unit.sanitized(c.op)
	case c.op.empty:
		return nil
	}
	return c.mount.unit.noMedium()
}

// resumed carries on with a command away from Execute.
func (u *Unit) resumed(c *Command) {
	completer := c.Done
	if u.run(c) {
		completer.CommandDone(c)
	}
}

// resume has the command's next step taken, on the worker of its unit.
func (c *Command) resume() { c.unit.worker.push(c) }

// issue runs the command's requests. It returns true when they are complete;
// else the last one resumes the command.
func (u *Unit) issue(c *Command) bool {
	if !c.multi {
		if c.inline && c.mount.Try(&c.request) {
			return true
		}
		inline := c.inline
		c.inline = false
		c.pending.Store(2)
		c.request.Done = c
		c.mount.Submit(&c.request)
		if c.pending.Add(-1) != 0 {
			return false
		}
		c.inline = inline
		return true
	}
	c.pending.Store(1)
	inline := c.inline
	for i := range c.parts {
		r := &c.parts[i]
		if inline && c.mount.Try(r) {
			continue
		}
		c.pending.Add(1)
		r.Done = c
		c.mount.Submit(r)
	}
	// Once the count is dropped, the command may be somebody else's.
	c.inline = false
	return c.pending.Add(-1) == 0
}

// RequestDone implements volume.Completer.
func (c *Command) RequestDone(*volume.Request) {
	if c.pending.Add(-1) != 0 {
		return
	}
	if c.final {
		c.unit.resumed(c)
		return
	}
	c.resume()
}

// outcome maps the errors of the requests just run.
func (c *Command) outcome() *Sense {
	if !c.multi {
		return c.outcomeOf(&c.request)
	}
	for i := range c.parts {
		if s := c.outcomeOf(&c.parts[i]); s != nil {
			return s
		}
	}
	return nil
}

func (c *Command) outcomeOf(r *volume.Request) *Sense {
	if r.Err == nil {
		return nil
	}
	return c.failure(r.Op, r.Err)
}

// want sets the next request up.
func (c *Command) want(op backend.OpKind, off, length int64, data []byte, next step) verdict {
	c.prepare(&c.request, op, off, length, data)
	c.multi = false
	c.next = next
	return io
}

// prepare fills a request. What a Try has paid for to the volume's QoS, it does not
// pay for again.
func (c *Command) prepare(r *volume.Request, op backend.OpKind, off, length int64, data []byte) {
	r.Reset()
	r.Op, r.Off, r.Len, r.Data = op, off, length, data
	if op.Changes() {
		r.Flags = c.flags
	}
	if c.inVain {
		r.Paid(&c.tried)
	}
}

// finish gives everything back that the command holds.
func (u *Unit) finish(c *Command) {
	if c.hold.held {
		c.hold.release()
	}
	if c.scratch != nil {
		c.room.release(c)
	}
	if c.copying != nil {
		c.copying.leave(c)
		c.copying = nil
	}
	if c.mount != nil {
		if c.op.kind != 0 {
			u.count(c)
		}
		c.mount.leave()
		c.mount = nil
	}
	// In this order: an abort that did not wait for this command finds it marked.
	c.Nexus.leave(c.epoch)
	if c.aborted() {
		u.Unreported(c)
		c.cutShort()
	}
}

func (u *Unit) count(c *Command) {
	var err error
	if c.Status != Good {
		err = errFailed
	}
	c.tally.Add(c.op.kind, int64(c.count)*u.blockSize, err)
	c.mount.Count(&c.tally)
}

// withScratch is the step next with scratch memory; withBulk the same for what
// may take long.
func withScratch(next step) step {
	return withRoom(next, func(u *Unit) *scratchRoom { return &u.scratch })
}

func withBulk(next step) step {
	return withRoom(next, func(u *Unit) *scratchRoom { return &u.bulk })
}

func withRoom(next step, of func(*Unit) *scratchRoom) step {
	return func(u *Unit, c *Command) verdict {
		c.next = next
		if c.scratch == nil && !of(u).take(c) {
			return wait
		}
		return next(u, c)
	}
}

// apart runs a step that may wait for metadata on a goroutine of its own.
func apart(work step) step {
	return func(u *Unit, c *Command) verdict {
		c.inline = false
		u.background.Go(func() {
			work(u, c)
			u.complete(c)
		})
		return wait
	}
}

// complete ends a command away from Execute.
func (u *Unit) complete(c *Command) {
	completer := c.Done
	u.finish(c)
	completer.CommandDone(c)
}
