package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi"
)

// maxRaces bounds how often a change is tried against others' changes.
const maxRaces = 32

// parseTarget is iscsi.ParseName for a caller's argument.
func parseTarget(name string) (string, error) {
	parsed, err := iscsi.ParseName(name)
	if err != nil {
		return "", fmt.Errorf("%w: target name: %w", backend.ErrInvalid, err)
	}
	return parsed, nil
}

// Create makes a target without units that lets nobody in. ErrExists.
func (r *Registry) Create(ctx context.Context, name, alias string) (*Target, error) {
	name, err := parseTarget(name)
	if err != nil {
		return nil, err
	}
	t := &Target{Name: name, Alias: alias, CreatedAt: time.Now().UTC()}
	data, err := t.encode()
	if err != nil {
		return nil, err
	}
	_, err = r.meta.PutRecord(ctx, targetKey(name), data, 0)
	switch {
	case errors.Is(err, backend.ErrConflict):
		return nil, fmt.Errorf("%w: there is a target %s", backend.ErrExists, name)
	case err != nil:
		return nil, err
	}
	r.log.Info("iSCSI target created", "target", name)
	r.changed(ctx)
	return t, nil
}

// Remove forgets a target, one too whose record cannot be read. ErrNotFound;
// ErrBusy while initiators are logged in here, unless forced.
func (r *Registry) Remove(ctx context.Context, name string, force bool) error {
	name, err := parseTarget(name)
	if err != nil {
		return err
	}
	for range maxRaces {
		record, err := r.targetRecord(ctx, name)
		if err != nil {
			return err
		}
		if !force {
			if err := r.inUse(name, func(string) bool { return true }); err != nil {
				return err
			}
		}
		err = r.meta.DeleteRecord(ctx, record.Key, record.Version)
		if errors.Is(err, backend.ErrConflict) {
			continue
		}
		if err == nil {
			r.log.Info("iSCSI target removed", "target", name, "forced", force)
			r.changed(ctx)
		}
		return err
	}
	return tooManyRaces(name)
}

func (r *Registry) targetRecord(ctx context.Context, name string) (backend.Record, error) {
	record, err := r.meta.Record(ctx, targetKey(name))
	if errors.Is(err, backend.ErrNotFound) {
		return record, fmt.Errorf("%w: no target %s", backend.ErrNotFound, name)
	}
	return record, err
}

func tooManyRaces(what string) error {
	return fmt.Errorf("%w: %s is being changed by others all the time: try again", backend.ErrBusy, what)
}

// edit changes a target with fn, which may be called more than once and sees the
// target as it is stored. It returns what was stored.
func (r *Registry) edit(ctx context.Context, name string, fn func(*Target) error) (*Target, error) {
	name, err := parseTarget(name)
	if err != nil {
		return nil, err
	}
	var t *Target
	err = r.editRecord(ctx, targetKey(name), func(data []byte, exists bool) ([]byte, error) {
		if !exists {
			return nil, fmt.Errorf("%w: no target %s", backend.ErrNotFound, name)
		}
		var err error
		if t, err = decodeTarget(targetKey(name), data); err != nil {
			return nil, err
		}
		if err := fn(t); err != nil {
			return nil, err
		}
		return t.encode()
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// note logs a change that was made, so that who looks at the log later sees which.
func (r *Registry) note(err error, what string, args ...any) {
	if err == nil {
		r.log.Info(what, args...)
	}
}

// editRecord replaces a record by what fn makes of it.
func (r *Registry) editRecord(ctx context.Context, key string, fn func(data []byte, exists bool) ([]byte, error)) error {
	for range maxRaces {
		record, err := r.meta.Record(ctx, key)
		exists := err == nil
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return err
		}
		data, err := fn(record.Data, exists)
		if err != nil || exists && bytes.Equal(data, record.Data) {
			return err
		}
		_, err = r.meta.PutRecord(ctx, key, data, record.Version)
		if errors.Is(err, backend.ErrConflict) {
			continue
		}
		if err == nil {
			r.changed(ctx)
		}
		return err
	}
	return tooManyRaces(key)
}

// AnyNumber asks for the lowest free number.
const AnyNumber = -1

// AddUnit makes the volume of a name a unit of a target: as the given one, whose ID
// is found, and with the lowest free number for AnyNumber. ErrNotFound for target or
// volume; ErrExists where the number is taken or the volume is a unit already;
// ErrInvalid where the volume, as a unit of some target, is not Alike.
func (r *Registry) AddUnit(ctx context.Context, target string, unit Unit) (Unit, error) {
	volume, number := unit.Volume, unit.Number
	if number != AnyNumber && (number < 0 || number > iscsi.MaxLUN) {
		return Unit{}, fmt.Errorf("%w: unit %d: use 0 to %d", backend.ErrInvalid, number, iscsi.MaxLUN)
	}
	info, err := r.meta.Volume(ctx, volume)
	if err != nil {
		return Unit{}, err // which names it
	}
	unit.Volume, unit.ID, unit.PhysicalBlock = info.Name, info.ID, cmp.Or(unit.PhysicalBlock, DefaultPhysicalBlock)
	if block := info.Geometry.BlockSize; unit.PhysicalBlock < block {
		return Unit{}, fmt.Errorf("%w: physical blocks of %d bytes: volume %q has blocks of %d", backend.ErrInvalid, unit.PhysicalBlock, volume, block)
	}
	_ = r.Refresh(ctx) // it has said so itself; what is known is good enough for this
	if err := r.agrees(unit); err != nil {
		return Unit{}, err
	}
	_, err = r.edit(ctx, target, func(t *Target) error {
		if unit.Number = number; number == AnyNumber {
			unit.Number = t.freeNumber()
		}
		for _, u := range t.Units {
			switch {
			case u.ID == unit.ID:
				return fmt.Errorf("%w: volume %q is unit %d of the target already", backend.ErrExists, volume, u.Number)
			case u.Number == unit.Number:
				return fmt.Errorf("%w: unit %d is volume %q: remove it first, or choose another number", backend.ErrExists, u.Number, u.Volume)
			}
		}
		at, _ := slices.BinarySearchFunc(t.Units, unit.Number, func(u Unit, n int) int { return u.Number - n })
		t.Units = slices.Insert(t.Units, at, unit)
		return nil
	})
	r.note(err, "iSCSI unit added", "target", target, "unit", unit.Number, "volume", unit.Volume, "read_only", unit.ReadOnly)
	return unit, err
}

// agrees refuses a unit that is not Alike to another of its volume. One that is added
// at the same moment elsewhere may slip through: then it is served as the other is.
func (r *Registry) agrees(unit Unit) error {
	for _, t := range r.Targets() {
		for _, u := range t.Units {
			if u.ID == unit.ID && !u.Alike(unit) {
				return fmt.Errorf("%w: volume %q is unit %d of target %s and %s there: all units of a volume must be alike, and this one would be %s",
					backend.ErrInvalid, unit.Volume, u.Number, t.Name, u.nature(), unit.nature())
			}
		}
	}
	return nil
}

func (t *Target) freeNumber() int {
	for i, u := range t.Units {
		if u.Number != i {
			return i
		}
	}
	return len(t.Units)
}

// FindUnit returns the unit that ref names: its number, or its volume. A number
// wins over a volume that is named like it.
func (t *Target) FindUnit(ref string) (Unit, bool) {
	ref = strings.TrimPrefix(ref, "/") // as in every volume's name
	if n, err := strconv.Atoi(ref); err == nil {
		if i := slices.IndexFunc(t.Units, func(u Unit) bool { return u.Number == n }); i >= 0 {
			return t.Units[i], true
		}
	}
	if i := slices.IndexFunc(t.Units, func(u Unit) bool { return u.Volume == ref }); i >= 0 {
		return t.Units[i], true
	}
	return Unit{}, false
}

// RemoveUnit takes a unit off a target, and out of what initiators may see there:
// another volume under its number shall not be theirs. ref is as in FindUnit.
// ErrNotFound; ErrBusy while initiators that see it are logged in here, unless
// forced.
func (r *Registry) RemoveUnit(ctx context.Context, target, ref string, force bool) (Unit, error) {
	var gone Unit
	_, err := r.edit(ctx, target, func(t *Target) error {
		var ok bool
		if gone, ok = t.FindUnit(ref); !ok {
			return fmt.Errorf("%w: target %s has no unit %q", backend.ErrNotFound, t.Name, ref)
		}
		if !force {
			err := r.inUse(t.Name, func(initiator string) bool {
				units, _ := t.Sees(initiator)
				return slices.Contains(units, gone)
			})
			if err != nil {
				return err
			}
		}
		t.Units = slices.DeleteFunc(t.Units, func(u Unit) bool { return u.Number == gone.Number })
		for i := range t.Access {
			// Not nil where nothing is left: that would be all.
			t.Access[i].Units = slices.DeleteFunc(t.Access[i].Units, func(n int) bool { return n == gone.Number })
		}
		return nil
	})
	r.note(err, "iSCSI unit removed", "target", target, "unit", gone.Number, "volume", gone.Volume, "forced", force)
	return gone, err
}

// Allow lets an initiator, or AnyInitiator, log in and see these units; nil for
// all, those to come included. It replaces what the initiator was allowed before.
// ErrNotFound for a unit that is not there.
func (r *Registry) Allow(ctx context.Context, target, initiator string, units []int) (*Target, error) {
	initiator, err := parseInitiator(initiator)
	if err != nil {
		return nil, err
	}
	units = slices.Clone(units)
	slices.Sort(units)
	access := Access{Initiator: initiator, Units: slices.Compact(units)}
	changed, err := r.edit(ctx, target, func(t *Target) error {
		for _, n := range access.Units {
			if !slices.ContainsFunc(t.Units, func(u Unit) bool { return u.Number == n }) {
				return fmt.Errorf("%w: target %s has no unit %d: add it first", backend.ErrNotFound, t.Name, n)
			}
		}
		if i := t.accessOf(initiator); i >= 0 {
			t.Access[i] = access
		} else {
			t.Access = append(t.Access, access)
		}
		return nil
	})
	r.note(err, "iSCSI initiator let in", "target", target, "initiator", initiator, "all_units", access.Units == nil, "units", access.Units)
	return changed, err
}

func (t *Target) accessOf(initiator string) int {
	return slices.IndexFunc(t.Access, func(a Access) bool { return a.Initiator == initiator })
}

// Disallow takes back what Allow gave. ErrNotFound.
func (r *Registry) Disallow(ctx context.Context, target, initiator string) (*Target, error) {
	initiator, err := parseInitiator(initiator)
	if err != nil {
		return nil, err
	}
	changed, err := r.edit(ctx, target, func(t *Target) error {
		i := t.accessOf(initiator)
		if i < 0 {
			return fmt.Errorf("%w: initiator %s is not in the list of target %s", backend.ErrNotFound, initiator, t.Name)
		}
		t.Access = slices.Delete(t.Access, i, i+1)
		return nil
	})
	r.note(err, "iSCSI initiator let in no more", "target", target, "initiator", initiator)
	return changed, err
}
