package scsi

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

var groupsCDB = []byte{opMaintenanceIn, saReportPortGroups, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}

// twoGroups are those of two gateways, this one's first.
func twoGroups() []PortGroup {
	return []PortGroup{{ID: 7, Ports: []uint16{1}}, {ID: 8, State: Standby, Ports: []uint16{2}}}
}

// standbyRig is a unit without medium, and the medium that it may get.
func standbyRig(t *testing.T, o Options) (*rig, Medium) {
	t.Helper()
	var h Medium
	o.Size, o.BlockSize, o.Groups = testSize, testBlock, twoGroups()
	r := newRig(t, rigOptions{unit: o, wrap: func(m Medium) Medium { h = m; return nil }})
	return r, h
}

func TestAUnitInStandby(t *testing.T) {
	r, medium := standbyRig(t, Options{})
	if r.unit.Active() {
		t.Error("active without medium")
	}
	for name, cdb := range map[string][]byte{
		"TEST UNIT READY":  turCDB,
		"WRITE":            span16(opWrite16, 0, 0, 1),
		"GET LBA STATUS":   {opServiceActionIn16, saGetLBAStatus, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0},
		"START STOP UNIT":  {opStartStopUnit, 0, 0, 0, 1, 0},
		"SYNCHRONIZE":      span16(opSynchronizeCache16, 0, 0, 0),
		"COMPARE AND WRIT": compareCDB(0, 1),
	} {
		t.Run(name, func(t *testing.T) { r.fails(r.a, cdb, filled(2, 1), 512, NotReady, NotReadyStandby) })
	}
	for name, cdb := range map[string][]byte{
		"INQUIRY":      {opInquiry, 0, 0, 0, 96, 0},
		"capacity":     {opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"capacity(16)": {opServiceActionIn16, saReadCapacity16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0},
		"limits":       {opInquiry, 1, vpdLimits, 0, 64, 0},
		"REPORT LUNS":  {opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0},
		"MODE SENSE":   {opModeSense6, 0, pageAll, 0, 255, 0},
		"READ KEYS":    {opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0},
		"port groups":  groupsCDB,
		"what it does": {opMaintenanceIn, saReportOpcodes, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) { r.good(r.a, cdb, nil, 256) })
	}
	if b := r.good(r.a, groupsCDB, nil, 256); b[4] != byte(Standby) || b[16] != byte(Standby) {
		t.Errorf("groups % x", b)
	}
	if b := r.good(r.a, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18); b[2] != byte(NotReady) || b[13] != 0x0b {
		t.Errorf("sense % x", b)
	}
	// A cache that is turned off has nothing to flush to.
	r.good(r.a, []byte{opModeSelect6, 0x10, 0, 0, 24, 0}, append(make([]byte, 4), append([]byte{pageCaching, 18}, make([]byte, 18)...)...), 0)
	r.b.attentions.take()

	if err := r.unit.Activate(t.Context(), medium); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Nexus{r.a, r.b} {
		r.fails(n, turCDB, nil, 0, UnitAttention, AccessStateChanged)
		r.good(n, turCDB, nil, 0)
	}
	r.write(5, filled(2, 3))
	if b := r.good(r.a, groupsCDB, nil, 256); b[4] != byte(ActiveOptimized) || b[16] != byte(Standby) {
		t.Errorf("groups % x", b)
	}
	if err := r.unit.Activate(t.Context(), medium); !errors.Is(err, backend.ErrBusy) {
		t.Errorf("a second medium: %v", err)
	}

	left := make(chan struct{})
	r.unit.Deactivate(func() { close(left) })
	<-left
	for _, n := range []*Nexus{r.a, r.b} {
		r.fails(n, turCDB, nil, 0, UnitAttention, AccessStateChanged)
		r.fails(n, turCDB, nil, 0, NotReady, NotReadyStandby)
	}
	again := make(chan struct{})
	r.unit.Deactivate(func() { close(again) })
	<-again
}

// Which gateway has the volume is not for initiators to choose: two hosts that each
// chose would take it from each other for ever.
func TestAccessStatesCannotBeSet(t *testing.T) {
	r, _ := standbyRig(t, Options{})
	if b := r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); b[5]>>4&3 != 1 {
		t.Errorf("TPGS %d, want implicit changes only", b[5]>>4&3)
	}
	const opMaintenanceOut, saSetPortGroups = 0xa4, 0x0a
	r.fails(r.a, []byte{opMaintenanceOut, saSetPortGroups, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0}, []byte{0, 0, 0, 0, 0, 0, 0, 7}, 0, IllegalRequest, InvalidOpcode)
}

func TestAMediumThatDoesNotFit(t *testing.T) {
	r, medium := standbyRig(t, Options{})
	if err := r.unit.Activate(t.Context(), otherBlocks{medium}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("blocks of another size: %v", err)
	}
	for _, o := range []Options{{}, {BlockSize: 512}, {BlockSize: 512, Size: 511}, {BlockSize: -1, Size: 1}} {
		if _, err := New(t.Context(), o); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

type otherBlocks struct{ Medium }

func (m otherBlocks) Info() gateway.Info {
	info := m.Medium.Info()
	info.BlockSize *= 2
	return info
}

// A takeover while commands are under way: those end so that an initiator takes
// the other path, and the medium is let go when the last has.
func TestCommandsInFlightAtATakeover(t *testing.T) {
	held := make(chan *volume.Request, 4)
	var lost int
	f, wrap := heldMedium(held)
	r := newRig(t, rigOptions{wrap: wrap, unit: Options{Groups: twoGroups(), Lost: func() { lost++ }}})
	fails, failsDone := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
	stale := <-held
	succeeds, succeedsDone := r.start(r.a, span16(opWrite16, 0, 8, 1), filled(1, 1))
	written := <-held
	compares, comparesDone := r.start(r.a, compareCDB(16, 1), filled(2, 0))
	read := <-held
	waits, waitsDone := r.start(r.b, span16(opRead16, 0, 16, 1), nil)

	left := make(chan struct{})
	r.unit.Deactivate(func() { close(left) })
	select {
	case <-left:
		t.Fatal("the medium is let go with requests on it")
	case <-time.After(10 * time.Millisecond):
	}
	stale.Err = backend.ErrStaleEpoch
	for _, q := range []*volume.Request{stale, written, read} {
		q.Done.RequestDone(q)
	}
	<-failsDone
	<-succeedsDone
	<-comparesDone
	<-waitsDone
	<-left
	for name, c := range map[string]*Command{"failed": fails, "would go on": compares, "waited": waits} {
		if key, code := c.parseSense(); key != NotReady || code != NotReadyStandby {
			t.Errorf("the command that %s: status %#x, sense % x", name, c.Status, c.Sense())
		}
	}
	if succeeds.Status != Good {
		t.Errorf("the command that succeeded: status %#x, sense % x", succeeds.Status, succeeds.Sense())
	}
	if lost != 1 {
		t.Errorf("told %d times that the volume is another's", lost)
	}
	f.hold = nil
}

func TestThatTheVolumeIsAnothersIsToldOnce(t *testing.T) {
	lost := 0
	r := newRig(t, rigOptions{unit: Options{Lost: func() { lost++ }}, wrap: func(m Medium) Medium {
		return &faulty{Medium: m, fail: func(*volume.Request) error { return backend.ErrStaleEpoch }}
	}})
	for range 3 {
		r.fails(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0, NotReady, NotReadyStandby)
	}
	if lost != 1 {
		t.Errorf("told %d times", lost)
	}
}

// What another gateway was ordered is enforced from the first command on.
func TestActivateEnforcesWhatWasReservedElsewhere(t *testing.T) {
	store := NewMemoryStore()
	r, medium := standbyRig(t, Options{Reservations: store})
	other := newRig(t, rigOptions{unit: Options{Reservations: store}})
	other.pr(other.b, saRegister, 0, 0, 5)
	other.pr(other.b, saReserve, WriteExclusive, 5, 0)
	// What is known in standby may be old; and another path does.
	if _, err := r.unit.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.fails(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0, NotReady, NotReadyStandby)
	if err := r.unit.Activate(context.Background(), medium); err != nil {
		t.Fatal(err)
	}
	r.a.attentions.take()
	r.conflicts(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
}

func TestReadKeysTellsWhatWasRegisteredElsewhere(t *testing.T) {
	store := NewMemoryStore()
	r, other := newRig(t, rigOptions{unit: Options{Reservations: store}}), newRig(t, rigOptions{unit: Options{Reservations: store}})
	other.pr(other.b, saRegister, 0, 0, 5)
	if b := r.good(r.a, []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0}, nil, 64); len(b) != 16 || b[15] != 5 {
		t.Errorf("keys % x", b)
	}
}

func TestAUnitMayBeReadOnly(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{ReadOnly: true}})
	r.fails(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0, DataProtect, WriteProtected)
	r.good(r.a, span16(opRead16, 0, 0, 1), nil, 512)
	if b := r.good(r.a, []byte{opModeSense6, 0, pageAll, 0, 255, 0}, nil, 255); b[2]&0x80 == 0 {
		t.Errorf("mode header % x", b[:4])
	}
}

func TestReadKeysWhileTheStoreIsAway(t *testing.T) {
	store := &away{MemoryStore: NewMemoryStore()}
	active := newRig(t, rigOptions{unit: Options{Reservations: store}})
	standby, _ := standbyRig(t, Options{Reservations: store})
	active.pr(active.a, saRegister, 0, 0, 5)
	store.down = true
	keys := []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0}
	if b := active.good(active.a, keys, nil, 64); len(b) != 16 || b[15] != 5 {
		t.Errorf("keys % x", b)
	}
	standby.fails(standby.a, keys, nil, 64, AbortedCommand, InternalTargetFailure)
}

// away is a store that may be out of reach.
type away struct {
	*MemoryStore
	down bool
}

func (s *away) Load(ctx context.Context) ([]byte, uint64, error) {
	if s.down {
		return nil, 0, backend.ErrUnreachable
	}
	return s.MemoryStore.Load(ctx)
}
