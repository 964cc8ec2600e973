package scsi

import (
	"fmt"
	"testing"
)

// Who names his own key loses it too, unless it is him who holds the reservation then.
func TestPreemptOfOnesOwnKey(t *testing.T) {
	for _, c := range []struct {
		name string
		kind ReservationType
		by   uint64
		keys string
	}{
		{"without a reservation", NoReservation, keyB, "[aaaa]"},
		{"not the holder", WriteExclusive, keyB, "[aaaa]"},
		{"the holder", WriteExclusive, keyA, "[aaaa bbbb]"},
		{"one of all registrants", WriteExclusiveAllRegistrants, keyB, "[aaaa bbbb]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.pr(r.a, saRegister, 0, 0, keyA)
			r.pr(r.b, saRegister, 0, 0, keyB)
			if c.kind != NoReservation {
				r.pr(r.a, saReserve, c.kind, keyA, 0)
			}
			n := r.b
			if c.by == keyA {
				n = r.a
			}
			r.pr(n, saPreempt, WriteExclusive, c.by, c.by)
			if _, keys := r.keys(); fmt.Sprintf("%x", keys) != c.keys {
				t.Errorf("keys %x, want %s", keys, c.keys)
			}
			r.expectTold(r.a, 0)
			r.expectTold(r.b, 0)
		})
	}
}

func TestPreemptAndAbortThatLeavesNobody(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.pr(r.a, saRegister, 0, 0, keyA)
	r.pr(r.b, saRegister, 0, 0, keyA)
	r.pr(r.b, saPreemptAndAbort, WriteExclusive, keyA, keyA)
	if _, keys := r.keys(); len(keys) != 0 {
		t.Errorf("keys %x", keys)
	}
	if code, _ := r.a.attentions.take(); code != CommandsCleared {
		t.Errorf("told %04x", code)
	}
	r.expectTold(r.a, RegistrationsPreempted)
	r.expectTold(r.b, 0)
}
