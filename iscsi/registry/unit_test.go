package registry_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// TestUnitsOfAVolumeAreAlike: one logical unit is behind them all.
func TestUnitsOfAVolumeAreAlike(t *testing.T) {
	const vm2 = vm1 + "-other"
	for name, c := range map[string]struct {
		first, second registry.Unit
		want          error
		says          string
	}{
		"as they are by default": {registry.Unit{}, registry.Unit{PhysicalBlock: 4096}, nil, ""},
		"one only reads":         {registry.Unit{}, registry.Unit{ReadOnly: true}, nil, ""},
		"both removable":         {registry.Unit{Removable: true}, registry.Unit{Removable: true}, nil, ""},
		"one removable":          {registry.Unit{Removable: true}, registry.Unit{}, backend.ErrInvalid, "unit 3 of target " + vm1 + " and removable"},
		"blocks differ":          {registry.Unit{}, registry.Unit{PhysicalBlock: 512}, backend.ErrInvalid, "this one would be fixed, with physical blocks of 512"},
		"no such block":          {registry.Unit{}, registry.Unit{PhysicalBlock: 1024}, backend.ErrInvalid, "alike"},
	} {
		t.Run(name, func(t *testing.T) {
			meta := openMeta(t)
			r := open(t, meta, registry.Options{})
			mustCreate(t, r, vm1)
			mustCreate(t, r, vm2)
			other := open(t, meta, registry.Options{}) // another gateway, which has not looked since
			c.first.Volume, c.second.Volume, c.first.Number = "pg", "pg", 3
			first, err := r.AddUnit(t.Context(), vm1, c.first)
			if err != nil || first.Removable != c.first.Removable || first.PhysicalBlock != 4096 {
				t.Fatalf("%+v, %v", first, err)
			}
			second, err := other.AddUnit(t.Context(), vm2, c.second)
			if c.want != nil {
				wantErr(t, err, c.want, c.says)
			} else if err != nil || !second.Alike(first) {
				t.Errorf("%+v and %+v, %v", first, second, err)
			}
			if _, err := r.RemoveUnit(t.Context(), vm1, "3", true); err != nil {
				t.Fatal(err)
			}
			if c.want != nil && c.second.PhysicalBlock != 1024 { // nobody stands in its way now
				if _, err := other.AddUnit(t.Context(), vm2, c.second); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestPhysicalBlockIsNotSmallerThanTheVolumes(t *testing.T) {
	r := open(t, openMeta(t), registry.Options{})
	mustCreate(t, r, vm1)
	_, err := r.AddUnit(t.Context(), vm1, registry.Unit{Volume: "logs", PhysicalBlock: 512})
	wantErr(t, err, backend.ErrInvalid, "blocks of 4096")
	_, err = r.AddUnit(t.Context(), vm1, registry.Unit{Volume: "pg", PhysicalBlock: 1024})
	wantErr(t, err, backend.ErrInvalid, "512 or 4096")
	u, err := r.AddUnit(t.Context(), vm1, registry.Unit{Volume: "pg", PhysicalBlock: 512})
	if err != nil || u.PhysicalBlock != 512 {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestVolumeSaysWhoseUnitItIs(t *testing.T) {
	r := open(t, openMeta(t), registry.Options{})
	mustCreate(t, r, vm1)
	unit := mustAdd(t, r, "pg", 3)
	if err := r.Unused(unit.ID + 1); err != nil {
		t.Errorf("another volume: %v", err)
	}
	wantErr(t, r.Unused(unit.ID), backend.ErrBusy, "unit 3 of target "+vm1, "lun rm "+vm1+" 3")
	if _, err := r.RemoveUnit(t.Context(), vm1, "3", false); err != nil {
		t.Fatal(err)
	}
	if err := r.Unused(unit.ID); err != nil {
		t.Errorf("a volume that was taken off: %v", err)
	}
}
