package scsi

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

func startStop(how byte) []byte { return []byte{opStartStopUnit, 0, 0, 0, how, 0} }
func prevents(on byte) []byte   { return []byte{opPreventAllow, 0, 0, 0, on, 0} }

var (
	ejectCDB = startStop(loadEject)
	loadCDB  = startStop(loadEject | startUnit)
)

func removableRig(t *testing.T, o rigOptions) *rig {
	o.unit.Removable = true
	return newRig(t, o)
}

func TestEjectedMedium(t *testing.T) {
	r := removableRig(t, rigOptions{})
	if b := r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); b[1] != 0x80 {
		t.Errorf("byte 1 of INQUIRY is %#x: RMB is not set", b[1])
	}
	r.write(0, filled(2, 5))
	r.good(r.a, ejectCDB, nil, 0)
	r.good(r.a, ejectCDB, nil, 0) // once more
	for i := range table {
		op := &table[i]
		needs := op.ready && op.code != opStartStopUnit
		if !needs {
			continue
		}
		cdb := make([]byte, op.size)
		if cdb[0] = op.code; op.action != noAction {
			cdb[1] = byte(op.action)
		}
		t.Run(op.name, func(t *testing.T) {
			r := &rig{t: t, gateway: r.gateway, unit: r.unit, a: r.a, b: r.b}
			r.fails(r.b, cdb, nil, 64, NotReady, MediumNotPresent)
		})
	}
	r.fails(r.b, startStop(startUnit), nil, 0, NotReady, MediumNotPresent)
	if b := r.good(r.b, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18); Key(b[2]) != NotReady || b[12] != 0x3a {
		t.Errorf("REQUEST SENSE % x", b)
	}
	r.good(r.b, []byte{opModeSense6, 0, pageAll, 0, 255, 0}, nil, 255)
	r.good(r.a, loadCDB, nil, 0)
	r.good(r.a, turCDB, nil, 0)                                // who has loaded it knows
	r.fails(r.b, turCDB, nil, 0, UnitAttention, MediumChanged) // and the others are told
	r.good(r.a, loadCDB, nil, 0)
	r.good(r.b, turCDB, nil, 0) // nothing has changed
	if got := r.read(0, 2); string(got) != string(filled(2, 5)) {
		t.Error("another medium was loaded")
	}
}

// Power conditions, start and stop leave the medium where it is.
func TestWhatDoesNotEject(t *testing.T) {
	r := removableRig(t, rigOptions{})
	for how := range 256 {
		if how&(loadEject|powerCondition) == loadEject || how&0x08 != 0 {
			continue
		}
		r.good(r.a, startStop(byte(how)), nil, 0)
		r.good(r.b, turCDB, nil, 0)
	}
	fixed := newRig(t, rigOptions{})
	fixed.fails(fixed.a, ejectCDB, nil, 0, IllegalRequest, InvalidFieldInCDB)
	fixed.good(fixed.a, prevents(1), nil, 0)
	for _, r := range []*rig{r, fixed} {
		cdb := []byte{opMaintenanceIn, saReportOpcodes, reportCode, opStartStopUnit, 0, 0, 0, 0, 0, 64, 0, 0}
		if b := r.good(r.a, cdb, nil, 64); b[8]&loadEject != 0 != r.unit.removable {
			t.Errorf("removable %v, usage % x", r.unit.removable, b)
		}
	}
}

// Whoever prevents the removal does so until it allows it, or is gone.
func TestPreventedRemoval(t *testing.T) {
	wait := func(task func(done func())) {
		done := make(chan struct{})
		task(func() { close(done) })
		<-done
	}
	for name, end := range map[string]func(r *rig){
		"allow":              func(r *rig) { r.good(r.a, prevents(0), nil, 0) },
		"LOGICAL UNIT RESET": func(r *rig) { wait(r.unit.Reset) },
		"I_T NEXUS RESET":    func(r *rig) { wait(func(done func()) { r.unit.LoseNexus(r.a, done) }) },
		"logout":             func(r *rig) { wait(func(done func()) { r.unit.Detach(r.a, done) }) },
		"PREEMPT AND ABORT": func(r *rig) {
			r.pr(r.a, saRegister, 0, 0, 1)
			r.pr(r.b, saRegister, 0, 0, 2)
			r.pr(r.b, saPreemptAndAbort, WriteExclusive, 2, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := removableRig(t, rigOptions{})
			r.good(r.a, prevents(1), nil, 0)
			r.good(r.b, prevents(1), nil, 0)
			r.good(r.b, prevents(0), nil, 0) // which does not speak for the other
			for _, n := range []*Nexus{r.a, r.b} {
				r.fails(n, ejectCDB, nil, 0, IllegalRequest, RemovalPrevented)
			}
			r.good(r.b, turCDB, nil, 0)
			end(r)
			for pending := true; pending; {
				_, pending = r.b.attentions.take()
			}
			r.good(r.b, ejectCDB, nil, 0)
			r.good(r.b, prevents(1), nil, 0)
			r.fails(r.b, loadCDB, nil, 0, IllegalRequest, RemovalPrevented)
			r.good(r.b, prevents(0), nil, 0)
			r.good(r.b, loadCDB, nil, 0)
		})
	}
}

// What was written before is flushed, what is written meanwhile is waited for.
func TestEjectFlushes(t *testing.T) {
	held := make(chan *volume.Request, 4)
	f, wrap := heldMedium(held)
	r := removableRig(t, rigOptions{wrap: wrap})
	write, written := r.start(r.b, span16(opWrite16, 0, 0, 1), filled(1, 1))
	planned := &Command{CDB: span16(opWrite16, 0, 8, 1), Nexus: r.b, ExpectedOut: testBlock}
	if !r.unit.Plan(planned) {
		t.Fatal("not planned")
	}
	eject, ejected := r.start(r.a, ejectCDB, nil)
	planned.Out = [][]byte{filled(1, 1)}
	late := make(finished, 1)
	planned.Done = late
	if r.unit.Execute(planned) { // else it waits behind the eject
		late <- planned
	}
	first := <-held
	if first.Op != backend.OpWrite {
		t.Fatalf("%v before the write was done", first.Op)
	}
	first.Done.RequestDone(first)
	if (<-written); write.Status != Good {
		t.Errorf("the write: status %#x", write.Status)
	}
	<-late
	if _, code := planned.parseSense(); code != MediumNotPresent {
		t.Errorf("a write after the eject: status %#x, sense % x", planned.Status, planned.Sense())
	}
	flush := <-held
	if flush.Op != backend.OpFlush {
		t.Fatalf("%v instead of a flush", flush.Op)
	}
	flush.Done.RequestDone(flush)
	if (<-ejected); eject.Status != Good {
		t.Errorf("the eject: status %#x", eject.Status)
	}
	f.hold = nil
	r.fails(r.b, turCDB, nil, 0, NotReady, MediumNotPresent)
}

// Who ejects or loads while another ejects waits for that: over is what is flushed.
func TestOneMovesTheMediumAtATime(t *testing.T) {
	for _, c := range []struct {
		name  string
		cdb   []byte
		after Code // of a TEST UNIT READY
	}{{"eject", ejectCDB, MediumNotPresent}, {"load", loadCDB, 0}} {
		t.Run(c.name, func(t *testing.T) {
			held := make(chan *volume.Request, 4)
			f, wrap := heldMedium(held)
			r := removableRig(t, rigOptions{wrap: wrap})
			_, written := r.start(r.b, span16(opWrite16, 0, 0, 1), filled(1, 1))
			first, ejected := r.start(r.a, ejectCDB, nil)
			second := &Command{CDB: c.cdb, Nexus: r.b, Done: make(finished, 1)}
			if !r.unit.Plan(second) || r.unit.Execute(second) {
				t.Errorf("over before what was written is flushed: status %#x", second.Status)
				second.Done.CommandDone(second)
			}
			for range 2 { // the write, the flush
				q := <-held
				q.Done.RequestDone(q)
			}
			<-written
			<-ejected
			<-second.Done.(finished)
			f.hold = nil
			if first.Status != Good || second.Status != Good {
				t.Errorf("status %#x and %#x", first.Status, second.Status)
			}
			for pending := true; pending; {
				_, pending = r.a.attentions.take()
			}
			if _, code := r.do(r.a, turCDB, nil, 0).parseSense(); code != c.after {
				t.Errorf("TEST UNIT READY: %04x, want %04x", code, c.after)
			}
		})
	}
}

// A medium that cannot be flushed stays.
func TestEjectThatFails(t *testing.T) {
	broken := errors.New("disk on fire")
	r := removableRig(t, rigOptions{wrap: func(m Medium) Medium { return &unflushed{m, broken} }})
	r.fails(r.a, ejectCDB, nil, 0, MediumError, WriteError)
	r.good(r.b, turCDB, nil, 0)
}

// unflushed is a medium that cannot be flushed.
type unflushed struct {
	Medium
	err error
}

func (f *unflushed) Submit(r *volume.Request) {
	if r.Op == backend.OpFlush {
		r.Err = f.err
		r.Done.RequestDone(r)
		return
	}
	f.Medium.Submit(r)
}

func TestPhysicalBlock(t *testing.T) {
	for _, c := range []struct {
		block, physical int64
		exponent        byte
	}{{512, 0, 3}, {512, 4096, 3}, {512, 512, 0}, {4096, 0, 0}, {4096, 4096, 0}} {
		t.Run(fmt.Sprintf("%d in %d", c.block, c.physical), func(t *testing.T) {
			r := newRig(t, rigOptions{blockSize: c.block, unit: Options{PhysicalBlock: c.physical}})
			if b := r.good(r.a, span16(opServiceActionIn16, saReadCapacity16, 0, 32<<16), nil, 32); b[13] != c.exponent {
				t.Errorf("exponent %d, want %d", b[13], c.exponent)
			}
		})
	}
	for _, o := range []Options{{Size: 1 << 20, BlockSize: 4096, PhysicalBlock: 512}, {Size: 1 << 20, BlockSize: 512, PhysicalBlock: 1024}} {
		if _, err := New(t.Context(), o); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%+v: %v, want ErrInvalid", o, err)
		}
	}
}
