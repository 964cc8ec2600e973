package scsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

func sanitizeCDB(action, flags byte, n int) []byte {
	return []byte{opSanitize, flags | action, 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0}
}

// overwrite is a SANITIZE: OVERWRITE with a pattern.
func overwrite(flags, how byte, pattern ...byte) (cdb, list []byte) {
	list = append([]byte{how, 0, byte(len(pattern) >> 8), byte(len(pattern))}, pattern...)
	return sanitizeCDB(saOverwrite, flags, len(list)), list
}

const fast = 1 << 40 // bytes in a second

func TestSanitizeErases(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(8, 1))
	r.write(testCount-8, filled(8, 1))
	r.good(r.a, sanitizeCDB(saBlockErase, 0, 0), nil, 0)
	if !allZero(r.read(0, 8)) || !allZero(r.read(testCount-8, 8)) {
		t.Error("the blocks are not erased")
	}
	b := r.good(r.a, []byte{opServiceActionIn16, saGetLBAStatus, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, nil, 256)
	if len(b) != 24 || binary.BigEndian.Uint32(b[16:]) != testCount || b[20] != statusDeallocated {
		t.Errorf("LBA status % x, want one descriptor of what is not mapped", b)
	}
}

func TestSanitizeOverwrites(t *testing.T) {
	block := filled(1, 0xaa)
	half := append(bytes.Repeat([]byte{1}, testBlock/4), bytes.Repeat([]byte{2}, testBlock/4)...)
	for _, c := range []struct {
		name    string
		how     byte
		pattern []byte
		want    []byte
	}{
		{"with a block", 1, block, block},
		{"with half a block", 1, half, append(bytes.Clone(half), half...)},
		{"with what does not divide a block", 1, []byte{1, 2, 3}, bytes.Repeat([]byte{1, 2, 3}, 171)[:testBlock]},
		{"twice", 2, []byte{0xf0}, filled(1, 0xf0)},
		{"twice, inverted between", 0x80 | 2, []byte{0xf0}, filled(1, 0x0f)},
		{"with zeros", 1, []byte{0}, filled(1, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, rigOptions{unit: Options{SanitizeRate: fast}})
			r.write(7, filled(1, 9))
			cdb, list := overwrite(0, c.how, c.pattern...)
			r.good(r.a, cdb, list, 0)
			for _, lba := range []uint64{0, 7, 511, testCount - 1} {
				if !bytes.Equal(r.read(lba, 1), c.want) {
					t.Errorf("block %d is not as the pattern says", lba)
				}
			}
		})
	}
}

func TestSanitizeRefuses(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(1, 1))
	cdbField := func(name string, cdb, out []byte) {
		t.Run(name, func(t *testing.T) { r.fails(r.a, cdb, out, 0, IllegalRequest, InvalidFieldInCDB) })
	}
	list := make([]byte, testBlock+5)
	cdbField("parameters to erase", sanitizeCDB(saBlockErase, 0, 8), list[:8])
	cdbField("parameters to exit", sanitizeCDB(saExitFailure, 0, 8), list[:8])
	cdbField("a pattern of more than a block", sanitizeCDB(saOverwrite, 0, testBlock+5), list)
	cdbField("cryptographic erase", sanitizeCDB(3, 0, 0), nil)
	cdbField("no zones", sanitizeCDB(saBlockErase, sanitizeZoned, 0), nil)
	for n := range 5 {
		cdbField("a list without a pattern", sanitizeCDB(saOverwrite, 0, n), list[:n])
	}
	for at := 2; at < 7; at++ {
		cdb := sanitizeCDB(saBlockErase, 0, 0)
		cdb[at] = 1
		cdbField("a reserved byte", cdb, nil)
	}
	for name, list := range map[string][]byte{
		"no passes":                {0, 0, 0, 1, 1},
		"a pattern of no bytes":    {1, 0, 0, 0, 1},
		"a pattern that is longer": {1, 0, 0, 2, 1},
		"a vendor's test":          {0x21, 0, 0, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r.fails(r.a, sanitizeCDB(saOverwrite, 0, len(list)), list, 0, IllegalRequest, InvalidFieldInParameter)
		})
	}
	r.good(r.a, sanitizeCDB(saExitFailure, 0, 0), nil, 0)
	r.good(r.b, []byte{opReserve6, 0, 0, 0, 0, 0}, nil, 0)
	r.conflicts(r.a, sanitizeCDB(saBlockErase, 0, 0), nil)
	r.good(r.b, []byte{opRelease6, 0, 0, 0, 0, 0}, nil, 0)
	if r.read(0, 1)[0] != 1 {
		t.Error("a refused command has erased")
	}
	protected := newRig(t, rigOptions{unit: Options{ReadOnly: true}})
	protected.fails(protected.a, sanitizeCDB(saBlockErase, 0, 0), nil, 0, DataProtect, WriteProtected)
}

// A SANITIZE under way keeps everybody off, and goes on whatever becomes of its
// command.
func TestSanitizeGoesOn(t *testing.T) {
	for name, end := range map[string]func(*rig, *Command, func()){
		"ABORT TASK":         func(r *rig, c *Command, done func()) { r.unit.Abort(c); done() },
		"LOGICAL UNIT RESET": func(r *rig, _ *Command, done func()) { r.unit.Reset(done) },
		"the session ends":   func(r *rig, _ *Command, done func()) { r.unit.Detach(r.a, done) },
	} {
		t.Run(name, func(t *testing.T) {
			held := make(chan *volume.Request, 1)
			f, wrap := heldMedium(held)
			r := newRig(t, rigOptions{wrap: wrap, unit: Options{SanitizeRate: fast}})
			let := func(q *volume.Request) { go f.Medium.Submit(q) }
			early := &Command{CDB: span16(opWrite16, 0, 0, 1), Nexus: r.b, ExpectedOut: testBlock}
			if !r.unit.Plan(early) {
				t.Fatal("not planned")
			}
			cdb, list := overwrite(0, 1, 5)
			c, done := r.start(r.a, cdb, list)
			let(<-held)
			q := <-held
			a := r.fails(r.b, turCDB, nil, 0, NotReady, NotReadySanitize)
			if s := a.Sense(); s[15] != 0x80 || binary.BigEndian.Uint16(s[16:]) != 65536/16 {
				t.Errorf("sense % x, want a progress of one in 16", s)
			}
			r.fails(r.b, span16(opRead16, 0, 0, 1), nil, testBlock, NotReady, NotReadySanitize)
			r.fails(r.b, cdb, list, 0, NotReady, NotReadySanitize)
			r.fails(r.b, []byte{opStartStopUnit, 0, 0, 0, 1, 0}, nil, 0, NotReady, NotReadySanitize)
			r.fails(r.b, []byte{opStartStopUnit, 1, 0, 0, 0x12, 0}, nil, 0, NotReady, NotReadySanitize) // refused, were it ready
			r.good(r.b, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96)
			r.good(r.b, groupsCDB, nil, 256)
			if b := r.good(r.b, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18); b[2] != byte(NotReady) || b[13] != 0x1b || b[15] != 0x80 {
				t.Errorf("sense % x", b)
			}
			early.Out = [][]byte{filled(1, 7)}
			if !r.unit.Execute(early) {
				t.Fatal("a command that was planned before waits")
			}
			if _, code := early.parseSense(); code != NotReadySanitize {
				t.Errorf("a command that was planned before: status %#x, sense % x", early.Status, early.Sense())
			}
			ended := make(chan struct{})
			end(r, c, func() { close(ended) })
			let(q)
			if (<-done); !c.Aborted {
				t.Error("the command is not aborted")
			}
			<-ended
			for range 14 {
				let(<-held)
			}
			q = <-held // the flush
			r.b.attentions.take()
			r.fails(r.b, turCDB, nil, 0, NotReady, NotReadySanitize)
			f.hold = nil
			let(q)
			r.eventuallyReady(r.b)
			if got := r.good(r.b, span16(opRead16, 0, 0, 1), nil, testBlock); !bytes.Equal(got, filled(1, 5)) {
				t.Error("the unit is not overwritten")
			}
		})
	}
}

func (r *rig) eventuallyReady(n *Nexus) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.do(n, turCDB, nil, 0).Status != Good; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("the unit does not become ready")
		}
	}
}

func TestSanitizeAtOnce(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{SanitizeRate: fast}})
	cdb, list := overwrite(sanitizeImmediate, 1, 5)
	r.good(r.a, cdb, list, 0)
	clear(list) // the command is over, and so is its payload
	r.eventuallyReady(r.a)
	if !bytes.Equal(r.read(testCount-1, 1), filled(1, 5)) {
		t.Error("the unit is not overwritten")
	}
}

func TestSanitizeThatFails(t *testing.T) {
	var broken error
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium { return &failing{m, &broken} }})
	read := span16(opRead16, 0, 0, 1)
	broken = errors.New("disk on fire")
	r.fails(r.a, sanitizeCDB(saBlockErase, 0, 0), nil, 0, MediumError, SanitizeFailed)
	r.fails(r.b, read, nil, testBlock, MediumError, SanitizeFailed)
	r.fails(r.b, sanitizeCDB(saExitFailure, 0, 0), nil, 0, IllegalRequest, InvalidFieldInCDB)
	if b := r.good(r.b, []byte{opRequestSense, 0, 0, 0, 18, 0}, nil, 18); b[2] != byte(MediumError) || b[12] != 0x31 {
		t.Errorf("sense % x", b)
	}
	r.fails(r.a, sanitizeCDB(saBlockErase, sanitizeExit, 0), nil, 0, MediumError, SanitizeFailed)
	r.fails(r.b, read, nil, testBlock, MediumError, SanitizeFailed)
	r.good(r.b, sanitizeCDB(saExitFailure, 0, 0), nil, 0)
	r.good(r.b, read, nil, testBlock)
	r.fails(r.a, sanitizeCDB(saBlockErase, 0, 0), nil, 0, MediumError, SanitizeFailed)
	broken = nil
	r.good(r.a, sanitizeCDB(saBlockErase, 0, 0), nil, 0)
	r.good(r.b, read, nil, testBlock)
}

// failing is a medium that changes nothing while there is an error.
type failing struct {
	Medium
	err *error
}

func (f *failing) Submit(r *volume.Request) {
	if *f.err != nil && r.Op.Changes() {
		r.Err = *f.err
		r.Done.RequestDone(r)
		return
	}
	f.Medium.Submit(r)
}

// One that a takeover, or the end of the gateway, has cut short is not taken for
// complete by the gateway that comes next.
func TestSanitizeCutShort(t *testing.T) {
	for name, cut := range map[string]func(*Unit){
		"by a takeover":       func(u *Unit) { u.Deactivate(nil) },
		"by the unit's close": func(u *Unit) { u.cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			store := NewMemoryStore()
			held := make(chan *volume.Request, 1)
			_, wrap := heldMedium(held)
			r := newRig(t, rigOptions{wrap: wrap, unit: Options{Reservations: store, SanitizeRate: fast}})
			cdb, list := overwrite(sanitizeImmediate, 1, 5)
			c, done := r.start(r.a, cdb, list)
			if (<-done); c.Status != Good {
				t.Fatalf("status %#x", c.Status)
			}
			q := <-held
			cut(r.unit)
			q.Err = backend.ErrStaleEpoch
			q.Done.RequestDone(q)
			r.unit.background.Wait()
			other := newRig(t, rigOptions{unit: Options{Reservations: store, SanitizeRate: fast}})
			other.fails(other.a, turCDB, nil, 0, MediumError, SanitizeFailed)
			other.good(other.a, cdb, list, 0)
			other.eventuallyReady(other.a)
		})
	}
}

// However slow the rate, nobody waits for it.
func TestSanitizeThatIsSlow(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{SanitizeRate: 1}})
	cdb, list := overwrite(0, 1, 5)
	c, done := r.start(r.a, cdb, list)
	r.unit.Abort(c)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the command does not end")
	}
	r.fails(r.b, turCDB, nil, 0, NotReady, NotReadySanitize)
}

// From its begin to its end a SANITIZE says that it needs the unit, whoever is there.
func TestSanitizeNeedsItsUnit(t *testing.T) {
	held := make(chan *volume.Request, 1)
	_, wrap := heldMedium(held)
	began, over := make(chan struct{}, 1), make(chan struct{}, 1)
	busy := func() func() {
		began <- struct{}{}
		return func() { over <- struct{}{} }
	}
	r := newRig(t, rigOptions{wrap: wrap, unit: Options{SanitizeRate: fast, Busy: busy}})
	c, done := r.start(r.a, sanitizeCDB(saBlockErase, 0, 0), nil)
	<-began
	detached := make(chan struct{})
	r.unit.Detach(r.a, func() { close(detached) })
	for last := false; !last; { // the erasing, then the flush
		q := <-held
		last = q.Op == backend.OpFlush
		if len(over) > 0 {
			t.Error("over before the last request is")
		}
		q.Done.RequestDone(q)
	}
	<-done
	if <-detached; !c.Aborted {
		t.Error("the command outlived its path")
	}
	<-over
}
