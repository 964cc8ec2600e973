package scsi

import (
	"github.com/opencurve/curve-nbd/backend"
)

// Try does a planned READ or WRITE whose data is one slice, if nothing has to be
// waited for. It returns false, and has done nothing, for all others and where it
// would wait: Execute does the command then. What is complete is so as after
// Execute. It lets a transport lend memory that it wants back at once.
func (u *Unit) Try(c *Command) bool {
	if !c.op.plain || c.Transfer == 0 {
		return false
	}
	data, kind := c.Out, backend.OpWrite
	if c.Direction == DataIn {
		data, kind = c.In, backend.OpRead
	}
	if len(data) == 0 || int64(len(data[0])) < c.Transfer || c.Nexus.gate.closed() {
		return false
	}
	if !c.Nexus.enter(c) {
		c.cutShort()
		return true
	}
	if !c.Nexus.may(c.access) || !u.mounted(c) {
		c.Nexus.leave(c.epoch)
		return false
	}
	c.hold = hold{from: c.lba, to: c.lba + c.count}
	// In this order: what ejects or sanitizes waits for those that hold blocks, and
	// those that get theirs later must find it begun.
	if !u.ranges.tryAcquire(c) || c.stopped() != nil {
		c.back()
		return false
	}
	c.prepare(&c.tried, kind, int64(c.lba)*u.blockSize, c.Transfer, data[0][:c.Transfer])
	if !c.mount.Try(&c.tried) {
		c.inVain = true
		c.back()
		return false
	}
	if c.Direction == DataIn {
		c.InLen = c.Transfer
	}
	if s := c.outcomeOf(&c.tried); s != nil {
		c.fail(s)
	}
	u.finish(c)
	return true
}

// back undoes what was taken for a Try that did not work out.
func (c *Command) back() {
	if c.hold.held {
		c.hold.release()
	}
	c.hold = hold{}
	c.mount.leave()
	c.mount = nil
	c.Nexus.leave(c.epoch)
}

// tryAcquire takes the lock, unless the command had to wait for it.
func (l *rangeLock) tryAcquire(c *Command) bool {
	h := &c.hold
	h.command, h.lock = c, l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.exclusive > 0 && (l.held.excludes(h, nil) || l.waiting.excludes(h, nil)) {
		return false
	}
	h.held = true
	l.held.push(h)
	return true
}

// Kind is how the command is counted, 0 for not at all.
func (c *Command) Kind() backend.OpKind {
	if c.op == nil {
		return 0
	}
	return c.op.kind
}

// Fail ends a command that was planned and not executed, with sense data: what the
// transport found wrong with it.
func (c *Command) Fail(key Key, code Code) { c.fail(sense(key, code)) }

// Notify queues a unit attention for one path.
func (n *Nexus) Notify(code Code) { n.attentions.add(code) }
