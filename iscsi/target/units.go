package target

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// unitKey tells units apart: one for each volume, so that all its sessions agree on
// reservations and on what is atomic; those that only read have one of their own.
type unitKey struct {
	volume   backend.VolumeID
	readOnly bool
}

// units are the logical units that this gateway serves.
type units struct {
	server *Server
	// absent answers for those that there are not.
	absent *unit

	mu      sync.Mutex // guards all below
	open    map[unitKey]*unit
	stores  map[unitKey]scsi.ReservationStore
	changed chan struct{} // closed when a unit has opened or closed
}

// unit is a logical unit with the volume it is on.
type unit struct {
	*scsi.Unit
	server *Server
	key    unitKey
	from   registry.Unit
	// medium is the open volume, nil while another gateway has it.
	medium atomic.Pointer[medium]
	// What keep and follow are told, at most once before they look.
	lost    chan struct{} // it is another gateway's now
	free    chan struct{} // no gateway has the volume
	news    chan struct{} // the reservations may be others
	asking  chan struct{} // holds a token while somebody asks whether they are enforced
	sure    uint64        // the version that is known to be; with the token
	stop    context.CancelFunc
	keeping sync.WaitGroup
	nexuses sync.Map // *scsi.Nexus to *session

	// guarded by units.mu:
	uses  int
	ready bool // else it opens or closes just now
}

func newUnits(s *Server) *units {
	us := &units{
		server: s,
		open:   make(map[unitKey]*unit),
		stores: make(map[unitKey]scsi.ReservationStore),
		absent: &unit{server: s},
	}
	us.absent.Unit = scsi.NewAbsent(us.absent.luns)
	return us
}

// acquire returns the unit of a volume, opening it for the first session. Every
// success needs one release.
func (us *units) acquire(ctx context.Context, r registry.Unit) (*unit, error) {
	key := unitKey{r.ID, r.ReadOnly}
	for {
		us.mu.Lock()
		u := us.open[key]
		if u == nil {
			u = us.newUnit(key, r)
			us.open[key] = u
			store := us.store(key)
			us.mu.Unlock()
			err := u.start(ctx, store)
			us.settle(u, err == nil)
			return u, err
		}
		if u.ready {
			u.uses++
			us.mu.Unlock()
			if !u.from.Alike(r) { // two were added at the same moment
				us.server.log.Error("logical units of one volume differ in what they are: all are as the first", "volume", r.Volume, "first", u.from, "other", r)
			}
			return u, nil
		}
		if us.changed == nil {
			us.changed = make(chan struct{})
		}
		changed := us.changed
		us.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (us *units) newUnit(key unitKey, r registry.Unit) *unit {
	u := &unit{server: us.server, key: key, from: r, uses: 1}
	for _, c := range []*chan struct{}{&u.lost, &u.free, &u.news, &u.asking} {
		*c = make(chan struct{}, 1)
	}
	return u
}

// tell puts a token into one of a unit's channels, unless there is one.
func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// store returns where the reservations of a unit are, which outlive it. With us.mu
// held.
func (us *units) store(key unitKey) scsi.ReservationStore {
	if us.stores[key] == nil {
		us.stores[key] = us.server.reservations(key)
	}
	return us.stores[key]
}

// settle makes a unit that was opened ready, or forgets one that is not there.
func (us *units) settle(u *unit, ready bool) {
	us.mu.Lock()
	defer us.mu.Unlock()
	u.ready = ready
	if !ready {
		delete(us.open, u.key)
	}
	if us.changed != nil {
		close(us.changed)
		us.changed = nil
	}
}

func (us *units) release(u *unit) {
	if u == us.absent {
		return
	}
	us.mu.Lock()
	u.uses--
	last := u.uses == 0
	if last {
		u.ready = false
	}
	us.mu.Unlock()
	if last {
		u.end()
		us.settle(u, false)
	}
}

// busy keeps a unit open that works without a session.
func (u *unit) busy() (over func()) {
	us := u.server.units
	us.mu.Lock()
	defer us.mu.Unlock()
	u.uses++
	return func() { go us.release(u) } // which waits for the work
}

// quit ends such work, and returns when the units are closed. There are no sessions
// any more.
func (us *units) quit() {
	us.mu.Lock()
	defer us.mu.Unlock()
	for len(us.open) > 0 {
		for _, u := range us.open {
			if u.ready { // else it closes by itself
				u.Quit()
			}
		}
		if us.changed == nil {
			us.changed = make(chan struct{})
		}
		changed := us.changed
		us.mu.Unlock()
		<-changed
		us.mu.Lock()
	}
}

// errReplaced: the volume that was made a unit is gone.
var errReplaced = fmt.Errorf("%w: the volume of this logical unit was removed, another has its name: remove the unit and add it again", backend.ErrNotFound)

// start opens the volume, and the unit on it. Where another gateway has the volume,
// the unit begins in standby.
func (u *unit) start(ctx context.Context, store scsi.ReservationStore) error {
	v, err := u.server.gateway.Volume(ctx, u.from.Volume)
	if err == nil && v.ID != u.from.ID {
		err = errReplaced
	}
	if err != nil {
		return fmt.Errorf("logical unit %d: volume %q: %w", u.from.Number, u.from.Volume, err)
	}
	o := scsi.Options{
		Size: v.Size, BlockSize: v.Geometry.BlockSize, ReadOnly: u.key.readOnly,
		Identity:  fmt.Sprintf("cluster %s volume %d", u.server.opts.Cluster, v.ID),
		Removable: u.from.Removable, PhysicalBlock: u.from.PhysicalBlock, Busy: u.busy,
		LUNs: u.luns, Peers: u.peers, Groups: u.server.groups(), Enforced: u.enforced,
		PortsElsewhere: u.server.opts.Shared,
		Lost:           func() { tell(u.lost) }, Reservations: store,
	}
	h, err := u.openVolume(ctx)
	switch {
	case err == nil:
		o.Medium = h
		u.medium.Store(newMedium(h))
	case !errors.Is(err, backend.ErrBusy) || !u.server.opts.Shared:
		return fmt.Errorf("logical unit %d: %w", u.from.Number, err)
	default:
		u.server.log.Info("another gateway has the volume: the logical unit is in standby", "volume", u.from.Volume, "reason", err)
	}
	if u.Unit, err = scsi.New(ctx, o); err != nil {
		if h != nil {
			h.Release()
		}
		return err
	}
	ctx, u.stop = context.WithCancel(context.Background())
	if u.server.opts.Shared {
		u.keeping.Go(func() { u.keep(ctx) })
	}
	if u.sharesReservations() {
		u.keeping.Go(func() { u.follow(ctx) })
	}
	return nil
}

// openVolume opens the volume. ErrBusy too where somebody has it open here from before
// another gateway took it.
func (u *unit) openVolume(ctx context.Context) (*gateway.Handle, error) {
	h, err := u.server.gateway.Open(ctx, u.from.Volume)
	if err != nil || !u.server.opts.Shared {
		return h, err
	}
	v, err := u.server.gateway.Volume(ctx, u.from.Volume)
	if err == nil && v.Epoch > h.Epoch() {
		err = fmt.Errorf("%w: another gateway took it from here, and it is not closed yet", backend.ErrBusy)
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

// end is start undone, after the last session.
func (u *unit) end() {
	u.stop()
	u.keeping.Wait()
	u.Close()
	if m := u.medium.Swap(nil); m != nil {
		m.Release() // its luns have let theirs go, or are about to
	}
}

// standbyRetry is how often a unit in standby looks whether the volume is to be had.
const standbyRetry = time.Second

// keep gets the volume for a unit in standby, and gives it up when it is lost.
func (u *unit) keep(ctx context.Context) {
	retry := time.NewTicker(standbyRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.lost:
			u.giveUp()
			continue
		case <-retry.C:
		case <-u.free:
		}
		if !u.Active() {
			u.promote(ctx)
		}
	}
}

// giveUp lets a volume go that another gateway has taken.
func (u *unit) giveUp() {
	m := u.medium.Swap(nil)
	if m == nil {
		return
	}
	u.server.log.Warn("another gateway has taken the volume: the logical unit is in standby", "volume", u.from.Volume)
	u.Deactivate(m.letGo)
	u.nexuses.Range(func(_, s any) bool {
		for _, l := range s.(*session).units.all() {
			if l.unit == u {
				l.dropLender()
			}
		}
		return true
	})
}

// promote makes a unit in standby active, if the volume is to be had.
func (u *unit) promote(ctx context.Context) {
	select {
	case <-u.lost: // what was before
	default:
	}
	h, err := u.openVolume(ctx)
	if err != nil {
		return
	}
	m := newMedium(h)
	u.medium.Store(m)
	if err := u.Activate(ctx, h); err != nil {
		u.medium.Store(nil)
		m.letGo()
		return
	}
	u.server.log.Info("the logical unit is active", "volume", u.from.Volume)
	tell(u.news)
}

// luns is what a session sees, for REPORT LUNS: no unit has to tell then that it has
// changed. What changes while the list is made is told all the same.
func (u *unit) luns(n *scsi.Nexus) []uint64 {
	s, ok := u.nexuses.Load(n)
	if !ok {
		return nil
	}
	units := &s.(*session).units
	for _, l := range units.all() {
		l.nexus.LUNsReported()
	}
	return units.luns()
}

// peers are the units that a session sees, for EXTENDED COPY.
func (u *unit) peers(n *scsi.Nexus) (all []*scsi.Unit) {
	if s, ok := u.nexuses.Load(n); ok {
		for _, l := range s.(*session).units.all() {
			all = append(all, l.unit.Unit)
		}
	}
	return all
}

// groups is this gateway's port, as a group of its own: its state is that of the
// gateway and no other's.
func (s *Server) groups() []scsi.PortGroup {
	return []scsi.PortGroup{{ID: s.opts.PortalGroup, State: scsi.ActiveOptimized, Ports: []uint16{s.opts.PortalGroup}}}
}

// medium is an open volume for as long as somebody has it.
type medium struct {
	*gateway.Handle
	of   *medium // that it was made from, nil for a unit's own
	uses atomic.Int64
}

func newMedium(h *gateway.Handle) *medium {
	m := &medium{Handle: h}
	m.uses.Store(1)
	return m
}

// hold counts one more use, unless the medium was let go.
func (m *medium) hold() bool {
	for n := m.uses.Load(); n > 0; n = m.uses.Load() {
		if m.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (m *medium) letGo() {
	if m.uses.Add(-1) == 0 {
		go m.Release() // which may wait
	}
}
