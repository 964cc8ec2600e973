package scsi

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// FuzzCDB gives a unit any CDB with any payload in any pieces. Whatever it is, the
// command ends, with a status that fits.
func FuzzCDB(f *testing.F) {
	for i := range table {
		op := &table[i]
		cdb := make([]byte, op.size)
		cdb[0] = op.code
		if op.action != noAction {
			cdb[1] = byte(op.action)
		}
		f.Add(cdb, []byte{}, uint16(0), uint16(0))
		for at := 2; at < op.size; at++ {
			cdb[at] = op.mask[at] & 1
		}
		f.Add(cdb, filled(2, 0), uint16(512), uint16(512))
	}
	f.Add(span16(opRead16, 0, 1, 16), []byte{}, uint16(512), uint16(8192))
	f.Add(span16(opOrWrite16, 0, 1, 16), filled(16, 1), uint16(512), uint16(0))
	f.Add(unmapCDB(2), unmapData(0, 8, 16, 100), uint16(3), uint16(0))
	cdb, list := prOut(saRegister, 0, 0, 1, 0)
	f.Add(cdb, list, uint16(24), uint16(0))
	store := NewMemoryStore()
	r := newRig(f, rigOptions{unit: Options{Reservations: store, SanitizeRate: fast, Groups: twoGroups()}})
	cdb, list = overwrite(0, 2, 1, 2, 3)
	f.Add(cdb, list, uint16(0), uint16(0))
	list = copyOrder{id: 1, units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, 0, 100, 600)}}.list()
	f.Add(copyCDB(len(list)), list, uint16(0), uint16(0))
	f.Fuzz(func(t *testing.T, cdb, out []byte, piece, room uint16) {
		for r.unit.sanitize.is() == sanitizeRunning { // what an immediate one left
			time.Sleep(time.Millisecond)
		}
		// As at the start, so that a finding repeats.
		store.state = nil
		r.unit.adopt(Reservations{}, nil)
		r.unit.Reset(func() {})
		r.a.attentions.take()
		r.b.attentions.take()
		n := r.a
		if piece&1 != 0 {
			n = r.b
		}
		done := make(finished, 1)
		c := &Command{CDB: cdb, Nexus: n, ExpectedOut: int64(len(out)), ExpectedIn: int64(room), Done: done}
		if r.unit.Plan(c) {
			c.Out = pieces(out, int(piece))
			c.In = pieces(make([]byte, min(c.Transfer, int64(room))), int(piece))
			if !r.unit.Execute(c) {
				select {
				case <-done:
				case <-time.After(patience):
					t.Fatalf("% x does not end", cdb)
				}
			}
		}
		switch {
		case c.Aborted:
			t.Error("aborted by nobody")
		case c.Status == CheckCondition && len(c.Sense()) < 8, c.Status != CheckCondition && len(c.Sense()) > 0:
			t.Errorf("status %#x with sense % x", c.Status, c.Sense())
		case c.Status != Good && c.InLen != 0, c.InLen > c.Transfer:
			t.Errorf("status %#x, %d bytes of %d", c.Status, c.InLen, c.Transfer)
		}
	})
}

func pieces(b []byte, size int) (all [][]byte) {
	for size > 0 && len(b) > size {
		all = append(all, b[:size])
		b = b[size:]
	}
	return append(all, b)
}

// FuzzReservations runs any orders, and decodes any state: what apply makes of a
// valid state is valid, and survives encoding.
func FuzzReservations(f *testing.F) {
	f.Add([]byte(`{"registrations":[{"initiator":"x","port":1,"key":1}],"type":1,"initiator":"x","port":1}`), []byte("register reserve preempt"))
	f.Add([]byte(nil), []byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 1, 5, 5, 1, 2, 1, 8})
	f.Fuzz(func(t *testing.T, state, orders []byte) {
		r, err := DecodeReservations(state)
		if err != nil {
			return
		}
		names := []string{"a", "b", "c"}
		for ; len(orders) >= 7; orders = orders[7:] {
			o := &order{action: int(orders[0] % 8), initiator: names[orders[1]%3], port: uint16(orders[2] % 3),
				key: uint64(orders[3] % 4), actionKey: uint64(orders[4] % 4), kind: allTypes[orders[5]%6],
				specific: orders[6]&1 != 0, unregister: orders[6]&2 != 0, toInitiator: names[orders[6]>>2%3], toPort: 1}
			if orders[6]&64 != 0 {
				o.ports = []uint16{0, 1, 2}
			}
			if o.specific {
				o.others = names[1:2]
			}
			before := r.Encode()
			next, no := r.apply(o)
			if !bytes.Equal(r.Encode(), before) {
				t.Fatal("apply changed what it was given")
			}
			if no != nil && !bytes.Equal(next.Encode(), before) {
				t.Fatal("a refused order changed something")
			}
			if err := next.validate(); err != nil {
				t.Fatalf("%+v makes of %s: %v", o, before, err)
			}
			again, err := DecodeReservations(next.Encode())
			if err != nil || !bytes.Equal(again.Encode(), next.Encode()) {
				t.Fatalf("%s does not survive encoding: %v", next.Encode(), err)
			}
			for _, n := range r.notices(&next, o.initiator, o.port) {
				if n.initiator == o.initiator && n.port == o.port {
					t.Fatal("the one who ordered is told")
				}
			}
			r = next
		}
		if name, n := parseTransportID(state); n > 0 {
			if again, _ := parseTransportID(transportID(name)); again != name {
				t.Fatalf("TransportID %q became %q", name, again)
			}
		}
	})
}

func TestTransportIDs(t *testing.T) {
	b := transportID(initiatorA)
	if b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-4 || len(b)%4 != 0 {
		t.Errorf("TransportID % x", b)
	}
	if name, n := parseTransportID(append(b, 1, 2, 3)); name != initiatorA || n != len(b) {
		t.Errorf("%q of %d bytes", name, n)
	}
	for i := range len(b) {
		if _, n := parseTransportID(b[:i]); n != 0 {
			t.Errorf("%d bytes were taken", i)
		}
	}
}
