package scsi

import "testing"

// The tables of SPC-4 (5.12.1) and SBC-3 (4.17), a row per command, a letter per
// column: not the holder under write exclusive and exclusive access, registered
// under the other types, not registered under those that exclude writes and
// those that exclude all. A is allowed, C a conflict.
func TestReservationsAreEnforced(t *testing.T) {
	span := func(code byte) []byte { return span16(code, 0, 0, 1) }
	one := filled(1, 0)
	for _, row := range []struct {
		name    string
		cdb     []byte
		out     []byte
		columns string
	}{
		{"TEST UNIT READY", turCDB, nil, "AAAAA"},
		{"INQUIRY", []byte{opInquiry, 0, 0, 0, 96, 0}, nil, "AAAAA"},
		{"REQUEST SENSE", []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, "AAAAA"},
		{"REPORT LUNS", []byte{opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, nil, "AAAAA"},
		{"READ CAPACITY(10)", []byte{opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, "AAAAA"},
		{"READ CAPACITY(16)", []byte{opServiceActionIn16, saReadCapacity16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, nil, "AAAAA"},
		{"REPORT TARGET PORT GROUPS", []byte{opMaintenanceIn, saReportPortGroups, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, "AAAAA"},
		{"PR IN", []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0}, nil, "AAAAA"},
		{"START STOP UNIT, start", []byte{opStartStopUnit, 0, 0, 0, 1, 0}, nil, "AAAAA"},
		{"START STOP UNIT, stop", []byte{opStartStopUnit, 0, 0, 0, 0, 0}, nil, "CCACC"},
		{"PREVENT ALLOW, allow", []byte{opPreventAllow, 0, 0, 0, 0, 0}, nil, "AAAAA"},
		{"PREVENT ALLOW, prevent", []byte{opPreventAllow, 0, 0, 0, 1, 0}, nil, "CCACC"},
		{"MODE SENSE(6)", []byte{opModeSense6, 0, 0x3f, 0, 255, 0}, nil, "ACAAC"},
		{"MODE SENSE(10)", []byte{opModeSense10, 0, 0x3f, 0, 0, 0, 0, 0, 255, 0}, nil, "ACAAC"},
		{"MODE SELECT(6)", []byte{opModeSelect6, 0x10, 0, 0, 0, 0}, nil, "CCACC"},
		{"REPORT SUPPORTED OPERATION CODES", []byte{opMaintenanceIn, saReportOpcodes, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, "ACAAC"},
		{"REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", []byte{opMaintenanceIn, saReportTaskFuncs, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, nil, "ACAAC"},
		{"RECEIVE COPY OPERATING PARAMETERS", copyStatusCDB(saCopyParameters, 0), nil, "CCACC"},
		{"SANITIZE", sanitizeCDB(saExitFailure, 0, 0), nil, "CCACC"},
		{"READ(6)", spanOf(6, opRead6, 0, 0, 1), nil, "ACAAC"},
		{"READ(10)", spanOf(10, opRead10, 0, 0, 1), nil, "ACAAC"},
		{"READ(12)", spanOf(12, opRead12, 0, 0, 1), nil, "ACAAC"},
		{"READ(16)", span(opRead16), nil, "ACAAC"},
		{"VERIFY(16)", span(opVerify16), nil, "ACAAC"},
		{"PRE-FETCH(16)", span(opPrefetch16), nil, "ACAAC"},
		{"GET LBA STATUS", span16(opServiceActionIn16, saGetLBAStatus, 0, 24), nil, "ACAAC"},
		{"READ DEFECT DATA(10)", []byte{opReadDefectData10, 0, 0, 0, 0, 0, 0, 0, 8, 0}, nil, "ACAAC"},
		{"SYNCHRONIZE CACHE(16)", span(opSynchronizeCache16), nil, "CCACC"},
		{"WRITE(6)", spanOf(6, opWrite6, 0, 0, 1), one, "CCACC"},
		{"WRITE(10)", spanOf(10, opWrite10, 0, 0, 1), one, "CCACC"},
		{"WRITE(16)", span(opWrite16), one, "CCACC"},
		{"WRITE AND VERIFY(16)", span(opWriteVerify16), one, "CCACC"},
		{"WRITE SAME(16)", span(opWriteSame16), one, "CCACC"},
		{"UNMAP", unmapCDB(1), unmapData(0, 1), "CCACC"},
		{"ORWRITE(16)", span(opOrWrite16), one, "CCACC"},
		{"COMPARE AND WRITE", compareCDB(0, 1), append(one, one...), "CCACC"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, kind := range allTypes {
				for _, registered := range []bool{true, false} {
					column := 0 // for a nexus that is not the holder
					switch {
					case !kind.forRegistrants() && kind.exclusive():
						column = 1
					case !kind.forRegistrants():
					case registered:
						column = 2
					case kind.exclusive():
						column = 4
					default:
						column = 3
					}
					r := matrixRig(t)
					r.pr(r.a, saRegister, 0, 0, keyA)
					if registered {
						r.pr(r.b, saRegister, 0, 0, keyB)
					}
					r.pr(r.a, saReserve, kind, keyA, 0)
					if row.columns[column] == 'A' {
						r.good(r.b, row.cdb, row.out, 255)
					} else {
						r.conflicts(r.b, row.cdb, row.out)
					}
					r.good(r.a, row.cdb, row.out, 255) // the holder may do all
					r.pr(r.a, saClear, 0, keyA, 0)
				}
			}
		})
	}
}

// A write whose data is still on its way when its initiator is shut out changes nothing.
func TestReservationsHoldForWhatIsPlanned(t *testing.T) {
	for name, shutOut := range map[string]func(*rig){
		"RESERVE(6)": func(r *rig) { r.good(r.a, []byte{opReserve6, 0, 0, 0, 0, 0}, nil, 0) },
		"RESERVE": func(r *rig) {
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.a, saReserve, WriteExclusive, keyA, 0)
		},
		"PREEMPT": func(r *rig) {
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.b, saRegister, 0, 0, keyB)
			r.pr(r.b, saReserve, WriteExclusiveRegistrantsOnly, keyB, 0)
			r.pr(r.a, saPreempt, WriteExclusiveRegistrantsOnly, keyA, keyB)
		},
	} {
		for _, tries := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, rigOptions{})
				r.tries = tries
				c := &Command{CDB: span16(opWrite16, 0, 0, 1), Nexus: r.b, ExpectedOut: testBlock}
				r.run(c, func() {
					c.Out = [][]byte{filled(1, 1)}
					shutOut(r)
				})
				if c.Status != ReservationConflict || len(c.Sense()) != 0 {
					t.Errorf("status %#x, sense % x", c.Status, c.Sense())
				}
				if !allZero(r.read(0, 1)) {
					t.Error("the block was changed")
				}
			})
		}
	}
}

// matrixRig is one unit for the whole matrix of a test.
func matrixRig(t *testing.T) *rig {
	r := rigs[t.Name()]
	if r == nil {
		r = newRig(t, rigOptions{})
		rigs[t.Name()] = r
		t.Cleanup(func() { delete(rigs, t.Name()) })
	}
	r.t = t
	r.b.attentions.take()
	return r
}

var rigs = map[string]*rig{}
