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

// acquire changes v to what it is once owner has opened it, by this table.
//
//	now        owner among them   asks for    then
//	free       -                  any         new epoch
//	exclusive  yes                any         new epoch, the earlier one is fenced
//	exclusive  no                 any         busy
//	shared     yes, alone         any         new epoch, the earlier one is fenced
//	shared     yes, with others   shared      new epoch for owner; the others, fenced
//	                                          too, open again
//	shared     yes, with others   exclusive   busy
//	shared     no                 shared      joins the epoch of the others
//	shared     no                 exclusive   busy
func (v *volumeRecord) acquire(owner string, mode leaseMode) error {
	fresh := &leaseRecord{Mode: mode, Owners: []string{owner}, Opens: 1}
	l := v.Lease
	switch {
	case l == nil:
	case slices.Contains(l.Owners, owner) && (len(l.Owners) == 1 || mode == leaseShared):
	case l.Mode == leaseShared && mode == leaseShared:
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
	v.Lease = fresh
	return nil
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
	stored := leaseExclusive
	switch mode {
	case backend.OpenExclusive:
	case backend.OpenShared:
		stored = leaseShared
	default:
		return backend.Lease{}, fmt.Errorf("open volume %q: %w: mode %d: use OpenExclusive or OpenShared", name, backend.ErrInvalid, mode)
	}
	if err := checkOwner(owner); err != nil {
		return backend.Lease{}, fmt.Errorf("open volume %q: %w", name, err)
	}
	var v *volumeRecord
	err = m.store.Update(ctx, func(tx Txn) error {
		if v, err = lookup(tx, name); err != nil {
			return err
		}
		if err := v.acquire(owner, stored); err != nil {
			return err
		}
		return putVolume(tx, v)
	})
	if err != nil {
		return backend.Lease{}, fmt.Errorf("open volume %q: %w", name, err)
	}
	return backend.Lease{Volume: v.info(), Epoch: v.Epoch, Mode: mode}, nil
}

// CloseVolume implements backend.Meta. Closing again what is closed, and was not
// opened since, is no error: the first answer may have been lost on its way.
func (m *MDS) CloseVolume(ctx context.Context, id backend.VolumeID, epoch backend.Epoch) error {
	err := m.store.Update(ctx, func(tx Txn) error {
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
		return putVolume(tx, v)
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
func (m *MDS) KeepAlive(context.Context, string) error { return nil }

// Copyset implements backend.Meta.
func (m *MDS) Copyset(_ context.Context, id backend.CopysetID) (backend.Copyset, error) {
	return backend.Copyset{}, fmt.Errorf("%w: %v", backend.ErrNotFound, id)
}
