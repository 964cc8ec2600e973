package scsi

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait for something that must happen.
	patience  = 30 * time.Second
	testSize  = 16 << 20
	testBlock = 512
	testCount = testSize / testBlock
)

// rig is a unit on a volume in memory, with two paths from different initiators
// whose first unit attention is gone.
type rig struct {
	t       testing.TB
	gateway *gateway.Gateway
	unit    *Unit
	a, b    *Nexus
	tries   bool // before it executes
}

type rigOptions struct {
	blockSize int64
	spec      backend.VolumeSpec // instead of one of testSize
	readOnly  bool
	identity  string
	wrap      func(Medium) Medium
	chunks    func(backend.Chunks) backend.Chunks
	qos       backend.QoS
	unit      Options
}

const (
	initiatorA = "iqn.2026-11.test:a,i,0x400000000001"
	initiatorB = "iqn.2026-11.test:b,i,0x400000000002"
)

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	if o.blockSize == 0 {
		o.blockSize = testBlock
	}
	b, err := embedded.OpenMemory(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Chunks so small that ordinary requests fall on several.
	spec := backend.VolumeSpec{Name: "v", Size: testSize, QoS: o.qos,
		Geometry: backend.Geometry{BlockSize: o.blockSize, ChunkSize: 256 << 10, SegmentSize: 2 << 20}}
	if o.spec.Size > 0 {
		spec = o.spec
	}
	chunks := b.Chunks()
	if o.chunks != nil {
		chunks = o.chunks(chunks)
	}
	g := gateway.New(b.Meta(), chunks, gateway.Options{ReadOnly: o.readOnly})
	if _, err := g.CreateVolume(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	h, err := g.Open(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	o.unit.Medium, o.unit.Identity = h, "test"+o.identity
	if o.wrap != nil {
		o.unit.Medium = o.wrap(h)
	}
	u, err := New(t.Context(), o.unit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.Close()
		h.Release()
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, gateway: g, unit: u}
	r.a = u.Attach(initiatorA, Port{ID: 1, Name: "iqn.target,t,0x0001", Device: "iqn.target"})
	r.b = u.Attach(initiatorB, Port{ID: 1, Name: "iqn.target,t,0x0001", Device: "iqn.target"})
	for _, n := range []*Nexus{r.a, r.b} {
		n.attentions.take()
	}
	return r
}

// finished is a Completer to wait for.
type finished chan *Command

func (f finished) CommandDone(c *Command) { f <- c }

// answer is the outcome of a command.
type answer struct {
	*Command
	data []byte
}

// do runs a command with a payload, or room for room bytes.
func (r *rig) do(n *Nexus, cdb, out []byte, room int) answer {
	r.t.Helper()
	c := &Command{CDB: cdb, Nexus: n, ExpectedOut: int64(len(out)), ExpectedIn: int64(room)}
	data := r.run(c, func() {
		if c.Direction == DataOut {
			c.Out = [][]byte{out}
		}
	})
	return answer{c, data}
}

// run plans, supplies, executes and waits.
func (r *rig) run(c *Command, supply func()) []byte {
	r.t.Helper()
	if !r.unit.Plan(c) {
		return nil
	}
	var data []byte
	if c.Direction == DataIn && c.In == nil {
		data = make([]byte, min(c.Transfer, c.ExpectedIn))
		c.In = [][]byte{data}
	}
	supply()
	done := make(finished, 1)
	c.Done = done
	if !(r.tries && r.unit.Try(c)) && !r.unit.Execute(c) {
		select {
		case <-done:
		case <-time.After(patience):
			r.t.Fatalf("%s % x does not end", c.Name(), c.CDB)
		}
	}
	return data[:min(int64(len(data)), c.InLen)]
}

// good runs a command that must succeed and returns its data.
func (r *rig) good(n *Nexus, cdb, out []byte, room int) []byte {
	r.t.Helper()
	a := r.do(n, cdb, out, room)
	if a.Status != Good {
		r.t.Fatalf("%s % x: status %#x, sense % x", a.Name(), cdb, a.Status, a.Sense())
	}
	return a.data
}

// fails runs a command that must end with this sense.
func (r *rig) fails(n *Nexus, cdb, out []byte, room int, key Key, code Code) answer {
	r.t.Helper()
	a := r.do(n, cdb, out, room)
	gotKey, gotCode := a.parseSense()
	if a.Status != CheckCondition || gotKey != key || gotCode != code {
		r.t.Fatalf("%s % x: status %#x, sense %x/%04x, want %x/%04x", a.Name(), cdb, a.Status, gotKey, gotCode, key, code)
	}
	return a
}

func (r *rig) conflicts(n *Nexus, cdb, out []byte) {
	r.t.Helper()
	if a := r.do(n, cdb, out, 255); a.Status != ReservationConflict {
		r.t.Fatalf("%s % x: status %#x, sense % x, want a reservation conflict", a.Name(), cdb, a.Status, a.Sense())
	}
}

func (c *Command) parseSense() (Key, Code) {
	b := c.Sense()
	switch {
	case len(b) == 0:
		return 0, 0
	case b[0]&0x7f == 0x72:
		return Key(b[1] & 0xf), Code(binary.BigEndian.Uint16(b[2:]))
	}
	return Key(b[2] & 0xf), Code(binary.BigEndian.Uint16(b[12:]))
}

// span16 is a CDB with 8 bytes of block and 4 of count.
func span16(code, flags byte, lba uint64, count uint32) []byte {
	b := make([]byte, 16)
	b[0], b[1] = code, flags
	binary.BigEndian.PutUint64(b[2:], lba)
	binary.BigEndian.PutUint32(b[10:], count)
	return b
}

// spanOf is a CDB of any of the four sizes.
func spanOf(size int, code, flags byte, lba uint64, count uint32) []byte {
	b := make([]byte, size)
	b[0], b[1] = code, flags
	switch size {
	case 6:
		b[1], b[2], b[3], b[4] = byte(lba>>16), byte(lba>>8), byte(lba), byte(count)
	case 10:
		binary.BigEndian.PutUint32(b[2:], uint32(lba))
		binary.BigEndian.PutUint16(b[7:], uint16(count))
	case 12:
		binary.BigEndian.PutUint32(b[2:], uint32(lba))
		binary.BigEndian.PutUint32(b[6:], count)
	default:
		return span16(code, flags, lba, count)
	}
	return b
}

// filled is n blocks of one byte.
func filled(n int, v byte) []byte {
	b := make([]byte, n*testBlock)
	for i := range b {
		b[i] = v
	}
	return b
}

// read returns n blocks.
func (r *rig) read(lba uint64, n int) []byte {
	r.t.Helper()
	return r.good(r.a, span16(opRead16, 0, lba, uint32(n)), nil, n*testBlock)
}

func (r *rig) write(lba uint64, data []byte) {
	r.t.Helper()
	r.good(r.a, span16(opWrite16, 0, lba, uint32(len(data)/testBlock)), data, 0)
}

// faulty is a medium that fails, or holds back, what a test says.
type faulty struct {
	Medium
	// fail returns the outcome of a request, nil for the medium's own.
	fail func(*volume.Request) error
	// held receives submitted requests that are not let through.
	hold func(*volume.Request) bool
}

func (f *faulty) Try(r *volume.Request) bool {
	if f.fail != nil {
		if err := f.fail(r); err != nil {
			r.Err = err
			return true
		}
	}
	if f.hold != nil {
		return false
	}
	return f.Medium.Try(r)
}

func (f *faulty) Submit(r *volume.Request) {
	if f.hold != nil && f.hold(r) {
		return
	}
	f.Medium.Submit(r)
}
