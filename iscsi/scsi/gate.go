package scsi

import (
	"slices"
	"sync"
	"sync/atomic"
)

// gate holds the commands of a path back while those of the same path before it are in
// execution: an initiator that has lost its session and logs in again may rely on
// nothing of the old one happening later (RFC 7143, 6.3.5). Commands that only look at
// the unit pass.
type gate struct {
	before atomic.Int32 // paths with commands in execution; counts down only

	mu   sync.Mutex // guards all below
	held []*Command
}

func (g *gate) closed() bool { return g.before.Load() > 0 }

// hold keeps a command until the gate opens or the command is ended: then it is resumed.
// False if it may go on.
func (g *gate) hold(c *Command) bool {
	if !g.closed() || !c.follows() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed() || c.aborted() {
		return false
	}
	c.inline = false
	g.held = append(g.held, c)
	return true
}

// follows says whether the command is to come after all that its initiator has sent
// before, in sessions that are over too: it uses the medium or the reservations, or
// changes what is set.
func (c *Command) follows() bool {
	const looks = accessRead | accessOther // but for those that use the medium
	return c.access&^looks != 0 || c.access == accessRead && c.op.ready
}

// pass takes one path less into account.
func (g *gate) pass() {
	if g.before.Add(-1) == 0 {
		g.resume(func(*Command) bool { return true })
	}
}

func (g *gate) resumeEnded() { g.resume((*Command).aborted) }

func (g *gate) resume(which func(*Command) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = slices.DeleteFunc(g.held, func(c *Command) bool {
		if !which(c) {
			return false
		}
		c.resume()
		return true
	})
}

// leave notes that a path was detached, until none of its commands is in execution:
// left is to be called then. With u.mu held.
func (u *Unit) leave(n *Nexus) (left func()) {
	u.leaving = append(u.leaving, n)
	return func() {
		u.mu.Lock()
		u.leaving = slices.DeleteFunc(u.leaving, func(l *Nexus) bool { return l == n })
		heirs := n.heirs
		u.mu.Unlock()
		for _, h := range heirs {
			h.gate.pass()
		}
	}
}

// follow has a path wait for those of the same ports that are leaving. With u.mu held.
func (u *Unit) follow(n *Nexus) {
	for _, old := range u.leaving {
		if old.initiator == n.initiator && old.port == n.port {
			old.heirs = append(old.heirs, n)
			n.gate.before.Add(1)
		}
	}
}

// inExecution are the paths that may have commands in execution: those that were
// detached too. With u.mu held.
func (u *Unit) inExecution() []*Nexus { return slices.Concat(u.nexuses, u.leaving) }
