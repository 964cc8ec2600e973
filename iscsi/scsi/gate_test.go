package scsi

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/opencurve/curve-nbd/volume"
)

// What ends the commands of others waits for those too whose path is gone: a node is
// fenced off when its connection broke just as when it stands.
func TestCommandsOfALostPathAreWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(r *rig, over func())
	}{
		{"PREEMPT AND ABORT", func(r *rig, over func()) {
			cdb, list := prOut(saPreemptAndAbort, WriteExclusive, keyB, keyA, 0)
			_, done := r.start(r.b, cdb, list)
			go func() { <-done; over() }()
		}},
		{"LOGICAL UNIT RESET", func(r *rig, over func()) { r.unit.Reset(over) }},
		{"CLEAR TASK SET", func(r *rig, over func()) { r.unit.ClearTaskSet(r.b, over) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			held := make(chan *volume.Request, 1)
			_, wrap := heldMedium(held)
			r := newRig(t, rigOptions{wrap: wrap})
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.b, saRegister, 0, 0, keyB)
			_, done := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
			q := <-held
			r.unit.Detach(r.a, nil)
			over := make(chan struct{})
			c.end(r, func() { close(over) })
			for r.a.drain.orders() < 2 && !t.Failed() { // until it has come there
				select {
				case <-over:
					t.Error("over while the write is in execution")
				default:
					runtime.Gosched()
				}
			}
			q.Done.RequestDone(q)
			<-done
			<-over
		})
	}
}

// orders is how many want the commands ended.
func (d *drain) orders() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.waiting)
}

// comeBack detaches a path, and makes it known again.
func (r *rig) comeBack(n *Nexus) *Nexus {
	r.unit.Detach(n, nil)
	next := r.unit.Attach(n.initiator, n.port)
	next.attentions.take()
	return next
}

// returning is a path that has come back while a write of before is in execution, of
// block 0; release lets that go on.
func returning(t *testing.T) (r *rig, release func()) {
	held := make(chan *volume.Request, 1)
	f, wrap := heldMedium(held)
	r = newRig(t, rigOptions{wrap: wrap})
	_, done := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1))
	q := <-held
	f.hold = nil
	r.a = r.comeBack(r.a)
	released := false
	release = func() {
		if !released {
			released = true
			f.Medium.Submit(q)
			<-done
		}
	}
	t.Cleanup(release)
	return r, release
}

// What a write of before could undo, or what would see it come, waits for it.
func TestAPathThatComesBackWaitsForTheOneBefore(t *testing.T) {
	register, list := prOut(saRegister, 0, 0, keyA, 0)
	for name, c := range map[string]struct{ cdb, out []byte }{
		"READ":                   {span16(opRead16, 0, 0, 1), nil},
		"a READ elsewhere":       {span16(opRead16, 0, 99, 1), nil},
		"WRITE":                  {span16(opWrite16, 0, 0, 1), filled(1, 2)},
		"COMPARE AND WRITE":      {compareCDB(0, 1), append(filled(1, 1), filled(1, 2)...)},
		"SYNCHRONIZE CACHE":      {spanOf(10, opSynchronizeCache10, 0, 0, 0), nil},
		"PERSISTENT RESERVE OUT": {register, list},
		"PERSISTENT RESERVE IN":  {[]byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 1, 0, 0}, nil},
		"RESERVE":                {[]byte{opReserve6, 0, 0, 0, 0, 0}, nil},
		"START STOP UNIT":        {[]byte{opStartStopUnit, 0, 0, 0, 0, 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, release := returning(t)
			cmd, done := r.start(r.a, c.cdb, c.out)
			select {
			case <-done:
				t.Fatalf("done while the write of before is in execution, status %#x", cmd.Status)
			default:
			}
			release()
			if <-done; cmd.Status != Good {
				t.Errorf("status %#x, sense % x", cmd.Status, cmd.Sense())
			}
			want := filled(1, 1)
			if cmd.op.access == accessWrite && c.out != nil {
				want = filled(1, 2)
			}
			if name != "RESERVE" && !bytes.Equal(r.read(0, 1), want) {
				t.Error("the write of before was not the first")
			}
		})
	}
}

// What only looks at the unit does not wait, nor do others: initiators find out by it that
// the path works.
func TestAPathThatComesBackIsThere(t *testing.T) {
	r, _ := returning(t)
	for name, cdb := range map[string][]byte{
		"TEST UNIT READY":          turCDB,
		"INQUIRY":                  {opInquiry, 0, 0, 0, 36, 0},
		"REPORT LUNS":              {opReportLUNs, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0},
		"READ CAPACITY":            {opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"MODE SENSE":               {opModeSense6, 0, 0x3f, 0, 255, 0},
		"REQUEST SENSE":            {opRequestSense, 0, 0, 0, 18, 0},
		"REPORT SUPPORTED OPCODES": {opMaintenanceIn, saReportOpcodes, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) { r.good(r.a, cdb, nil, 255) })
	}
	t.Run("the path of another", func(t *testing.T) { r.good(r.b, span16(opWrite16, 0, 8, 1), filled(1, 3), 0) })
}

// A command that waits for those of before ends at once when it is to end.
func TestACommandThatWaitsForThePathBeforeCanBeEnded(t *testing.T) {
	for name, end := range map[string]func(r *rig, c *Command){
		"ABORT TASK":       func(r *rig, c *Command) { r.unit.Abort(c) },
		"ABORT TASK SET":   func(r *rig, _ *Command) { r.unit.AbortTaskSet(r.a, func() {}) },
		"the session ends": func(r *rig, _ *Command) { r.unit.Detach(r.a, nil) },
		"another's reset":  func(r *rig, _ *Command) { r.unit.Reset(func() {}) },
	} {
		t.Run(name, func(t *testing.T) {
			r, release := returning(t)
			c, done := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 2))
			stays, staysDone := c, done
			if name == "ABORT TASK" {
				stays, staysDone = r.start(r.a, span16(opWrite16, 0, 1, 1), filled(1, 3))
			}
			end(r, c)
			if <-done; !c.Aborted {
				t.Errorf("status %#x", c.Status)
			}
			release()
			if stays != c {
				if <-staysDone; stays.Aborted || stays.Status != Good {
					t.Errorf("the other command: aborted %v, status %#x", stays.Aborted, stays.Status)
				}
			}
		})
	}
}

// However often a path comes back, the first is waited for.
func TestAPathThatComesBackTwice(t *testing.T) {
	r, release := returning(t)
	_, ended := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 2))
	r.a = r.comeBack(r.a)
	<-ended
	_, done := r.start(r.a, span16(opWrite16, 0, 0, 1), filled(1, 3))
	select {
	case <-done:
		t.Error("done while the first write is in execution")
	default:
	}
	release()
	<-done
	if !bytes.Equal(r.read(0, 1), filled(1, 3)) {
		t.Error("the writes were not in order")
	}
}

// A copy does not wait at another unit: its initiator is told to come again.
func TestACopyToAPathThatComesBack(t *testing.T) {
	other, release := returning(t)
	r := newRig(t, rigOptions{identity: "copies", unit: Options{Peers: func(*Nexus) []*Unit { return []*Unit{other.unit} }}})
	list := copyOrder{units: [][]byte{nameOf(r.unit), nameOf(other.unit)}, segments: [][]byte{segmentOf(0, 1, 0, 0, 8)}}.list()
	if a := r.do(r.a, copyCDB(len(list)), list, 0); a.Status != Busy {
		t.Errorf("status %#x, sense % x", a.Status, a.Sense())
	}
	release()
	r.good(r.a, copyCDB(len(list)), list, 0)
}

// Sessions that follow each other while their writes take this long and that: none undoes
// that of a later one.
func TestWritesKeepTheOrderOfTheirSessions(t *testing.T) {
	f := &faulty{}
	f.hold = func(q *volume.Request) bool {
		go func() {
			for range rand.IntN(200) {
				runtime.Gosched()
			}
			f.Medium.Submit(q)
		}()
		return true
	}
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium { f.Medium = m; return f }})
	var ends []finished
	for round := range 2000 {
		var c *Command
		for lba := range uint64(3) {
			done := make(finished, 1)
			c = &Command{CDB: span16(opWrite16, 0, lba, 1), Nexus: r.a, ExpectedOut: testBlock, Done: done, Out: [][]byte{filled(1, byte(round))}}
			if !r.unit.Plan(c) {
				t.Fatalf("status %#x, sense % x", c.Status, c.Sense())
			}
			if r.unit.Execute(c) {
				done <- c
			}
			ends = append(ends, done)
		}
		switch {
		case round%10 == 0:
			for _, done := range ends {
				<-done
			}
			ends = ends[:0]
			if c.Status != Good || !bytes.Equal(r.read(2, 1), filled(1, byte(round))) {
				t.Fatalf("round %d: status %#x, aborted %v; the block is not as it was written last", round, c.Status, c.Aborted)
			}
		case round%10 < 3:
			r.unit.Abort(c)
		case round%10 == 3:
			r.unit.AbortTaskSet(r.a, func() {})
		default:
			r.a = r.comeBack(r.a)
		}
	}
	for _, done := range ends {
		<-done
	}
	if n := len(r.unit.leaving); n != 0 {
		t.Errorf("%d paths are still leaving", n)
	}
}
