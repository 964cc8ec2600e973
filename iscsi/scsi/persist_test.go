package scsi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/volume"
)

const (
	keyA = 0xaaaa
	keyB = 0xbbbb
	keyC = 0xcccc
)

// out is a PERSISTENT RESERVE OUT: its CDB and parameter list.
func prOut(action byte, kind ReservationType, key, actionKey uint64, flags byte) (cdb, list []byte) {
	list = binary.BigEndian.AppendUint64(nil, key)
	list = binary.BigEndian.AppendUint64(list, actionKey)
	list = append(list, 0, 0, 0, 0, flags, 0, 0, 0)
	return []byte{opPersistentOut, action, byte(kind), 0, 0, 0, 0, 0, 24, 0}, list
}

func (r *rig) pr(n *Nexus, action byte, kind ReservationType, key, actionKey uint64) {
	r.t.Helper()
	cdb, list := prOut(action, kind, key, actionKey, 0)
	r.good(n, cdb, list, 0)
}

func (r *rig) prConflicts(n *Nexus, action byte, kind ReservationType, key, actionKey uint64) {
	r.t.Helper()
	cdb, list := prOut(action, kind, key, actionKey, 0)
	r.conflicts(n, cdb, list)
}

func (r *rig) prIn(action byte) []byte {
	r.t.Helper()
	// By somebody whom no order concerns.
	n := r.unit.Attach("iqn.observer,i,0x1", Port{ID: 9})
	defer r.unit.Detach(n, nil)
	n.attentions.take()
	return r.good(n, []byte{opPersistentIn, action, 0, 0, 0, 0, 0, 0x40, 0, 0}, nil, 0x4000)
}

func (r *rig) keys() (generation uint32, keys []uint64) {
	b := r.prIn(saReadKeys)
	if int(binary.BigEndian.Uint32(b[4:])) != len(b)-8 {
		r.t.Errorf("READ KEYS says %d bytes follow, %d do", binary.BigEndian.Uint32(b[4:]), len(b)-8)
	}
	generation = binary.BigEndian.Uint32(b)
	for b = b[8:]; len(b) > 0; b = b[8:] {
		keys = append(keys, binary.BigEndian.Uint64(b))
	}
	return generation, keys
}

// reservation is the type and the holder's key.
func (r *rig) reservation() (ReservationType, uint64) {
	b := r.prIn(saReadReservation)
	if len(b) == 8 {
		return NoReservation, 0
	}
	return ReservationType(b[21]), binary.BigEndian.Uint64(b[8:])
}

func (r *rig) expectReservation(kind ReservationType, key uint64) {
	r.t.Helper()
	if k, g := r.reservation(); k != kind || g != key {
		r.t.Errorf("reservation of type %d with key %#x, want %d with %#x", k, g, kind, key)
	}
}

func (r *rig) expectTold(n *Nexus, want Code) {
	r.t.Helper()
	if code, _ := n.attentions.take(); code != want {
		r.t.Errorf("%s was told %04x, want %04x", n.initiator, code, want)
	}
	if code, more := n.attentions.take(); more {
		r.t.Errorf("%s was told %04x too", n.initiator, code)
	}
}

var allTypes = []ReservationType{WriteExclusive, ExclusiveAccess, WriteExclusiveRegistrantsOnly,
	ExclusiveAccessRegistrantsOnly, WriteExclusiveAllRegistrants, ExclusiveAccessAllRegistrants}

func TestRegister(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.prConflicts(r.a, saRegister, 0, keyA, keyA)
	r.pr(r.a, saRegister, 0, 0, 0) // nothing to do
	if g, keys := r.keys(); g != 0 || len(keys) != 0 {
		t.Errorf("generation %d, keys %x", g, keys)
	}
	r.pr(r.a, saRegister, 0, 0, keyA)
	r.prConflicts(r.a, saRegister, 0, 0, keyC)
	r.pr(r.a, saRegister, 0, keyA, keyC)
	r.pr(r.a, saRegisterAndIgnore, 0, 12345, keyA)
	r.pr(r.b, saRegisterAndIgnore, 0, 0, keyB)
	if g, keys := r.keys(); g != 4 || fmt.Sprint(keys) != fmt.Sprint([]uint64{keyA, keyB}) {
		t.Errorf("generation %d, keys %x", g, keys)
	}
	if b := r.good(r.a, []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 12, 0}, nil, 12); len(b) != 12 || b[7] != 16 {
		t.Errorf("truncated keys % x", b)
	}
	r.pr(r.a, saRegister, 0, keyA, 0)
	r.pr(r.b, saRegisterAndIgnore, 0, 0, 0)
	if g, keys := r.keys(); g != 6 || len(keys) != 0 {
		t.Errorf("generation %d, keys %x", g, keys)
	}
	cdb, list := prOut(saRegister, 0, 0, keyA, persistDurable)
	r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInParameter)
	_, list = prOut(saRegister, 0, 0, keyA, 0)
	cdb[8] = 23
	r.fails(r.a, cdb, list, 0, IllegalRequest, ParameterListLength)
	cdb[8] = 25
	r.fails(r.a, cdb, append(list, 0), 0, IllegalRequest, ParameterListLength)
	for action := byte(4); action < 0x20; action++ {
		r.fails(r.a, []byte{opPersistentIn, action, 0, 0, 0, 0, 0, 1, 0, 0}, nil, 256, IllegalRequest, InvalidFieldInCDB)
	}
	for action := byte(8); action < 0x20; action++ {
		r.fails(r.a, []byte{opPersistentOut, action, 0, 0, 0, 0, 0, 0, 24, 0}, list, 0, IllegalRequest, InvalidFieldInCDB)
	}
}

func TestReserveAndRelease(t *testing.T) {
	for _, kind := range allTypes {
		t.Run(fmt.Sprintf("type %d", kind), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.prConflicts(r.a, saReserve, kind, keyA, 0)
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.b, saRegister, 0, 0, keyB)
			r.prConflicts(r.a, saReserve, kind, keyB, 0)
			r.pr(r.a, saReserve, kind, keyA, 0)
			r.pr(r.a, saReserve, kind, keyA, 0)
			key := uint64(keyA)
			if kind.allHold() {
				key = 0
				r.pr(r.b, saReserve, kind, keyB, 0)
			} else {
				r.prConflicts(r.b, saReserve, kind, keyB, 0)
				r.pr(r.b, saRelease, kind, keyB, 0) // not its to release
			}
			r.expectReservation(kind, key)
			other := WriteExclusive
			if kind == other {
				other = ExclusiveAccess
			}
			cdb, list := prOut(saRelease, other, keyA, 0, 0)
			r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidRelease)
			r.prConflicts(r.a, saReserve, other, keyA, 0)
			r.pr(r.a, saRelease, kind, keyA, 0)
			r.expectReservation(NoReservation, 0)
			told := Code(0)
			if kind.forRegistrants() {
				told = ReservationsReleased
			}
			r.expectTold(r.b, told)
			r.expectTold(r.a, 0)
			if g, _ := r.keys(); g != 2 {
				t.Errorf("generation %d: RESERVE and RELEASE must not count", g)
			}
			cdb, list = prOut(saReserve, 2, keyA, 0, 0)
			r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInCDB)
			cdb[2] = 0x11
			r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInCDB)
		})
	}
}

// A reservation goes with its holder; that of all registrants with the last.
func TestTheHolderUnregisters(t *testing.T) {
	for _, kind := range allTypes {
		t.Run(fmt.Sprintf("type %d", kind), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.b, saRegister, 0, 0, keyB)
			r.pr(r.a, saReserve, kind, keyA, 0)
			r.pr(r.a, saRegister, 0, keyA, 0)
			if kind.allHold() {
				r.expectReservation(kind, 0)
				r.pr(r.b, saRegister, 0, keyB, 0)
			} else if kind.forRegistrants() {
				r.expectTold(r.b, ReservationsReleased)
			}
			r.expectTold(r.b, 0)
			r.expectReservation(NoReservation, 0)
		})
	}
}

func TestPreemptAndClear(t *testing.T) {
	setup := func(t *testing.T, kind ReservationType) *rig {
		r := newRig(t, rigOptions{})
		r.pr(r.a, saRegister, 0, 0, keyA)
		r.pr(r.b, saRegister, 0, 0, keyB)
		if kind != NoReservation {
			r.pr(r.a, saReserve, kind, keyA, 0)
		}
		return r
	}
	t.Run("the holder", func(t *testing.T) {
		r := setup(t, WriteExclusive)
		r.pr(r.b, saPreempt, ExclusiveAccess, keyB, keyA)
		r.expectReservation(ExclusiveAccess, keyB)
		r.expectTold(r.a, RegistrationsPreempted)
		if g, keys := r.keys(); g != 3 || len(keys) != 1 {
			t.Errorf("generation %d, keys %x", g, keys)
		}
		r.conflicts(r.a, span16(opRead16, 0, 0, 1), nil)
	})
	t.Run("one that is not the holder", func(t *testing.T) {
		r := setup(t, WriteExclusive)
		r.pr(r.a, saPreempt, ExclusiveAccess, keyA, keyB)
		r.expectReservation(WriteExclusive, keyA)
		r.expectTold(r.b, RegistrationsPreempted)
	})
	t.Run("nobody", func(t *testing.T) {
		r := setup(t, WriteExclusive)
		r.prConflicts(r.a, saPreempt, WriteExclusive, keyA, keyC)
		r.prConflicts(r.a, saPreempt, WriteExclusive, keyC, keyB)
		cdb, list := prOut(saPreempt, WriteExclusive, keyA, 0, 0)
		r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInParameter)
	})
	t.Run("without a reservation", func(t *testing.T) {
		r := setup(t, NoReservation)
		r.pr(r.b, saPreempt, ExclusiveAccess, keyB, keyA)
		r.expectReservation(NoReservation, 0)
		r.expectTold(r.a, RegistrationsPreempted)
	})
	t.Run("all registrants", func(t *testing.T) {
		r := setup(t, ExclusiveAccessAllRegistrants)
		r.pr(r.b, saPreempt, WriteExclusiveRegistrantsOnly, keyB, 0)
		r.expectReservation(WriteExclusiveRegistrantsOnly, keyB)
		r.expectTold(r.a, RegistrationsPreempted)
	})
	t.Run("one of all registrants", func(t *testing.T) {
		r := setup(t, ExclusiveAccessAllRegistrants)
		r.pr(r.b, saPreempt, ExclusiveAccess, keyB, keyA)
		r.expectReservation(ExclusiveAccessAllRegistrants, 0)
		r.expectTold(r.a, RegistrationsPreempted)
		r.conflicts(r.a, span16(opRead16, 0, 0, 1), nil)
	})
	t.Run("clear", func(t *testing.T) {
		r := setup(t, ExclusiveAccessAllRegistrants)
		r.prConflicts(r.b, saClear, 0, keyA, 0)
		r.pr(r.b, saClear, 0, keyB, 0)
		r.expectReservation(NoReservation, 0)
		r.expectTold(r.a, ReservationsPreempted)
		r.expectTold(r.b, 0)
	})
}

func TestPreemptAndAbortWaitsForTheCommands(t *testing.T) {
	held := make(chan *volume.Request, 4)
	_, wrap := heldMedium(held)
	r := newRig(t, rigOptions{wrap: wrap})
	r.pr(r.a, saRegister, 0, 0, keyA)
	r.pr(r.b, saRegister, 0, 0, keyB)
	r.pr(r.a, saReserve, WriteExclusive, keyA, 0)
	c, done := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
	cdb, list := prOut(saPreemptAndAbort, WriteExclusive, keyB, keyA, 0)
	p, preempted := r.start(r.b, cdb, list)
	q := <-held
	for !c.aborted() { // until the preemption is in force
		select {
		case <-preempted:
			t.Fatal("complete while the other's write is in execution")
		default:
		}
	}
	q.Done.RequestDone(q)
	<-done
	<-preempted
	if !c.Aborted || p.Status != Good {
		t.Errorf("write aborted %v, preempt status %#x", c.Aborted, p.Status)
	}
	if code, _ := r.a.attentions.take(); code != CommandsCleared {
		t.Errorf("told %04x", code)
	}
	r.expectTold(r.a, RegistrationsPreempted)
}

func TestRegisterForOthers(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{Groups: []PortGroup{{ID: 1, Ports: []uint16{1, 2}}}}})
	cdb, list := prOut(saRegister, 0, 0, keyA, persistAllPorts|persistSpecific)
	id := transportID(initiatorB)
	list = binary.BigEndian.AppendUint32(list, uint32(len(id)))
	list = append(list, id...)
	cdb[8] = byte(len(list))
	r.good(r.a, cdb, list, 0)
	if _, keys := r.keys(); len(keys) != 4 {
		t.Errorf("keys %x, want those of two initiators at two ports", keys)
	}
	r.pr(r.b, saReserve, ExclusiveAccess, keyA, 0)
	b := r.prIn(saReadFullStatus)
	if !bytes.Contains(b, []byte(initiatorA)) || !bytes.Contains(b, []byte(initiatorB)) {
		t.Errorf("full status % x", b)
	}
	holders := 0
	for at := 8; at < len(b); {
		holders += int(b[at+12] & 1)
		at += 24 + int(binary.BigEndian.Uint32(b[at+20:]))
	}
	if holders != 1 {
		t.Errorf("%d holders", holders)
	}
	for name, spoil := range map[string]func([]byte){
		"length of the list": func(b []byte) { b[27]++ },
		"protocol":           func(b []byte) { b[28] = 0x46 },
		"length of the id":   func(b []byte) { b[31]++ },
		"no end":             func(b []byte) { copy(b[32:], bytes.Repeat([]byte{'x'}, len(b)-32)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			bad := bytes.Clone(list)
			spoil(bad)
			if a := r.do(r.a, cdb, bad, 0); a.Status != CheckCondition {
				t.Errorf("status %#x", a.Status)
			}
		})
	}
}

func TestRegisterAndMove(t *testing.T) {
	r := newRig(t, rigOptions{})
	move := func(key, newKey uint64, flags byte) (cdb, list []byte) {
		id := transportID(initiatorB)
		list = binary.BigEndian.AppendUint64(nil, key)
		list = binary.BigEndian.AppendUint64(list, newKey)
		list = append(list, 0, flags, 0, 1)
		list = binary.BigEndian.AppendUint32(list, uint32(len(id)))
		list = append(list, id...)
		return []byte{opPersistentOut, saRegisterAndMove, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}, list
	}
	cdb, list := move(keyA, keyB, 2)
	r.conflicts(r.a, cdb, list)
	r.pr(r.a, saRegister, 0, 0, keyA)
	r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInCDB) // nothing to move
	r.pr(r.a, saReserve, ExclusiveAccess, keyA, 0)
	r.pr(r.b, saRegister, 0, 0, keyA)
	r.conflicts(r.b, cdb, list)
	r.pr(r.b, saRegister, 0, keyA, 0)
	badCDB, badList := move(keyA, 0, 0)
	r.fails(r.a, badCDB, badList, 0, IllegalRequest, InvalidFieldInParameter)
	r.good(r.a, cdb, list, 0)
	r.expectReservation(ExclusiveAccess, keyB)
	if _, keys := r.keys(); fmt.Sprint(keys) != fmt.Sprint([]uint64{keyB}) {
		t.Errorf("keys %x", keys)
	}
	r.conflicts(r.a, span16(opRead16, 0, 0, 1), nil)
	r.good(r.b, span16(opWrite16, 0, 0, 1), filled(1, 1), 0)
}

func TestReportCapabilities(t *testing.T) {
	r := newRig(t, rigOptions{})
	if b := r.prIn(saReportCapability); !bytes.Equal(b, []byte{0, 8, 0x0c, 0x80, 0xea, 0x01, 0, 0}) {
		t.Errorf("capabilities % x", b)
	}
}

// A registration at all ports of the target would lack those that other gateways have.
func TestRegisterAtAllPortsWhereOthersHaveSome(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{Groups: twoGroups(), PortsElsewhere: true}})
	if b := r.prIn(saReportCapability); b[2]&0x04 != 0 {
		t.Errorf("capabilities % x", b)
	}
	cdb, list := prOut(saRegister, 0, 0, keyA, persistAllPorts)
	r.fails(r.a, cdb, list, 0, IllegalRequest, InvalidFieldInParameter)
	r.pr(r.a, saRegister, 0, 0, keyA)
}

func TestReserve6And10(t *testing.T) {
	for _, c := range []struct{ reserve, release []byte }{
		{[]byte{opReserve6, 0, 0, 0, 0, 0}, []byte{opRelease6, 0, 0, 0, 0, 0}},
		{[]byte{opReserve10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{opRelease10, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
	} {
		r := newRig(t, rigOptions{})
		sense := []byte{opModeSense6, 0, 0x3f, 0, 255, 0}
		r.good(r.a, c.reserve, nil, 0)
		r.good(r.a, c.reserve, nil, 0)
		r.conflicts(r.b, c.reserve, nil)
		r.good(r.b, c.release, nil, 0)
		r.good(r.a, sense, nil, 255)
		for _, cdb := range [][]byte{sense, turCDB, span16(opRead16, 0, 0, 1)} {
			r.conflicts(r.b, cdb, nil)
		}
		r.prConflicts(r.b, saRegister, 0, 0, keyB)
		r.good(r.b, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96)
		r.good(r.a, c.release, nil, 0)
		r.good(r.b, c.reserve, nil, 0)
		r.unit.Detach(r.b, nil) // logout
		r.good(r.a, c.reserve, nil, 0)
		r.unit.Reset(func() {})
		r.a.attentions.take()
		r.fails(r.a, append([]byte{c.reserve[0], 1}, c.reserve[2:]...), nil, 0, IllegalRequest, InvalidFieldInCDB)
		r.pr(r.a, saRegister, 0, 0, keyA)
		r.conflicts(r.a, c.reserve, nil)
		r.conflicts(r.a, c.release, nil)
	}
}

// Two gateways serve one volume: each enforces what was ordered at the other.
func TestTwoUnitsShareReservations(t *testing.T) {
	store := NewMemoryStore()
	one := newRig(t, rigOptions{unit: Options{Reservations: store}})
	two := newRig(t, rigOptions{unit: Options{Reservations: store}})
	other := two.unit.Attach(initiatorB, Port{ID: 2})
	other.attentions.take()
	one.pr(one.a, saRegister, 0, 0, keyA)
	two.pr(other, saRegister, 0, 0, keyB) // swaps against the newer version
	if _, err := one.unit.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	one.pr(one.a, saReserve, ExclusiveAccessRegistrantsOnly, keyA, 0)
	if _, err := two.unit.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.conflicts(two.b, span16(opRead16, 0, 0, 1), nil) // the same initiator by a path that is not registered
	two.good(other, span16(opRead16, 0, 0, 1), nil, 512)
	one.pr(one.a, saPreempt, ExclusiveAccess, keyA, keyB)
	if _, err := two.unit.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.expectTold(other, RegistrationsPreempted)
	two.conflicts(other, span16(opRead16, 0, 0, 1), nil)

	b, version, _ := store.Load(context.Background())
	if _, err := store.Swap(context.Background(), version-1, nil); !errors.Is(err, ErrReservationsChanged) {
		t.Errorf("a swap of an old version: %v", err)
	}
	if r, err := DecodeReservations(b); err != nil || len(r.Registrations) != 1 {
		t.Errorf("stored %s: %v", b, err)
	}
}

func TestDecodeReservationsRefuses(t *testing.T) {
	for _, text := range []string{
		`[]`, `{`, `{"type":2}`, `{"type":1}`, `{"type":7}`, `{"initiator":"x"}`,
		`{"registrations":[{"initiator":"","key":1}]}`,
		`{"registrations":[{"initiator":"x","key":0}]}`,
		`{"registrations":[{"initiator":"x","key":1},{"initiator":"x","key":2}]}`,
		`{"registrations":[{"initiator":"x","key":1}],"type":1,"initiator":"y"}`,
	} {
		if _, err := DecodeReservations([]byte(text)); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}
