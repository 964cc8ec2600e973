package scsi

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// An eject and a SANITIZE wait for who holds blocks. A Try that gets its blocks after
// that must not touch them, though it looked at the unit before.
func TestATryThatComesLateChangesNothing(t *testing.T) {
	for name, begin := range map[string]func(*Unit){
		"eject":    func(u *Unit) { u.ejected.Store(true) },
		"SANITIZE": func(u *Unit) { u.sanitize.state.Store(uint32(sanitizeRunning)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := removableRig(t, rigOptions{})
			r.write(0, filled(1, 1))
			c := &Command{CDB: span16(opWrite16, 0, 0, 1), Nexus: r.a, ExpectedOut: testBlock}
			if !r.unit.Plan(c) {
				t.Fatal("not planned")
			}
			c.Out = [][]byte{filled(1, 2)}
			r.unit.ranges.mu.Lock()
			tried := make(chan bool, 1)
			go func() { tried <- r.unit.Try(c) }()
			untilIn(t, ".tryAcquire(")
			begin(r.unit)
			r.unit.ranges.mu.Unlock()
			if <-tried {
				t.Error("the write was done")
			}
			r.unit.ejected.Store(false)
			r.unit.sanitize.state.Store(uint32(sanitizeNone))
			if !bytes.Equal(r.read(0, 1), filled(1, 1)) {
				t.Error("the block was changed")
			}
		})
	}
}

// untilIn waits until some goroutine is in a function.
func untilIn(t *testing.T, function string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for began := time.Now(); time.Since(began) < patience; runtime.Gosched() {
		if strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), function) {
			return
		}
	}
	t.Fatalf("nobody comes to %s", function)
}

// busyChunks are never done at once.
type busyChunks struct{ backend.Chunks }

func (busyChunks) Try(*backend.Op) bool { return false }

// What was tried in vain, and then done, is one request to the volume's QoS.
func TestWhatIsTriedIsPaidForOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		cdb    []byte
		pieces int // that it is executed in
	}{
		{"read", span16(opRead16, 0, 0, 8), 1},
		{"write", span16(opWrite16, 0, 0, 8), 1},
		{"read in pieces", span16(opRead16, 0, 0, 8), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const tries = 10
				r := newRig(t, rigOptions{
					chunks: func(b backend.Chunks) backend.Chunks { return busyChunks{b} },
					qos:    backend.QoS{IOPS: 1, IOPSBurst: 1 + tries, BPS: 8 * testBlock, BPSBurst: (1 + tries) * 8 * testBlock},
				})
				r.write(0, filled(8, 1)) // the segment is there now
				began := time.Now()
				done := make(finished, 1)
				cmd := &Command{}
				for range tries {
					cmd.Reset()
					cmd.CDB, cmd.Nexus, cmd.ExpectedIn, cmd.ExpectedOut, cmd.Done = c.cdb, r.a, 8*testBlock, 8*testBlock, done
					if !r.unit.Plan(cmd) {
						t.Fatalf("sense % x", cmd.Sense())
					}
					b := filled(8, 2)
					cmd.In, cmd.Out = [][]byte{b}, [][]byte{b}
					if r.unit.Try(cmd) {
						t.Fatal("done at once")
					}
					if c.pieces == 2 {
						cmd.In = [][]byte{b[:testBlock], b[testBlock:]}
					}
					if !r.unit.Execute(cmd) {
						<-done
					}
				}
				if took := time.Since(began); took > 0 {
					t.Errorf("waited for %v", took)
				}
				// Nor is anything free for who comes next.
				if r.read(0, 8); time.Since(began) == 0 {
					t.Error("one more did not wait")
				}
			})
		})
	}
}
