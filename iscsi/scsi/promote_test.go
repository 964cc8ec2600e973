package scsi

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// setGroups is a SET TARGET PORT GROUPS of pairs of state and group.
func setGroups(pairs ...byte) (cdb, list []byte) {
	list = make([]byte, 4)
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, pairs[i], 0, 0, pairs[i+1])
	}
	return []byte{opMaintenanceOut, saSetPortGroups, 0, 0, 0, 0, 0, 0, 0, byte(len(list)), 0, 0}, list
}

func TestSetTargetPortGroups(t *testing.T) {
	var r *rig
	var medium Medium
	var promoted atomic.Int32
	var refuse error
	r, medium = standbyRig(t, Options{Promote: func(ctx context.Context) error {
		promoted.Add(1)
		if refuse != nil {
			return refuse
		}
		return r.unit.Activate(ctx, medium)
	}})
	if b := r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); b[5]>>4 != 3 {
		t.Errorf("TPGS %d, want implicit and explicit", b[5]>>4)
	}
	for name, pairs := range map[string][]byte{
		"a group that is not there": {0, 9},
		"this group unavailable":    {3, 7},
		"the other one active":      {0, 8},
		"offline":                   {0x0e, 7},
		"right, then wrong":         {0, 7, 0, 9},
	} {
		t.Run(name, func(t *testing.T) {
			cdb, list := setGroups(pairs...)
			r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInParameter)
		})
	}
	cdb, list := setGroups(0, 7, 2, 8)
	r.fails(r.a, append(append([]byte(nil), cdb[:9]...), 7, 0, 0), list, 0, IllegalRequest, ParameterListLength)
	r.good(r.a, append(append([]byte(nil), cdb[:9]...), 0, 0, 0), nil, 0)
	cdb2, list2 := setGroups(2, 7, 2, 8)
	r.good(r.a, cdb2, list2, 0)
	if promoted.Load() != 0 {
		t.Fatal("promoted by what does not ask for it")
	}
	refuse = errors.New("the other gateway does not let go")
	r.fails(r.a, cdb, list, 0, HardwareError, SetGroupsFailed)
	refuse = nil
	r.good(r.a, cdb, list, 0)
	r.fails(r.a, turCDB, nil, 0, UnitAttention, AccessStateChanged)
	r.write(0, filled(1, 1))
	r.good(r.a, cdb, list, 0)
	if promoted.Load() != 2 {
		t.Errorf("promoted %d times, want only while in standby", promoted.Load())
	}
}

func TestWithoutPromotionGroupsCannotBeSet(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{Groups: twoGroups()}})
	cdb, list := setGroups(0, 7)
	r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInCDB)
	report := []byte{opMaintenanceIn, saReportOpcodes, 3, opMaintenanceOut, 0, saSetPortGroups, 0, 0, 0, 64, 0, 0}
	if b := r.good(r.a, report, nil, 64); b[1]&7 != 1 {
		t.Errorf("REPORT SUPPORTED OPERATION CODES: % x, want not supported", b)
	}
}
