package scsi

import (
	"sync/atomic"
)

// Task management. A function is complete when done is called: on any goroutine,
// once none of the commands that it ended is in execution. Those complete with
// Aborted set, and without an answer where their own initiator has asked for it; else
// they say TASK ABORTED. A command that is planned but not executed must be dropped by
// the transport, or given to Execute, which refuses it.

// Abort ends one command (ABORT TASK). The command completes as it always does,
// which is when the function is complete.
func (u *Unit) Abort(c *Command) {
	c.abort.Store(true)
	c.Nexus.gate.resumeEnded()
}

// AbortTaskSet ends the commands of a nexus. Also for I_T NEXUS RESET, together
// with LoseNexus.
func (u *Unit) AbortTaskSet(n *Nexus, done func()) { n.abortOwn(done) }

// ClearTaskSet ends the commands of all nexuses. The others learn of it.
func (u *Unit) ClearTaskSet(n *Nexus, done func()) {
	abortEach(u.paths(), n, done, CommandsCleared)
}

// Reset is LOGICAL UNIT RESET: all commands end, RESERVE, mode pages and who
// prevents ejecting are as at the start, and everybody learns of it. Persistent
// reservations stay. Who asks for it has ended its own commands before (AbortTaskSet), so
// that those have no answer.
func (u *Unit) Reset(done func()) {
	u.mu.Lock()
	u.resetLocked()
	u.mu.Unlock()
	abortEach(u.paths(), nil, done, DeviceReset)
}

// LoseNexus is I_T NEXUS RESET, or a session that was lost and comes back as the
// same nexus.
func (u *Unit) LoseNexus(n *Nexus, done func()) {
	u.mu.Lock()
	n.prevents = false
	if u.reserved == n {
		u.reserved = nil
		u.refreshAccess()
	}
	u.mu.Unlock()
	n.abortOwn(done, NexusLoss)
}

// Unreported says that the transport has dropped the answer of a command that is
// complete: a unit attention in it is still to be told.
func (u *Unit) Unreported(c *Command) {
	if c.attention != 0 {
		c.Nexus.attentions.putBack(c.attention)
		c.attention = 0
	}
}

func (u *Unit) paths() []*Nexus {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.inExecution()
}

// abortEach ends the commands of all and tells all but one.
func abortEach(nexuses []*Nexus, except *Nexus, done func(), tell Code) {
	var left atomic.Int64
	left.Store(int64(len(nexuses)) + 1)
	one := func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
	for _, n := range nexuses {
		if n == except {
			n.abortOwn(one)
		} else {
			n.abortAll(one, tell)
		}
	}
	one()
}
