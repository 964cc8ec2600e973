package scsi

import (
	"sync"
	"sync/atomic"
)

// Port is a target port as initiators see it.
type Port struct {
	// Name is the SCSI port name: "iqn…,t,0x0001".
	Name string
	// Device is the name of the target device: "iqn…".
	Device string
	// ID is the relative target port identifier, from 1.
	ID uint16
}

// Nexus is what a unit knows of one path from an initiator port to it.
type Nexus struct {
	unit *Unit
	// initiator is the SCSI initiator port name: "iqn…,i,0x0123456789ab".
	initiator string
	port      Port

	// denied are the access classes that end in RESERVATION CONFLICT, a set of
	// accessClass; standing in reservations, kept up by unit.refreshAccess so
	// that a command looks at one word.
	denied atomic.Uint32
	// state is the access state of the nexus's port.
	state atomic.Uint32

	attentions attentions
	copies     copies
	prevents   bool // the medium from being ejected; guarded by unit.mu
	// unsure is the last order to reservations, until the initiator was told how it
	// ended; guarded by unit.prOrder.
	unsure *order

	// epoch counts the times that all commands were aborted; running the
	// commands being executed, by the low bit of the epoch they belong to.
	epoch   atomic.Uint64
	running [2]atomic.Int64
	drain   drain
	// silent is the last epoch that began because the nexus itself ended its commands:
	// those of the epochs before have no answer.
	silent atomic.Uint64
	gone   atomic.Bool // the unit was detached from it

	gate  gate
	heirs []*Nexus // that follow it, once it is detached; guarded by unit.mu
}

// Initiator is the initiator port's name.
func (n *Nexus) Initiator() string { return n.initiator }

// LUNsReported takes back what LUNsChanged has to tell: the same initiator was
// answered REPORT LUNS by another unit of the target.
func (n *Nexus) LUNsReported() { n.attentions.drop(LUNsChanged) }

// enter lets a command into execution, unless it was aborted since it was
// planned. Every success needs one leave.
func (n *Nexus) enter(c *Command) bool {
	n.running[c.epoch&1].Add(1)
	if c.aborted() {
		n.leave(c.epoch)
		return false
	}
	return true
}

// join counts one more command in execution, of the epoch that it returns.
func (n *Nexus) join() uint64 {
	for {
		epoch := n.epoch.Load()
		n.running[epoch&1].Add(1)
		if n.epoch.Load() == epoch {
			return epoch
		}
		n.leave(epoch)
	}
}

func (n *Nexus) leave(epoch uint64) {
	if n.running[epoch&1].Add(-1) == 0 && n.drain.slot.Load() == epoch&1+1 {
		n.drainEnded(epoch & 1)
	}
}

// may says whether reservations let the nexus do something.
func (n *Nexus) may(class accessClass) bool { return accessClass(n.denied.Load())&class == 0 }

// aborted says that task management has ended the command.
func (c *Command) aborted() bool {
	return c.abort.Load() || c.Nexus.epoch.Load() != c.epoch
}

// cutShort gives a command that was ended the outcome that its initiator is to learn:
// none if it has ended the command itself. The others would wait until they run out of
// patience, and then begin with resets of their own, so TAS is set in the control mode
// page. Whose path is gone is told what its next command would be.
func (c *Command) cutShort() {
	n := c.Nexus
	c.Aborted, c.Status, c.InLen, c.senseBytes = true, Good, 0, 0
	switch {
	case c.abort.Load() || c.epoch < n.silent.Load():
	case n.gone.Load():
		c.fail(notSupported())
	default:
		c.Status = TaskAborted
	}
}

// drain is the wait for the commands of an ended epoch. One at a time: a second
// would find its epoch in the slot of the one before the first.
type drain struct {
	slot atomic.Uint64 // of running that is waited for, plus 1; 0 for none

	mu      sync.Mutex // guards waiting
	waiting []ending
}

// ending is an order to end the commands of a nexus.
type ending struct {
	own  bool // it is the nexus's own order
	tell []Code
	done func()
}

// abortAll ends every command of the nexus for somebody else, and tells it why. done is
// called, on any goroutine, once none of them is in execution.
func (n *Nexus) abortAll(done func(), tell ...Code) { n.end(ending{false, tell, done}) }

// abortOwn is abortAll for the nexus itself.
func (n *Nexus) abortOwn(done func(), tell ...Code) { n.end(ending{true, tell, done}) }

func (n *Nexus) end(e ending) {
	n.drain.mu.Lock()
	n.drain.waiting = append(n.drain.waiting, e)
	first := len(n.drain.waiting) == 1
	n.drain.mu.Unlock()
	if first {
		n.drainBegin(&e)
	}
}

// drainBegin tells after it has ended the commands: one that was told first could
// be followed by another that is ended without a word.
func (n *Nexus) drainBegin(e *ending) {
	if e.own { // before the commands see that they are ended
		n.silent.Store(n.epoch.Load() + 1)
	}
	slot := (n.epoch.Add(1) - 1) & 1
	n.gate.resumeEnded()
	for _, code := range e.tell {
		n.attentions.add(code)
	}
	n.drain.slot.Store(slot + 1)
	if n.running[slot].Load() == 0 {
		n.drainEnded(slot)
	}
}

// drainEnded may be reached by several that see the last command leave.
func (n *Nexus) drainEnded(slot uint64) {
	if !n.drain.slot.CompareAndSwap(slot+1, 0) {
		return
	}
	n.drain.mu.Lock()
	ended := n.drain.waiting[0]
	n.drain.waiting = n.drain.waiting[1:]
	var next *ending
	if len(n.drain.waiting) > 0 {
		next = &n.drain.waiting[0]
	}
	n.drain.mu.Unlock()
	ended.done()
	if next != nil {
		n.drainBegin(next)
	}
}

// maxAttentions bounds what is kept for an initiator that never asks: there are that
// many kinds, and room to spare.
const maxAttentions = 16

// attentions are the unit attentions that wait to be reported, oldest first,
// each code once.
type attentions struct {
	count atomic.Int32 // so that a command looks at one word
	mu    sync.Mutex
	codes []Code
}

// add queues a unit attention. One of a reset stands for all that came before:
// the initiator has to look at everything anew.
func (a *attentions) add(code Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if code>>8 == PowerOnReset>>8 {
		a.codes = a.codes[:0]
	}
	for _, c := range a.codes {
		if c == code {
			return
		}
	}
	if len(a.codes) == maxAttentions {
		return
	}
	a.codes = append(a.codes, code)
	a.count.Store(int32(len(a.codes)))
}

// take removes and returns the first unit attention.
func (a *attentions) take() (Code, bool) {
	if a.count.Load() == 0 {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.codes) == 0 {
		return 0, false
	}
	code := a.codes[0]
	a.codes = append(a.codes[:0], a.codes[1:]...)
	a.count.Store(int32(len(a.codes)))
	return code, true
}

// putBack undoes take.
func (a *attentions) putBack(code Code) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.codes {
		if c == code || c>>8 == PowerOnReset>>8 {
			return
		}
	}
	a.codes = append([]Code{code}, a.codes[:min(len(a.codes), maxAttentions-1)]...)
	a.count.Store(int32(len(a.codes)))
}

// drop removes a unit attention that is answered otherwise.
func (a *attentions) drop(code Code) {
	if a.count.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range a.codes {
		if c == code {
			a.codes = append(a.codes[:i], a.codes[i+1:]...)
			break
		}
	}
	a.count.Store(int32(len(a.codes)))
}
