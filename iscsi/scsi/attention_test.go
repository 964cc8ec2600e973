package scsi

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/opencurve/curve-nbd/volume"
)

var turCDB = []byte{opTestUnitReady, 0, 0, 0, 0, 0}

func TestUnitAttentions(t *testing.T) {
	r := newRig(t, rigOptions{})
	n := r.unit.Attach("iqn.c,i,0x1", Port{ID: 1})
	r.good(n, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96)
	r.good(n, []byte{opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, nil, 16)
	r.fails(n, turCDB, nil, 0, UnitAttention, PowerOnReset)
	r.good(n, turCDB, nil, 0)

	t.Run("capacity", func(t *testing.T) {
		if _, err := r.gateway.ResizeVolume(context.Background(), "v", 2*testSize); err != nil {
			t.Fatal(err)
		}
		r.fails(r.a, turCDB, nil, 0, UnitAttention, CapacityChanged)
		r.fails(r.b, span16(opRead16, 0, 0, 1), nil, 512, UnitAttention, CapacityChanged)
		b := r.good(r.a, []byte{opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 8)
		if last := binary.BigEndian.Uint32(b); last != 2*testCount-1 {
			t.Errorf("last block %d", last)
		}
		r.good(r.a, span16(opRead16, 0, testCount, 1), nil, 512)
		n.attentions.take()
	})
	t.Run("LUNs", func(t *testing.T) {
		r.unit.LUNsChanged()
		r.fails(r.a, turCDB, nil, 0, UnitAttention, LUNsChanged)
		r.good(r.b, []byte{opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, nil, 16)
		r.good(r.b, turCDB, nil, 0)
		n.attentions.take()
	})
	t.Run("REQUEST SENSE takes it", func(t *testing.T) {
		r.unit.LUNsChanged()
		b := r.good(r.a, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18)
		if b[2] != byte(UnitAttention) || Code(binary.BigEndian.Uint16(b[12:])) != LUNsChanged {
			t.Errorf("sense % x", b)
		}
		b = r.good(r.a, []byte{opRequestSense, 1, 0, 0, 252, 0}, nil, 252)
		if b[0] != 0x72 || b[1] != 0 {
			t.Errorf("sense % x, want none, as descriptors", b)
		}
		r.good(r.a, turCDB, nil, 0)
	})
	t.Run("a reset stands for all before", func(t *testing.T) {
		r.unit.LUNsChanged()
		reset := make(chan struct{})
		r.unit.Reset(func() { close(reset) })
		<-reset
		for _, n := range []*Nexus{r.a, r.b, n} {
			r.fails(n, turCDB, nil, 0, UnitAttention, DeviceReset)
			r.good(n, turCDB, nil, 0)
		}
	})
	t.Run("there is room for all that there are", func(t *testing.T) {
		all := []Code{MediumChanged, ModeParametersChanged, ReservationsPreempted, ReservationsReleased,
			RegistrationsPreempted, AccessStateChanged, CapacityChanged, CommandsCleared, LUNsChanged}
		for _, code := range all {
			r.a.attentions.add(code)
		}
		for _, code := range all {
			r.fails(r.a, turCDB, nil, 0, UnitAttention, code)
		}
	})
	t.Run("they are bounded", func(t *testing.T) {
		for i := range 100 {
			r.a.attentions.add(Code(i))
		}
		if got := len(r.a.attentions.codes); got != maxAttentions {
			t.Errorf("%d unit attentions are kept", got)
		}
		for range maxAttentions {
			r.a.attentions.take()
		}
		r.good(r.a, turCDB, nil, 0)
	})
}

func TestAccessStates(t *testing.T) {
	groups := func(s AccessState) []PortGroup {
		return []PortGroup{{ID: 7, State: s, Ports: []uint16{1}}, {ID: 8, State: ActiveOptimized, Preferred: true, Ports: []uint16{2, 3}}}
	}
	r := newRig(t, rigOptions{unit: Options{Groups: groups(ActiveOptimized)}})
	b := r.good(r.a, []byte{opMaintenanceIn, saReportPortGroups, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, 256)
	want := []byte{0, 0, 0, 28,
		0x00, 0x8f, 0, 7, 0, 2, 0, 1, 0, 0, 0, 1,
		0x80, 0x8f, 0, 8, 0, 2, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3}
	if string(b) != string(want) {
		t.Errorf("groups\n% x, want\n% x", b, want)
	}
	b = r.good(r.a, []byte{opMaintenanceIn, 0x20 | saReportPortGroups, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0}, nil, 8)
	if string(b) != string([]byte{0, 0, 0, 32, 0x10, 0, 0, 0}) {
		t.Errorf("extended header % x", b)
	}
	r.fails(r.a, []byte{opMaintenanceIn, 0x40 | saReportPortGroups, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0}, nil, 8, IllegalRequest, InvalidFieldInCDB)
	if inquiry := r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); inquiry[5]>>4 != 1 || inquiry[6]&0x10 == 0 {
		t.Error("INQUIRY does not tell of the groups")
	}
	for state, code := range map[AccessState]Code{Standby: NotReadyStandby, Unavailable: NotReadyUnavailable, Transitioning: NotReadyTransition} {
		r.unit.SetGroups(groups(state))
		r.fails(r.a, turCDB, nil, 0, UnitAttention, AccessStateChanged)
		r.fails(r.a, turCDB, nil, 0, NotReady, code)
		r.fails(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0, NotReady, code)
		r.good(r.a, []byte{opMaintenanceIn, saReportPortGroups, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, 256)
		r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96)
	}
	r.unit.SetGroups(groups(ActiveNonOptimized))
	r.a.attentions.take()
	r.good(r.a, turCDB, nil, 0)
}

// heldMedium keeps submitted requests until they are let go.
func heldMedium(held chan *volume.Request) (*faulty, func(Medium) Medium) {
	f := &faulty{hold: func(r *volume.Request) bool { held <- r; return true }}
	return f, func(m Medium) Medium { f.Medium = m; return f }
}

// start plans and executes a command that will wait for the medium.
func (r *rig) start(n *Nexus, cdb, out []byte) (*Command, finished) {
	r.t.Helper()
	done := make(finished, 1)
	c := &Command{CDB: cdb, Nexus: n, ExpectedOut: int64(len(out)), ExpectedIn: 1 << 20, Done: done, Out: [][]byte{out}}
	if !r.unit.Plan(c) {
		r.t.Fatalf("%s: status %#x, sense % x", c.Name(), c.Status, c.Sense())
	}
	if c.Direction == DataIn {
		c.Out, c.In = nil, [][]byte{make([]byte, c.Transfer)}
	}
	if r.unit.Execute(c) {
		r.t.Fatalf("%s did not wait", c.Name())
	}
	return c, done
}

func TestTaskManagementEndsCommands(t *testing.T) {
	for _, c := range []struct {
		name     string
		function func(r *rig, c *Command, done func())
		others   bool   // ends those of other initiators
		tells    Code   // the other initiator
		status   Status // of the command that ends
	}{
		{"ABORT TASK", func(r *rig, c *Command, done func()) { r.unit.Abort(c); done() }, false, 0, Good},
		{"ABORT TASK SET", func(r *rig, _ *Command, done func()) { r.unit.AbortTaskSet(r.a, done) }, false, 0, Good},
		{"CLEAR TASK SET", func(r *rig, _ *Command, done func()) { r.unit.ClearTaskSet(r.a, done) }, true, CommandsCleared, Good},
		{"LOGICAL UNIT RESET", func(r *rig, _ *Command, done func()) { r.unit.Reset(done) }, true, DeviceReset, TaskAborted},
		{"I_T NEXUS RESET", func(r *rig, _ *Command, done func()) { r.unit.LoseNexus(r.a, done) }, false, 0, Good},
		{"the session ends", func(r *rig, _ *Command, done func()) { r.unit.Detach(r.a, done) }, false, 0, CheckCondition},
	} {
		t.Run(c.name, func(t *testing.T) {
			held := make(chan *volume.Request, 4)
			_, wrap := heldMedium(held)
			r := newRig(t, rigOptions{wrap: wrap})
			mine, mineDone := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
			theirs, theirsDone := r.start(r.b, compareCDB(8, 1), filled(2, 1))
			planned := &Command{CDB: span16(opWrite16, 0, 4, 1), Nexus: r.a, ExpectedOut: 512}
			if !r.unit.Plan(planned) {
				t.Fatal("not planned")
			}
			complete := make(chan struct{})
			c.function(r, mine, func() { close(complete) })
			if c.name != "ABORT TASK" {
				select {
				case <-complete:
					t.Fatal("complete while the command is in execution")
				default:
				}
				planned.Out = [][]byte{filled(1, 1)}
				if !r.unit.Execute(planned) || !planned.Aborted {
					t.Error("a command that was planned before was executed")
				}
			}
			for range 2 {
				q := <-held
				for i := range q.Data { // what the compare looks for
					q.Data[i] = 1
				}
				q.Done.RequestDone(q)
			}
			if (<-mineDone); !mine.Aborted {
				t.Error("the command was not aborted")
			}
			for _, c := range []struct {
				name string
				*Command
				want Status
			}{{"in execution", mine, c.status}, {"planned before", planned, c.status}} {
				if c.Aborted && (c.Status != c.want || c.Unanswered() != (c.want == Good)) {
					t.Errorf("the command %s: status %#x, want %#x", c.name, c.Status, c.want)
				}
			}
			if !c.others { // the write that follows the compare
				q := <-held
				q.Done.RequestDone(q)
			}
			<-theirsDone
			if theirs.Aborted != c.others {
				t.Errorf("the other initiator's command: aborted %v", theirs.Aborted)
			}
			if c.others && (theirs.Status != TaskAborted || len(theirs.Sense()) > 0 || theirs.InLen > 0) {
				t.Errorf("the other initiator's command: status %#x, sense % x", theirs.Status, theirs.Sense())
			}
			<-complete
			if code, _ := r.b.attentions.take(); code != c.tells {
				t.Errorf("the other initiator was told %04x, want %04x", code, c.tells)
			}
		})
	}
}
