package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// lun is a unit as one session uses it.
type lun struct {
	registry.Unit
	unit  *unit
	nexus *scsi.Nexus
	table *unitTable
	// uses are the commands that have not given everything back, and one for the
	// table.
	uses atomic.Int64

	// lender lends the session's buffers: its limits are the session's own, so that one
	// that gives nothing back takes nothing from the others.
	lender atomic.Pointer[medium]
	making sync.Mutex // one lender at a time
}

// lend returns what lends buffers, held; nil while the unit has no volume.
func (l *lun) lend() *medium {
	own := l.unit.medium.Load()
	if m := l.lender.Load(); m != nil && m.of == own && m.hold() {
		return m
	}
	return l.makeLender()
}

func (l *lun) makeLender() *medium {
	l.making.Lock()
	defer l.making.Unlock()
	own := l.unit.medium.Load()
	if m := l.lender.Load(); m != nil && m.of == own && m.hold() {
		return m // somebody else has made it
	}
	if own == nil || !own.hold() {
		return nil
	}
	defer own.letGo()
	m := newMedium(own.Another())
	m.of = own
	m.hold()
	if old := l.lender.Swap(m); old != nil {
		old.letGo()
	}
	return m
}

// dropLender lets the volume go that the unit has lost: as long as a session has it
// open, so has the gateway, and gets no other.
func (l *lun) dropLender() {
	l.making.Lock()
	defer l.making.Unlock()
	if m := l.lender.Swap(nil); m != nil {
		m.letGo()
	}
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
			if m := l.lender.Swap(nil); m != nil {
				m.Release()
			}
			l.table.session.server.units.release(l.unit)
			l.table.leaving.Done()
		}()
	}
}

// unitTable is what a session sees: a list that is replaced whole.
type unitTable struct {
	session *session
	list    atomic.Pointer[[]*lun] // by number
	absent  *lun                   // for all other numbers
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

// find returns the unit with a LUN, or what stands for one that is not there, held; nil
// once the session is over.
func (t *unitTable) find(n iscsi.LUN) *lun {
	if l := t.present(n); l != nil {
		return l
	}
	if t.absent.hold() {
		return t.absent
	}
	return nil
}

// present returns the unit with a LUN, held, or nil.
func (t *unitTable) present(n iscsi.LUN) *lun {
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

// set detaches what is no longer in the session's list, and then attaches what is new there,
// which may wait. A volume that is gone for good is left out, and logged: the others are
// worth a session. What cannot be opened just now is an error. The list is looked up here, so that of several
// changes the last one stays.
func (t *unitTable) set(ctx context.Context) error {
	t.change.Lock()
	defer t.change.Unlock()
	if t.closed {
		return backend.ErrClosed
	}
	want, err := t.session.sees()
	if err != nil {
		return err
	}
	if t.absent == nil {
		t.absent = t.join(registry.Unit{Number: -1}, t.session.server.units.absent)
	}
	next := t.keep(want)
	var trouble error
	for _, r := range want {
		if slices.ContainsFunc(next, func(l *lun) bool { return l.Unit == r }) {
			continue
		}
		u, err := t.session.server.units.acquire(ctx, r)
		switch {
		case err == nil:
			next = append(next, t.join(r, u))
		case errors.Is(err, backend.ErrNotFound):
			t.session.server.log.Error("a logical unit has no volume", "target", t.session.target, "error", err)
		default:
			trouble = errors.Join(trouble, err)
		}
	}
	slices.SortFunc(next, func(a, b *lun) int { return a.Number - b.Number })
	t.list.Store(&next)
	return trouble
}

// keep detaches what is not wanted any more, and returns the rest.
func (t *unitTable) keep(want []registry.Unit) []*lun {
	var kept, gone []*lun
	for _, l := range t.all() {
		if slices.Contains(want, l.Unit) {
			kept = append(kept, l)
		} else {
			gone = append(gone, l)
		}
	}
	t.list.Store(&kept)
	for _, l := range gone {
		t.detach(l)
	}
	return slices.Clone(kept)
}

// join makes a path of the session to a unit, which it takes over.
func (t *unitTable) join(r registry.Unit, u *unit) *lun {
	s := t.session
	l := &lun{Unit: r, unit: u, table: t}
	l.uses.Store(1)
	t.leaving.Add(1)
	l.nexus = u.Attach(s.initiatorPort(), scsi.Port{Name: s.targetPort(), Device: s.target, ID: s.server.opts.PortalGroup})
	u.nexuses.Store(l.nexus, s)
	return l
}

func (t *unitTable) detach(l *lun) { l.unit.Detach(l.nexus, l.letGo) }

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
	if t.absent != nil {
		t.detach(t.absent)
	}
}

// wait returns when every unit that was detached is released.
func (t *unitTable) wait() { t.leaving.Wait() }

// sees returns the units that the directory lets the session see.
func (s *session) sees() ([]registry.Unit, error) {
	t, ok := s.server.directory.Target(s.target)
	if !ok {
		return nil, iscsi.ErrTargetRemoved
	}
	seen, allowed := t.Sees(s.initiator)
	if !allowed {
		return nil, iscsi.ErrNotAllowed
	}
	return seen, nil
}

// lost says that the session has to end: what it is for is gone.
func lost(err error) bool {
	return errors.Is(err, iscsi.ErrTargetRemoved) || errors.Is(err, iscsi.ErrNotAllowed)
}

// attachUnits opens what the initiator may see of its target.
func (s *session) attachUnits(ctx context.Context) error {
	err := s.units.set(ctx)
	if err != nil && !lost(err) {
		return fmt.Errorf("%w: %w", iscsi.ErrUnavailable, err)
	}
	return err
}

// targetsChanged brings the sessions up to date with the directory, side by side: one may
// wait for a unit that cannot be opened just now.
func (s *Server) targetsChanged(names []string) {
	for _, name := range names {
		for _, x := range s.sessions.of(name) {
			s.watchdog.Go(x.refresh)
		}
	}
}

// refresh changes what the session sees.
func (s *session) refresh() {
	// Not behind a change that waits: who is not let in any more has to go now.
	if _, err := s.sees(); err != nil {
		s.conn.abort("it has to leave: " + err.Error())
		return
	}
	before := s.units.all()
	switch err := s.units.set(s.conn.ctx); {
	case err == nil || s.conn.ctx.Err() != nil:
	case lost(err):
		s.conn.abort("it has to leave: " + err.Error())
		return
	default:
		s.server.log.Error("a logical unit cannot be served yet; initiators see it when they log in again", "target", s.target, "error", err)
	}
	if after := s.units.all(); !slices.Equal(before, after) {
		for _, l := range after {
			l.nexus.Notify(scsi.LUNsChanged)
		}
		s.post(s.lunsEvent())
	}
}
