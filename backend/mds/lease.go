package mds

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// maxOwnerSize bounds an owner's name, in bytes.
	maxOwnerSize = 255
	// maxOwners bounds the owners of a shared lease.
	maxOwners = 64
)

// leaseMode is backend.OpenMode as it is stored, in words that last.
type leaseMode string

const (
	leaseExclusive leaseMode = "exclusive"
	leaseShared    leaseMode = "shared"
)

// leaseRecord says who holds the volume's current epoch.
type leaseRecord struct {
	Mode leaseMode `json:"mode"`
	// Owners of a shared lease, one when exclusive. CloseVolume does not say
	// which of them left, so all stay until the last one has.
	Owners []string `json:"owners"`
	// Opens is how many closes are still to come.
	Opens int `json:"opens"`
}

func (l *leaseRecord) check() error {
	switch {
	case l.Mode != leaseExclusive && l.Mode != leaseShared:
		return fmt.Errorf("lease mode %.80q is unknown", l.Mode)
	case l.Opens < 1 || l.Opens > len(l.Owners) || len(l.Owners) > maxOwners:
		return fmt.Errorf("lease of %d owners and %d opens", len(l.Owners), l.Opens)
	case l.Mode == leaseExclusive && len(l.Owners) != 1:
		return fmt.Errorf("exclusive lease of %d owners", len(l.Owners))
	}
	for _, owner := range l.Owners {
		if err := checkOwner(owner); err != nil {
			return err
		}
	}
	return nil
}

// String tells who to ask: it ends up in "busy" messages.
func (l *leaseRecord) String() string {
	if l.Mode == leaseExclusive {
		return fmt.Sprintf("open exclusively by %q", l.Owners[0])
	}
	quoted := make([]string, len(l.Owners))
	for i, owner := range l.Owners {
		quoted[i] = fmt.Sprintf("%q", owner)
	}
	return "shared by " + strings.Join(quoted, ", ")
}

func checkOwner(owner string) error {
	switch {
	case owner == "":
		return fmt.Errorf("%w: owner is empty: say who opens the volume", backend.ErrInvalid)
	case len(owner) > maxOwnerSize:
		return fmt.Errorf("%w: owner of %d bytes: at most %d", backend.ErrInvalid, len(owner), maxOwnerSize)
	case !utf8.ValidString(owner) || strings.ContainsFunc(owner, unicode.IsControl):
		// Stored as JSON, which would change it, and then it were another owner.
		return fmt.Errorf("%w: owner %q: use printable UTF-8", backend.ErrInvalid, owner)
	}
	return nil
}

// acquire changes v to what it is once owner has opened it, by this table. An
// owner is silent when it was not heard of for Options.LeaseTTL.
//
//	now        owner among them   asks for    then
//	any        -                  take-over   new epoch, earlier ones are fenced
//	free       -                  any         new epoch
//	exclusive  yes                any         new epoch, the earlier one is fenced
//	exclusive  no                 any         busy; holder silent: new epoch
//	shared     yes, alone         any         new epoch, the earlier one is fenced
//	shared     yes, with others   shared      new epoch for owner; the others, fenced
//	                                          too, open again
//	shared     yes, with others   exclusive   busy; all others silent: new epoch
//	shared     no                 shared      joins the epoch of the others;
//	                                          all of them silent: new epoch
//	shared     no                 exclusive   busy; all of them silent: new epoch
func (v *volumeRecord) acquire(owner string, mode backend.OpenMode, alive func(owner string) bool) error {
	stored := leaseExclusive
	if mode == backend.OpenShared {
		stored = leaseShared
	}
	l := v.Lease
	switch {
	case l == nil, mode == backend.OpenTakeOver:
	case slices.Contains(l.Owners, owner) && (len(l.Owners) == 1 || stored == leaseShared):
	case l.abandoned(owner, alive):
	case l.Mode == leaseShared && stored == leaseShared:
		if len(l.Owners) == maxOwners {
			return fmt.Errorf("%w: %d owners have shared it since it was last closed by all: close it everywhere", backend.ErrBusy, maxOwners)
		}
		l.Owners = append(l.Owners, owner)
		l.Opens++
		return nil
	default:
		return fmt.Errorf("%w: %s: close it there first", backend.ErrBusy, l)
	}
	v.Epoch++
	v.Lease = &leaseRecord{Mode: stored, Owners: []string{owner}, Opens: 1}
	return nil
}

// abandoned says whether all who hold the lease, but for owner, are silent.
func (l *leaseRecord) abandoned(owner string, alive func(string) bool) bool {
	return !slices.ContainsFunc(l.Owners, func(o string) bool { return o != owner && alive(o) })
}

// holds reports, as ErrStaleEpoch, that epoch is not a lease that is held.
func (v *volumeRecord) holds(epoch backend.Epoch) error {
	switch {
	case epoch > v.Epoch:
		return fmt.Errorf("%w: epoch %d of %s was never given out: the last is %d", backend.ErrInvalid, epoch, v.ID, v.Epoch)
	case epoch < v.Epoch:
		return fmt.Errorf("%w: epoch %d of %s, now at %d", backend.ErrStaleEpoch, epoch, v.ID, v.Epoch)
	case v.Lease == nil:
		return fmt.Errorf("%w: epoch %d of %s was closed: open the volume again", backend.ErrStaleEpoch, epoch, v.ID)
	}
	return nil
}

// OpenVolume implements backend.Meta.
func (m *MDS) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	name, err := cleanName(name)
	if err != nil {
		return backend.Lease{}, err
	}
	if mode > backend.OpenTakeOver {
		return backend.Lease{}, fmt.Errorf("open volume %q: %w: mode %d: use OpenExclusive, OpenShared or OpenTakeOver", name, backend.ErrInvalid, mode)
	}
	if err := m.heard(owner); err != nil {
		return backend.Lease{}, fmt.Errorf("open volume %q: %w", name, err)
	}
	var lease backend.Lease
	err = m.store.Update(ctx, func(tx Txn) (err error) {
		lease, err = m.open(ctx, tx, name, owner, mode)
		return err
	})
	if err != nil {
		return backend.Lease{}, fmt.Errorf("open volume %q: %w", name, err)
	}
	return lease, nil
}

func (m *MDS) open(ctx context.Context, tx Txn, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	done, again, err := m.doneBefore(ctx, tx, requestOpen)
	if err != nil {
		return backend.Lease{}, err
	}
	if again {
		v, err := getVolume(tx, done.volume)
		if err == nil {
			err = v.holds(done.epoch)
		}
		if err != nil {
			return backend.Lease{}, fmt.Errorf("it was opened, and lost since: %w", err)
		}
		return backend.Lease{Volume: v.info(), Epoch: done.epoch, Mode: mode, Session: done.session}, nil
	}
	v, err := lookup(tx, name)
	if err != nil {
		return backend.Lease{}, err
	}
	if err := v.acquire(owner, mode, m.owners.alive); err != nil {
		return backend.Lease{}, err
	}
	session, err := takeIDs(tx, counterSession, 1)
	if err != nil {
		return backend.Lease{}, err
	}
	if err := putVolume(tx, v); err != nil {
		return backend.Lease{}, err
	}
	lease := backend.Lease{Volume: v.info(), Epoch: v.Epoch, Mode: mode, Session: backend.SessionID(session)}
	return lease, m.remember(ctx, tx, requestRecord{kind: requestOpen, volume: v.ID, epoch: lease.Epoch, session: lease.Session})
}

// CloseVolume implements backend.Meta. Closing again what is closed, and was not
// opened since, is no error: the first answer may have been lost on its way.
func (m *MDS) CloseVolume(ctx context.Context, id backend.VolumeID, epoch backend.Epoch) error {
	err := m.store.Update(ctx, func(tx Txn) error {
		if _, again, err := m.doneBefore(ctx, tx, requestClose); err != nil || again {
			return err
		}
		v, err := getVolume(tx, id)
		if err != nil {
			return err
		}
		if epoch == v.Epoch && epoch != 0 && v.Lease == nil {
			return nil
		}
		if err := v.holds(epoch); err != nil {
			return err
		}
		if v.Lease.Opens--; v.Lease.Opens == 0 {
			v.Lease = nil
		}
		if err := putVolume(tx, v); err != nil {
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestClose, volume: id, epoch: epoch})
	})
	if err != nil {
		return fmt.Errorf("close %s: %w", id, err)
	}
	return nil
}

// ReleaseAll takes every lease back and returns how many volumes were open. It
// is for a caller who knows that all owners are dead. Their epochs stay spent.
func (m *MDS) ReleaseAll(ctx context.Context) (int, error) {
	volumes, err := m.Volumes(ctx, "")
	if err != nil {
		return 0, err
	}
	released := 0
	for _, info := range volumes {
		wasOpen := false
		err := m.store.Update(ctx, func(tx Txn) error {
			v, err := getVolume(tx, info.ID)
			if err != nil {
				return err
			}
			if wasOpen = v.Lease != nil; !wasOpen {
				return nil
			}
			v.Lease = nil
			return putVolume(tx, v)
		})
		if err != nil {
			return released, fmt.Errorf("release %s: %w", info.ID, err)
		}
		if wasOpen {
			released++
		}
	}
	return released, nil
}

// KeepAlive implements backend.Meta.
func (m *MDS) KeepAlive(ctx context.Context, owner string) error {
	if err := m.heard(owner); err != nil {
		return fmt.Errorf("keep alive: %w", err)
	}
	return m.usable(ctx)
}

// heard checks who an owner is and notes that it lives.
func (m *MDS) heard(owner string) error {
	if err := checkOwner(owner); err != nil {
		return err
	}
	return m.owners.hear(owner)
}
