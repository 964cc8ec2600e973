package scsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// copyOrder builds the parameter list of an EXTENDED COPY.
type copyOrder struct {
	id, usage byte
	units     [][]byte
	segments  [][]byte
}

// nameOf is a CSCD descriptor of a unit.
func nameOf(u *Unit) []byte {
	b := make([]byte, copyUnit)
	b[0], b[4], b[5], b[7] = copyUnitNamed, codeBinary, designatorNAA, 8
	binary.BigEndian.PutUint64(b[8:], u.names.naa)
	binary.BigEndian.PutUint32(b[28:], uint32(u.blockSize))
	return b
}

func segmentOf(from, to uint16, source, target uint64, count uint16) []byte {
	b := make([]byte, copySegment)
	b[0], b[3] = copyBlocks, copySegment-4
	binary.BigEndian.PutUint16(b[4:], from)
	binary.BigEndian.PutUint16(b[6:], to)
	binary.BigEndian.PutUint16(b[10:], count)
	binary.BigEndian.PutUint64(b[12:], source)
	binary.BigEndian.PutUint64(b[20:], target)
	return b
}

func (o copyOrder) list() []byte {
	units, segments := bytes.Join(o.units, nil), bytes.Join(o.segments, nil)
	b := make([]byte, copyHeader)
	b[0], b[1] = o.id, o.usage
	binary.BigEndian.PutUint16(b[2:], uint16(len(units)))
	binary.BigEndian.PutUint32(b[8:], uint32(len(segments)))
	return append(append(b, units...), segments...)
}

func copyCDB(n int) []byte {
	b := make([]byte, 16)
	b[0] = opExtendedCopy
	binary.BigEndian.PutUint32(b[10:], uint32(n))
	return b
}

func copyStatusCDB(action, id byte) []byte {
	return []byte{opReceiveCopy, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0}
}

// counting are n blocks that all differ.
func counting(n int, from uint64) []byte {
	b := make([]byte, n*testBlock)
	for i := range n {
		binary.BigEndian.PutUint64(b[i*testBlock:], from+uint64(i))
	}
	return b
}

func (r *rig) copies(o copyOrder) {
	r.t.Helper()
	list := o.list()
	r.good(r.a, copyCDB(len(list)), list, 0)
}

func TestExtendedCopy(t *testing.T) {
	r := newRig(t, rigOptions{})
	name := [][]byte{nameOf(r.unit)}
	const n = 1500 // several pieces, and a part of one
	data := counting(n, 1)
	r.write(10, data)
	r.copies(copyOrder{units: name, segments: [][]byte{segmentOf(0, 0, 10, 9000, n)}})
	if !bytes.Equal(r.read(9000, n), data) {
		t.Error("not what was copied")
	}
	r.copies(copyOrder{units: name, segments: [][]byte{segmentOf(0, 0, 10, 20000, 1), segmentOf(0, 0, 12, 20001, 2), segmentOf(0, 0, 0, 0, 0)}})
	if !bytes.Equal(r.read(20000, 3), append(counting(1, 1), counting(2, 3)...)) {
		t.Error("not what the segments say")
	}
	for what, target := range map[string]uint64{"forward": 10 + 700, "back": 10} {
		r.write(10+300, data)
		r.copies(copyOrder{units: name, segments: [][]byte{segmentOf(0, 0, 10+300, target, n)}})
		if !bytes.Equal(r.read(target, n), data) {
			t.Errorf("blocks copied %s onto themselves are not whole", what)
		}
	}
	// What is not mapped there does not become so here.
	r.write(16384, filled(2048, 3))
	r.copies(copyOrder{units: name, segments: [][]byte{segmentOf(0, 0, 24576, 16384, 2048)}})
	status := []byte{opServiceActionIn16, saGetLBAStatus, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 0, 0, 0}
	if b := r.good(r.a, status, nil, 256); b[20] != statusDeallocated || !allZero(r.read(16384, 2048)) {
		t.Errorf("LBA status % x", b)
	}
	r.good(r.a, copyCDB(0), nil, 0)
	r.copies(copyOrder{})
}

func TestCopyToAnotherUnit(t *testing.T) {
	var peers []*Unit
	r := newRig(t, rigOptions{unit: Options{Peers: func(*Nexus) []*Unit { return peers }}})
	other := newRig(t, rigOptions{identity: "other"})
	r.write(5, counting(2000, 7))
	o := copyOrder{units: [][]byte{nameOf(r.unit), nameOf(other.unit)}, segments: [][]byte{segmentOf(0, 1, 5, 100, 2000)}}
	list := o.list()
	r.fails(r.a, copyCDB(len(list)), list, 0, CopyAborted, CopyUnitUnreachable)
	peers = []*Unit{other.unit}
	r.copies(o)
	if !bytes.Equal(other.read(100, 2000), counting(2000, 7)) {
		t.Error("not what was copied")
	}
	back := copyOrder{units: o.units, segments: [][]byte{segmentOf(1, 0, 100, 9000, 2000)}}
	r.copies(back)
	if !bytes.Equal(r.read(9000, 2000), counting(2000, 7)) {
		t.Error("not what was copied back")
	}
	t.Run("waits for a command there", func(t *testing.T) {
		h := &Command{Nexus: other.b, unit: other.unit}
		if !other.unit.lock(h, 0, testCount, true) {
			t.Fatal("no lock")
		}
		_, done := r.start(r.a, copyCDB(len(list)), list)
		select {
		case <-done:
			t.Fatal("copied blocks that are held")
		default:
		}
		h.hold.release()
		if c := <-done; c.Status != Good {
			t.Errorf("status %#x, sense % x", c.Status, c.Sense())
		}
	})
	t.Run("not what is reserved there", func(t *testing.T) {
		other.good(other.b, []byte{opReserve6, 0, 0, 0, 0, 0}, nil, 0)
		r.fails(r.a, copyCDB(len(list)), list, 0, CopyAborted, CopyUnitUnreachable)
		other.good(other.b, []byte{opRelease6, 0, 0, 0, 0, 0}, nil, 0)
	})
	t.Run("not where it is in standby", func(t *testing.T) {
		left := make(chan struct{})
		other.unit.Deactivate(func() { close(left) })
		<-left
		r.fails(r.a, copyCDB(len(list)), list, 0, CopyAborted, CopyUnitUnreachable)
	})
}

func TestCopyRefuses(t *testing.T) {
	r := newRig(t, rigOptions{})
	name, one := nameOf(r.unit), segmentOf(0, 0, 0, 100, 1)
	with := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	times := func(b []byte, n int) (all [][]byte) {
		for range n {
			all = append(all, b)
		}
		return all
	}
	whole := copyOrder{units: [][]byte{name}, segments: [][]byte{one}}.list()
	for _, c := range []struct {
		name string
		list []byte
		key  Key
		code Code
	}{
		{"a header cut off", whole[:15], IllegalRequest, ParameterListLength},
		{"a unit cut off", whole[:47], IllegalRequest, ParameterListLength},
		{"a segment cut off", whole[:len(whole)-1], IllegalRequest, ParameterListLength},
		{"half a segment", copyOrder{units: [][]byte{name}, segments: [][]byte{one, one[:14]}}.list(), IllegalRequest, ParameterListLength},
		{"half a unit", copyOrder{units: [][]byte{name[:16]}}.list(), IllegalRequest, InvalidFieldInParameter},
		{"more than a list holds", copyOrder{units: times(name, 9), segments: times(one, 33)}.list(), IllegalRequest, ParameterListLength},
		{"too many units", copyOrder{units: times(name, 9), segments: [][]byte{one}}.list(), IllegalRequest, TooManyCopyUnits},
		{"too many segments", copyOrder{units: [][]byte{name}, segments: times(one, 33)}.list(), IllegalRequest, TooManySegments},
		{"a unit named otherwise", copyOrder{units: [][]byte{with(name, 0, 0xe0)}, segments: [][]byte{one}}.list(), IllegalRequest, UnsupportedCopyUnit},
		{"a unit that is a tape", copyOrder{units: [][]byte{with(name, 1, 1)}}.list(), IllegalRequest, UnsupportedCopyUnit},
		{"a name of 200 bytes", copyOrder{units: [][]byte{with(name, 7, 200)}}.list(), IllegalRequest, InvalidFieldInParameter},
		{"a name that nobody has", copyOrder{units: [][]byte{with(name, 12, ^name[12])}}.list(), CopyAborted, CopyUnitUnreachable},
		{"blocks of another size", copyOrder{units: [][]byte{with(name, 30, 16)}}.list(), IllegalRequest, InvalidFieldInParameter},
		{"a segment of another kind", copyOrder{units: [][]byte{name}, segments: [][]byte{with(one, 0, 3)}}.list(), IllegalRequest, UnsupportedSegment},
		{"a segment of another length", copyOrder{units: [][]byte{name}, segments: [][]byte{with(one, 3, 20)}}.list(), IllegalRequest, InvalidFieldInParameter},
		{"a source that is not listed", copyOrder{units: [][]byte{name}, segments: [][]byte{segmentOf(1, 0, 0, 100, 1)}}.list(), CopyAborted, UnreachableCopyUnit},
		{"a target that is not listed", copyOrder{units: [][]byte{name}, segments: [][]byte{segmentOf(0, 1, 0, 100, 1)}}.list(), CopyAborted, UnreachableCopyUnit},
		{"a source past the end", copyOrder{units: [][]byte{name}, segments: [][]byte{one, segmentOf(0, 0, testCount, 100, 1)}}.list(), CopyAborted, NoAdditionalSense},
		{"a target past the end", copyOrder{units: [][]byte{name}, segments: [][]byte{one, segmentOf(0, 0, 0, testCount-1, 2)}}.list(), CopyAborted, NoAdditionalSense},
		{"a target that wraps", copyOrder{units: [][]byte{name}, segments: [][]byte{segmentOf(0, 0, 0, 1<<64-1, 2)}}.list(), CopyAborted, NoAdditionalSense},
		{"inline data", with(whole, 15, 1), IllegalRequest, InlineDataLength},
		{"a usage that is reserved", with(whole, 1, 0x08), IllegalRequest, InvalidFieldInParameter},
		{"no list but an identifier", with(with(whole, 1, copyListAnonymous), 0, 1), IllegalRequest, InvalidFieldInParameter},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.write(0, filled(1, 1))
			r.write(100, filled(1, 2))
			r.fails(r.a, copyCDB(len(c.list)), c.list, 0, c.key, c.code)
			if r.read(100, 1)[0] != 2 {
				t.Error("copied something all the same")
			}
		})
	}
	protected := newRig(t, rigOptions{unit: Options{ReadOnly: true}})
	protected.fails(protected.a, copyCDB(len(whole)), whole, 0, DataProtect, WriteProtected)
}

func TestCopyResults(t *testing.T) {
	var broken error
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium {
		return &faulty{Medium: m, fail: func(q *volume.Request) error {
			if q.Off >= testSize/2 {
				return broken
			}
			return nil
		}}
	}})
	r.write(0, filled(2048, 1))
	o := copyOrder{id: 4, units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, 0, 4096, 2048)}}
	r.fails(r.a, copyStatusCDB(saCopyStatus, 4), nil, 1024, IllegalRequest, InvalidFieldInCDB)
	r.copies(o)
	r.fails(r.b, copyStatusCDB(saCopyStatus, 4), nil, 1024, IllegalRequest, InvalidFieldInCDB)
	if b := r.good(r.a, copyStatusCDB(saCopyStatus, 4), nil, 1024); !bytes.Equal(b, []byte{0, 0, 0, 8, 1, 0, 1, 1, 0, 0, 4, 0}) {
		t.Errorf("status % x", b)
	}
	r.fails(r.a, copyStatusCDB(saCopyStatus, 4), nil, 1024, IllegalRequest, InvalidFieldInCDB)

	o.usage = copyListDiscard
	r.copies(o)
	r.fails(r.a, copyStatusCDB(saCopyStatus, 4), nil, 1024, IllegalRequest, InvalidFieldInCDB)

	o.usage, broken = 0, errors.New("broken")
	o.segments = append(o.segments, segmentOf(0, 0, 0, testCount/2, 1))
	list := o.list()
	r.fails(r.a, copyCDB(len(list)), list, 0, CopyAborted, WriteError)
	if b := r.good(r.a, copyStatusCDB(saCopyStatus, 4), nil, 1024); b[4] != 2 || b[6] != 1 {
		t.Errorf("status % x, want one segment, then errors", b)
	}
	broken = backend.ErrStaleEpoch
	r.fails(r.a, copyCDB(len(list)), list, 0, NotReady, NotReadyStandby)
	broken = nil

	for i := range 100 {
		o.id = byte(i)
		r.copies(o)
	}
	if n := len(r.a.copies.results); n != maxCopyResults {
		t.Errorf("%d results are kept", n)
	}
	b := r.good(r.a, copyStatusCDB(saCopyParameters, 0), nil, 1024)
	if len(b) != 46 || b[3] != 42 || b[9] != maxCopyUnits || b[11] != maxCopySegments || b[37] != 9 || b[43] != 2 {
		t.Errorf("parameters % x", b)
	}
	if inquiry := r.good(r.a, []byte{opInquiry, 0, 0, 0, 96, 0}, nil, 96); inquiry[5]&8 == 0 {
		t.Error("INQUIRY does not tell of copies")
	}
}

func TestCopyUnderWay(t *testing.T) {
	held := make(chan *volume.Request, 1)
	f, wrap := heldMedium(held)
	r := newRig(t, rigOptions{wrap: wrap})
	list := copyOrder{id: 1, units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, 0, 4096, 2048)}}.list()
	c, done := r.start(r.a, copyCDB(len(list)), list)
	q := <-held
	if b := r.good(r.a, copyStatusCDB(saCopyStatus, 1), nil, 1024); b[4] != 0 {
		t.Errorf("status % x, want in progress", b)
	}
	r.fails(r.a, copyCDB(len(list)), list, 0, IllegalRequest, OperationInProgress)
	ended := make(chan struct{})
	r.unit.AbortTaskSet(r.a, func() { close(ended) })
	f.hold = nil
	q.Done.RequestDone(q)
	<-ended
	if <-done; !c.Aborted {
		t.Error("not aborted")
	}
	if b := r.good(r.a, copyStatusCDB(saCopyStatus, 1), nil, 1024); b[4] != 2 {
		t.Errorf("status % x, want ended with errors", b)
	}
}

// A VERIFY of the whole disk keeps no COMPARE AND WRITE from its blocks, nor from
// the memory that it needs.
func TestLongCommandsKeepNobodyOut(t *testing.T) {
	held := make(chan *volume.Request, scratchMax)
	f := &faulty{}
	f.hold = func(q *volume.Request) bool {
		if q.Len != scratchSize {
			return false
		}
		held <- q
		return true
	}
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium { f.Medium = m; return f }})
	var verifies []finished
	for range scratchMax {
		_, done := r.start(r.a, span16(opVerify16, 0, 0, testCount), nil)
		verifies = append(verifies, done)
	}
	r.good(r.b, compareCDB(8, 1), append(filled(1, 0), filled(1, 1)...), 0)
	r.unit.AbortTaskSet(r.a, func() {})
	for range scratchMax {
		q := <-held
		q.Done.RequestDone(q)
	}
	for _, done := range verifies {
		<-done
	}
}

// Nor do VERIFYs of the whole disk, as many as there is memory for, keep it from those
// that wait with blocks in hand.
func TestLongCommandsTakeTurns(t *testing.T) {
	held := make(chan *volume.Request, 2*scratchMax)
	f := &faulty{}
	f.hold = func(q *volume.Request) bool {
		if q.Len != scratchSize {
			return false
		}
		held <- q
		return true
	}
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium { f.Medium = m; return f }})
	ended := make(finished, scratchMax)
	for range scratchMax {
		c := &Command{CDB: span16(opVerify16, 0, 0, testCount), Nexus: r.a, Done: ended}
		if !r.unit.Plan(c) || r.unit.Execute(c) {
			t.Fatalf("status %#x", c.Status)
		}
	}
	c, written := r.start(r.b, span16(opWriteVerify16, 0x02, 8, 1), filled(1, 1))
	for waiting := 0; waiting == 0; runtime.Gosched() { // for memory
		r.unit.bulk.mu.Lock()
		waiting = len(r.unit.bulk.waiting)
		r.unit.bulk.mu.Unlock()
	}
	q := <-held
	q.Done.RequestDone(q)
	select {
	case <-written:
		if c.Status != Good {
			t.Errorf("status %#x, sense % x", c.Status, c.Sense())
		}
	case <-time.After(patience):
		t.Error("a WRITE AND VERIFY waits for the VERIFYs to end")
	}
	r.unit.AbortTaskSet(r.a, func() {})
	for left := scratchMax; left > 0; {
		select {
		case q := <-held:
			q.Done.RequestDone(q)
		case <-ended:
			left--
		}
	}
}

// A copy waits for blocks with memory in hand, a VERIFY for memory with blocks in
// hand: of the same memory they would wait for each other for ever.
func TestCopiesThatWaitForBlocksKeepNoMemory(t *testing.T) {
	r := newRig(t, rigOptions{})
	h := &Command{Nexus: r.b, unit: r.unit}
	if !r.unit.lock(h, 0, 8, true) {
		t.Fatal("no lock")
	}
	var copies []finished
	for i := range scratchMax {
		list := copyOrder{id: byte(i), units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, 0, 100, 8)}}.list()
		_, done := r.start(r.a, copyCDB(len(list)), list)
		copies = append(copies, done)
	}
	r.good(r.b, span16(opVerify16, 2, 200, 1), filled(1, 0), 0)
	h.hold.release()
	for _, done := range copies {
		if c := <-done; c.Status != Good {
			t.Errorf("status %#x, sense % x", c.Status, c.Sense())
		}
	}
}
