package scsi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// Options of New.
type Options struct {
	// Medium is where the data is; the unit does not own it. With nil the unit is
	// in standby, until Activate.
	Medium Medium
	// Size and BlockSize are those of the volume, for a unit without Medium.
	Size, BlockSize int64
	// ReadOnly protects the unit, even where the medium could be written.
	ReadOnly bool
	// Removable makes the volume a medium that initiators eject and load.
	Removable bool
	// PhysicalBlock is what READ CAPACITY(16) calls a physical block: BlockSize, or
	// backend.ChecksumBlock, which is meant by 0 too. Some initiators take no unit
	// whose two differ.
	PhysicalBlock int64
	// Identity is what the unit's names are made of: the same for every path to
	// the same volume, different for all others, for ever. The id of the volume
	// with that of its cluster, say.
	Identity string
	// LUNs lists the logical units that a nexus may see, as 8-byte LUNs; nil for
	// LUN 0 alone.
	LUNs func(*Nexus) []uint64
	// Peers are the other units of the target that a nexus of this one sees, for
	// EXTENDED COPY; nil for none.
	Peers func(*Nexus) []*Unit
	// Groups are the target port groups; nil for none, then the unit does not
	// speak of access states. While the unit has no medium, the group that a
	// command comes through is in standby, if it would be active here.
	Groups []PortGroup
	// PortsElsewhere says that the target has ports which are not in Groups: there is
	// no registering at all of them at once.
	PortsElsewhere bool
	// Enforced, where it is set, says whether whoever may write has done Refresh to
	// this version of the reservations or a newer one. It is asked, more than once,
	// after an order was stored and before the initiator is told so: one that has
	// fenced another off relies on that. It may wait for metadata, until ctx ends.
	Enforced func(ctx context.Context, version uint64) bool
	// SanitizeRate bounds what SANITIZE overwrites in a second, in bytes; 0 for
	// 128 MiB.
	SanitizeRate int64
	// Lost is called once for a medium whose volume turns out to be another
	// gateway's, which is what Deactivate is for. It must not block, nor call the
	// unit.
	Lost func()
	// Busy, where it is set, is called when a SANITIZE begins, and what it returns
	// when that is over: it goes on without any nexus, for as long as the unit is
	// not closed.
	Busy func() (over func())
	// Reservations keeps the persistent reservations; nil for a store of the
	// unit's own, in memory.
	Reservations ReservationStore
}

// Unit is one logical unit. All methods may be called concurrently.
type Unit struct {
	mount     atomic.Pointer[mount] // nil while there is no medium
	names     names
	luns      func(*Nexus) []uint64
	peers     func(*Nexus) []*Unit
	enforced  func(context.Context, uint64) bool
	lost      func()
	busy      func() func()
	protected bool
	elsewhere bool // Options.PortsElsewhere
	removable bool
	ejected   atomic.Bool // the medium; changed with mu held
	physical  int64
	absent    bool // NewAbsent
	blockSize int64
	size      atomic.Int64 // as last seen

	worker   *worker
	sanitize sanitizer
	// scratch is for commands that others may wait for, bulk for long ones. Who
	// has either never waits for blocks; a copy does, so it has room apart.
	scratch, bulk, copyRoom scratchRoom
	ranges                  rangeLock

	ctx        context.Context // ends waits for metadata
	cancel     context.CancelFunc
	background sync.WaitGroup

	// What the mode pages say that every command looks at.
	descriptorSense, writeThrough, softProtect atomic.Bool

	reservations ReservationStore
	// prOrder keeps the orders to reservations one after the other.
	prOrder sync.Mutex
	// aborting counts the nexuses whose commands a preemption is ending.
	aborting atomic.Int64

	mu      sync.Mutex // guards all below
	nexuses []*Nexus
	// leaving are those that were detached and have commands in execution.
	leaving []*Nexus
	groups  []PortGroup
	// reserved is the nexus that holds a RESERVE(6 or 10).
	reserved *Nexus
	persist  Reservations
	// ejecting: an EJECT waits for commands, and movers for it.
	ejecting bool
	movers   []*Command
}

// New returns a unit. Close it.
func New(ctx context.Context, o Options) (*Unit, error) {
	if o.Medium != nil {
		info := o.Medium.Info()
		o.Size, o.BlockSize = info.Size, info.BlockSize
	}
	if o.BlockSize <= 0 || o.Size < o.BlockSize {
		return nil, fmt.Errorf("%w: unit of %d bytes in blocks of %d", backend.ErrInvalid, o.Size, o.BlockSize)
	}
	if o.PhysicalBlock == 0 {
		o.PhysicalBlock = backend.ChecksumBlock
	}
	if o.PhysicalBlock != o.BlockSize && o.PhysicalBlock != backend.ChecksumBlock {
		return nil, fmt.Errorf("%w: physical blocks of %d bytes with logical ones of %d", backend.ErrInvalid, o.PhysicalBlock, o.BlockSize)
	}
	u := &Unit{
		names:        namesOf(o.Identity),
		luns:         o.LUNs,
		peers:        o.Peers,
		enforced:     o.Enforced,
		lost:         o.Lost,
		busy:         o.Busy,
		protected:    o.ReadOnly,
		elsewhere:    o.PortsElsewhere,
		removable:    o.Removable,
		physical:     o.PhysicalBlock,
		blockSize:    o.BlockSize,
		groups:       o.Groups,
		reservations: o.Reservations,
	}
	if u.enforced == nil {
		u.enforced = func(context.Context, uint64) bool { return true }
	}
	if u.busy == nil {
		u.busy = func() func() { return func() {} }
	}
	u.size.Store(o.Size)
	if o.Medium != nil {
		u.mount.Store(newMount(u, o.Medium))
	}
	if u.luns == nil {
		u.luns = func(*Nexus) []uint64 { return []uint64{0} }
	}
	if u.reservations == nil {
		u.reservations = NewMemoryStore()
	}
	state, _, err := load(ctx, u.reservations)
	if err != nil {
		return nil, err
	}
	u.persist = state
	u.recallSanitize()
	if u.sanitize.rate = o.SanitizeRate; u.sanitize.rate <= 0 {
		u.sanitize.rate = defaultSanitizeRate
	}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	u.worker = startWorker(u.resumed)
	return u, nil
}

// Quit cuts short what goes on without a command, before Close.
func (u *Unit) Quit() { u.cancel() }

// Close ends the unit, after its last command. It waits for what other units do
// on its medium.
func (u *Unit) Close() {
	u.cancel()
	left := make(chan struct{})
	u.Deactivate(func() { close(left) })
	<-left
	u.background.Wait()
	u.worker.stop()
}

// Attach makes a path to the unit known: a session of an initiator port at a
// target port. It begins with a unit attention. Where one of the same two was detached
// and has commands in execution, those come first (gate).
func (u *Unit) Attach(initiator string, port Port) *Nexus {
	u.blocks() // a capacity that is new to the others is none to this one
	n := &Nexus{unit: u, initiator: initiator, port: port}
	n.attentions.add(PowerOnReset)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.follow(n)
	u.nexuses = append(u.nexuses, n)
	u.refreshAccess()
	return n
}

// Detach forgets a path: its commands are aborted, and say that there is no such unit; a
// RESERVE of it is over, what it registered persists. done, which may be nil, is called once no command of it
// is in execution.
func (u *Unit) Detach(n *Nexus, done func()) {
	u.mu.Lock()
	for i := range u.nexuses {
		if u.nexuses[i] == n {
			u.nexuses = append(u.nexuses[:i], u.nexuses[i+1:]...)
			break
		}
	}
	if u.reserved == n {
		u.reserved = nil
	}
	u.refreshAccess()
	left := u.leave(n)
	u.mu.Unlock()
	n.gone.Store(true)
	n.abortAll(func() {
		left()
		if done != nil {
			done()
		}
	})
}

// LUNsChanged tells initiators that the list of logical units is another.
func (u *Unit) LUNsChanged() { u.notify(nil, LUNsChanged) }

// SetGroups changes the target port groups or their states.
func (u *Unit) SetGroups(groups []PortGroup) {
	u.mu.Lock()
	u.groups = groups
	u.refreshAccess()
	u.mu.Unlock()
	u.notify(nil, AccessStateChanged)
}

// notify queues a unit attention for every nexus but one.
func (u *Unit) notify(except *Nexus, code Code) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.notifyLocked(except, code)
}

func (u *Unit) notifyLocked(except *Nexus, code Code) {
	for _, n := range u.nexuses {
		if n != except {
			n.attentions.add(code)
		}
	}
}

// blocks is the capacity now. Whoever sees first that it has changed tells the
// initiators.
func (u *Unit) blocks() uint64 {
	m := u.mount.Load()
	if m == nil {
		return uint64(u.size.Load() / u.blockSize)
	}
	size := m.Info().Size
	u.sizeIs(size)
	return uint64(size / u.blockSize)
}

// Resized tells a unit in standby what size the volume has now: paths through it must not
// say another than those to the gateway that has it. A unit with a medium sees it there.
func (u *Unit) Resized(size int64) {
	if u.mount.Load() == nil && size >= u.blockSize {
		u.sizeIs(size)
	}
}

func (u *Unit) sizeIs(size int64) {
	if old := u.size.Load(); size != old && u.size.CompareAndSwap(old, size) {
		u.notify(nil, CapacityChanged)
	}
}

// refreshAccess computes what every nexus is denied. With u.mu held.
func (u *Unit) refreshAccess() {
	for _, n := range u.nexuses {
		denied := u.persist.denied(n.initiator, n.port.ID)
		if u.reserved != nil {
			denied |= accessPersist
			if u.reserved != n {
				denied |= accessRead | accessWrite | accessRegistered | accessOther | accessReserve
			}
		}
		n.denied.Store(uint32(denied))
		n.state.Store(uint32(u.stateOf(u.groups, n.port.ID)))
	}
}

// reset is what a LOGICAL UNIT RESET undoes. With u.mu held.
func (u *Unit) resetLocked() {
	u.reserved = nil
	u.descriptorSense.Store(false)
	u.writeThrough.Store(false)
	u.softProtect.Store(false)
	for _, n := range u.nexuses {
		n.prevents = false
	}
	u.refreshAccess()
}
