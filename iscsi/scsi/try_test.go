package scsi

import (
	"bytes"
	"runtime"
	"strings"
	"testing"
	"time"
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
