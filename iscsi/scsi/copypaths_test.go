package scsi

import (
	"runtime"
	"testing"

	"github.com/opencurve/curve-nbd/volume"
)

// A copy is a command of the other unit too: what ends its initiator's commands there, or
// takes it the right to write, ends the copy, and waits for what it has under way.
func TestACopyIsEndedAtTheOtherUnit(t *testing.T) {
	task := func(f func(r *rig, done func())) func(*rig) <-chan struct{} {
		return func(r *rig) <-chan struct{} {
			ended := make(chan struct{})
			f(r, func() { close(ended) })
			return ended
		}
	}
	for _, c := range []struct {
		name  string
		order func(other *rig) (over <-chan struct{})
		waits bool
	}{
		{"PREEMPT AND ABORT", func(other *rig) <-chan struct{} {
			cdb, list := prOut(saPreemptAndAbort, WriteExclusive, keyB, keyA, 0)
			_, done := other.start(other.b, cdb, list)
			over := make(chan struct{})
			go func() { <-done; close(over) }()
			return over
		}, true},
		{"LOGICAL UNIT RESET", task(func(other *rig, done func()) { other.unit.Reset(done) }), true},
		{"CLEAR TASK SET", task(func(other *rig, done func()) { other.unit.ClearTaskSet(other.b, done) }), true},
		{"the path there ends", task(func(other *rig, done func()) { other.unit.Detach(other.a, done) }), true},
		{"PREEMPT", task(func(other *rig, done func()) {
			other.pr(other.b, saPreempt, WriteExclusive, keyB, keyA)
			done()
		}), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			held, released := make(chan *volume.Request, 1), make(chan struct{})
			f := &faulty{hold: func(q *volume.Request) bool {
				select {
				case <-released:
					return false
				default:
					held <- q
					return true
				}
			}}
			other := newRig(t, rigOptions{identity: "other", wrap: func(m Medium) Medium { f.Medium = m; return f }})
			r := newRig(t, rigOptions{unit: Options{Peers: func(*Nexus) []*Unit { return []*Unit{other.unit} }}})
			r.write(0, counting(2000, 7))
			other.pr(other.a, saRegister, 0, 0, keyA)
			other.pr(other.b, saRegister, 0, 0, keyB)
			other.pr(other.a, saReserve, WriteExclusive, keyA, 0)
			list := copyOrder{units: [][]byte{nameOf(r.unit), nameOf(other.unit)}, segments: [][]byte{segmentOf(0, 1, 0, 0, 2000)}}.list()
			cmd, done := r.start(r.a, copyCDB(len(list)), list)
			q := <-held
			over := c.order(other)
			for c.waits && other.a.epoch.Load() == 0 { // until it is in force
				runtime.Gosched()
			}
			select {
			case <-over:
				if c.waits {
					t.Error("over while the copy writes there")
				}
			default:
			}
			q.Done.RequestDone(q)
			select {
			case <-done:
				if key, code := cmd.parseSense(); key != CopyAborted || code != CopyUnitUnreachable {
					t.Errorf("status %#x, sense % x", cmd.Status, cmd.Sense())
				}
			case q := <-held:
				t.Errorf("the copy goes on at %d", q.Off)
				close(released)
				q.Done.RequestDone(q)
				<-done
			}
			<-over
		})
	}
}

// Nobody may copy to where no path of his leads.
func TestNoCopyWithoutAPath(t *testing.T) {
	other := newRig(t, rigOptions{identity: "other"})
	r := newRig(t, rigOptions{unit: Options{Peers: func(*Nexus) []*Unit { return []*Unit{other.unit} }}})
	other.unit.Detach(other.a, nil)
	list := copyOrder{units: [][]byte{nameOf(r.unit), nameOf(other.unit)}, segments: [][]byte{segmentOf(0, 1, 0, 0, 8)}}.list()
	r.fails(r.a, copyCDB(len(list)), list, 0, CopyAborted, CopyUnitUnreachable)
}
