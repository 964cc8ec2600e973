package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// targetView is what a session needs of a target's configuration.
type targetView interface {
	Sees(initiator string) ([]registry.Unit, bool)
}

// unitKey tells units apart: one for each volume, so that all its sessions agree on
// reservations and on what is atomic; those that only read have one of their own.
type unitKey struct {
	volume   backend.VolumeID
	readOnly bool
}

// units are the logical units that this gateway serves.
type units struct {
	server *Server

	mu      sync.Mutex // guards all below
	open    map[unitKey]*unit
	stores  map[unitKey]scsi.ReservationStore
	changed chan struct{} // closed when a unit has opened or closed
}

// unit is a logical unit with the volume it is on.
type unit struct {
	*scsi.Unit
	key    unitKey
	handle *gateway.Handle
	// guarded by units.mu:
	uses    int
	ready   bool // else it opens or closes just now
	nexuses sync.Map
}

// acquire returns the unit of a volume, opening it for the first session. Every
// success needs one release.
func (us *units) acquire(ctx context.Context, r registry.Unit) (*unit, error) {
	key := unitKey{r.ID, r.ReadOnly}
	for {
		us.mu.Lock()
		u := us.open[key]
		if u == nil {
			u = &unit{key: key, uses: 1}
			if us.open == nil {
				us.open, us.stores = make(map[unitKey]*unit), make(map[unitKey]scsi.ReservationStore)
			}
			us.open[key] = u
			store := us.stores[key]
			if store == nil {
				store = us.server.reservations(key)
				us.stores[key] = store
			}
			us.mu.Unlock()
			err := us.start(ctx, u, r, store)
			us.settle(u, err == nil)
			return u, err
		}
		if u.ready {
			u.uses++
			us.mu.Unlock()
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

func (us *units) start(ctx context.Context, u *unit, r registry.Unit, store scsi.ReservationStore) error {
	h, err := us.server.openVolume(ctx, r)
	if err != nil {
		return err
	}
	u.handle = h
	u.Unit, err = scsi.New(ctx, scsi.Options{
		Medium: h, Identity: us.server.identity(r), LUNs: u.luns, Reservations: store,
	})
	if err != nil {
		h.Release()
	}
	return err
}

// luns is what a session sees, for REPORT LUNS.
func (u *unit) luns(n *scsi.Nexus) []uint64 {
	if s, ok := u.nexuses.Load(n); ok {
		return s.(*session).units.luns()
	}
	return nil
}

func (us *units) release(u *unit) {
	us.mu.Lock()
	u.uses--
	last := u.uses == 0
	if last {
		u.ready = false
	}
	us.mu.Unlock()
	if last {
		u.Close()
		u.handle.Release()
		us.settle(u, false)
	}
}

// errReplaced: the volume that was made a unit is gone.
var errReplaced = errors.New("the volume of this logical unit was removed, another has its name: remove the unit and add it again")

// openVolume opens the volume of a unit.
func (s *Server) openVolume(ctx context.Context, r registry.Unit) (*gateway.Handle, error) {
	v, err := s.gateway.Volume(ctx, r.Volume)
	if err == nil && v.ID != r.ID {
		err = errReplaced
	}
	if err != nil {
		return nil, fmt.Errorf("logical unit %d: volume %q: %w", r.Number, r.Volume, err)
	}
	h, err := s.gateway.Open(ctx, r.Volume)
	if err != nil {
		return nil, fmt.Errorf("logical unit %d: %w", r.Number, err)
	}
	return h, nil
}

// identity is what a unit's names are made of.
func (s *Server) identity(r registry.Unit) string {
	return fmt.Sprintf("cluster %s volume %d", s.opts.Cluster, r.ID)
}

// lun is a unit as one session uses it.
type lun struct {
	registry.Unit
	unit  *unit
	nexus *scsi.Nexus
	// handle lends the session's buffers.
	handle *gateway.Handle
	table  *unitTable
	// uses are the commands that have not given everything back, and one for the
	// table.
	uses atomic.Int64
}

// hold counts a command, unless the unit was let go.
func (l *lun) hold() bool {
	for n := l.uses.Load(); n > 0; n = l.uses.Load() {
		if l.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

func (l *lun) letGo() {
	if l.uses.Add(-1) == 0 {
		l.unit.nexuses.Delete(l.nexus)
		go func() { // closing a volume may wait
			l.handle.Release()
			l.table.session.server.units.release(l.unit)
			l.table.leaving.Done()
		}()
	}
}

// unitTable is what a session sees: a list that is replaced whole.
type unitTable struct {
	session *session
	list    atomic.Pointer[[]*lun] // by number
	change  sync.Mutex             // one change at a time; guards closed
	closed  bool
	leaving sync.WaitGroup // units that are not released yet
}

func (t *unitTable) all() []*lun {
	if p := t.list.Load(); p != nil {
		return *p
	}
	return nil
}

// find returns the unit with a LUN, held, or nil.
func (t *unitTable) find(n iscsi.LUN) *lun {
	number, ok := n.Number()
	if !ok {
		return nil
	}
	for _, l := range t.all() {
		if l.Number == number && l.hold() {
			return l
		}
	}
	return nil
}

func (t *unitTable) luns() []uint64 {
	var luns []uint64
	for _, l := range t.all() {
		if n, ok := iscsi.LUNOf(l.Number); ok {
			luns = append(luns, n.Uint64())
		}
	}
	return luns
}

// set attaches what is new in the list and detaches what is no longer there. What
// cannot be opened is left out, and logged: the other units are worth a session.
func (t *unitTable) set(ctx context.Context, want []registry.Unit) error {
	t.change.Lock()
	defer t.change.Unlock()
	if t.closed {
		return backend.ErrClosed
	}
	var next []*lun
	var gone []*lun
	for _, l := range t.all() {
		if slices.Contains(want, l.Unit) {
			next = append(next, l)
		} else {
			gone = append(gone, l)
		}
	}
	for _, r := range want {
		if slices.ContainsFunc(next, func(l *lun) bool { return l.Unit == r }) {
			continue
		}
		l, err := t.attach(ctx, r)
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if err != nil {
			t.session.server.log.Error("a logical unit cannot be served", "target", t.session.target, "error", err)
			continue
		}
		if err != nil {
			return err
		}
		next = append(next, l)
	}
	slices.SortFunc(next, func(a, b *lun) int { return a.Number - b.Number })
	t.list.Store(&next)
	for _, l := range gone {
		t.detach(l)
	}
	return nil
}

func (t *unitTable) attach(ctx context.Context, r registry.Unit) (*lun, error) {
	s := t.session
	u, err := s.server.units.acquire(ctx, r)
	if err != nil {
		return nil, err
	}
	h, err := s.server.openVolume(ctx, r)
	if err != nil {
		s.server.units.release(u)
		return nil, err
	}
	l := &lun{Unit: r, unit: u, handle: h, table: t}
	l.uses.Store(1)
	t.leaving.Add(1)
	l.nexus = u.Attach(s.initiatorPort(), scsi.Port{Name: s.targetPort(), Device: s.target, ID: s.server.opts.PortalGroup})
	u.nexuses.Store(l.nexus, s)
	return l, nil
}

func (t *unitTable) detach(l *lun) {
	l.unit.Detach(l.nexus, l.letGo)
}

// abortAll ends the commands of the session.
func (t *unitTable) abortAll() {
	for _, l := range t.all() {
		l.unit.AbortTaskSet(l.nexus, func() {})
	}
}

func (t *unitTable) detachAll() {
	t.change.Lock()
	defer t.change.Unlock()
	t.closed = true
	for _, l := range t.all() {
		t.detach(l)
	}
	t.list.Store(nil)
}

// wait returns when every unit that was detached is released.
func (t *unitTable) wait() { t.leaving.Wait() }

// targetsChanged brings the sessions up to date with the directory.
func (s *Server) targetsChanged(names []string) {
	for _, name := range names {
		t, ok := s.directory.Target(name)
		for _, x := range s.sessions.of(name) {
			if !ok {
				x.conn.abort("its target was removed")
				continue
			}
			seen, allowed := t.Sees(x.initiator)
			if !allowed {
				x.conn.abort("it may no longer use the target")
				continue
			}
			go x.refresh(seen)
		}
	}
}

// refresh changes what the session sees.
func (s *session) refresh(seen []registry.Unit) {
	before := s.units.luns()
	if err := s.units.set(s.conn.ctx, seen); err != nil {
		return // the session ends
	}
	if after := s.units.luns(); !slices.Equal(before, after) {
		for _, l := range s.units.all() {
			l.nexus.Notify(scsi.LUNsChanged)
		}
	}
}
