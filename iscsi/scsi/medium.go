package scsi

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// Medium is what a unit does its IO on; *gateway.Handle is one. Info must go on
// working after the unit has lost the medium, the rest is not used any more.
type Medium interface {
	Info() gateway.Info
	Try(*volume.Request) bool
	Submit(*volume.Request)
	Extents(ctx context.Context, off, length int64, maxExtents int, dst []backend.Extent) ([]backend.Extent, error)
	Count(*gateway.Tally)
}

// mount is a medium for as long as the unit has it.
type mount struct {
	Medium
	unit *Unit
	// gone: the unit has lost the medium. What is under way on it ends.
	gone atomic.Bool
	// users are the commands on it, and one for the unit itself.
	users atomic.Int64
	left  func()      // called when there are none; set before the unit leaves
	once  atomic.Bool // left is called, or was
	stale atomic.Bool // that another gateway has the volume was told
}

func newMount(u *Unit, m Medium) *mount {
	mounted := &mount{Medium: m, unit: u}
	mounted.users.Store(1)
	return mounted
}

// enter lets somebody use the medium. Every success needs one leave.
func (m *mount) enter() bool {
	m.users.Add(1)
	if m.gone.Load() {
		m.leave()
		return false
	}
	return true
}

func (m *mount) leave() {
	if m.users.Add(-1) == 0 && m.once.CompareAndSwap(false, true) {
		m.left()
	}
}

// mounted enters the medium for a command; false if there is none.
func (u *Unit) mounted(c *Command) bool {
	if m := u.mount.Load(); m != nil && m.enter() {
		c.mount = m
		return true
	}
	return false
}

// standby is what commands end with that need a medium where there is none: an
// initiator with another path takes that.
func standby() *Sense { return sense(NotReady, NotReadyStandby) }

// failure maps the error of a request. What the loss of the medium has failed is
// no fault of the medium.
func (c *Command) failure(op backend.OpKind, err error) *Sense {
	c.mount.failed(err)
	if c.mount.gone.Load() {
		return standby()
	}
	return senseOf(op, err)
}

// failed tells once that another gateway has the volume, if err says so.
func (m *mount) failed(err error) {
	if errors.Is(err, backend.ErrStaleEpoch) && m.stale.CompareAndSwap(false, true) && m.unit.lost != nil {
		m.unit.lost()
	}
}

// Activate gives a unit without medium one: from then on it is in the state that
// its port group has. Reservations are loaded before, so that what another
// gateway was told is enforced here from the first command on.
func (u *Unit) Activate(ctx context.Context, m Medium) error {
	info := m.Info()
	if info.BlockSize != u.blockSize {
		return fmt.Errorf("%w: medium has blocks of %d bytes, the unit %d", backend.ErrInvalid, info.BlockSize, u.blockSize)
	}
	u.prOrder.Lock()
	defer u.prOrder.Unlock()
	next, _, err := load(ctx, u.reservations)
	if err != nil {
		return err
	}
	mounted := newMount(u, m)
	if !u.mount.CompareAndSwap(nil, mounted) {
		return fmt.Errorf("%w: the unit has a medium", backend.ErrBusy)
	}
	u.adopt(next, nil)
	u.blocks()
	u.changeState()
	return nil
}

// Deactivate takes the medium away: another gateway has the volume now, or is to
// have it. Commands that need it end with NOT READY, in standby. done, which may
// be nil, is called once the medium is not used any more, on any goroutine; it
// must not block. What requests are under way has to end for that.
func (u *Unit) Deactivate(done func()) {
	if done == nil {
		done = func() {}
	}
	m := u.mount.Swap(nil)
	if m == nil {
		done()
		return
	}
	m.left = done
	m.gone.Store(true)
	u.changeState()
	m.leave()
}

// changeState makes the state of the paths known after the medium came or went.
func (u *Unit) changeState() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refreshAccess()
	u.recallSanitize()
	u.notifyLocked(nil, AccessStateChanged)
}

// Active says whether the unit has a medium.
func (u *Unit) Active() bool { return u.mount.Load() != nil }

// readOnly says whether nobody may write, whatever the mode pages say.
func (u *Unit) readOnly() bool {
	if u.protected {
		return true
	}
	m := u.mount.Load()
	return m != nil && m.Info().ReadOnly
}
