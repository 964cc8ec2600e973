package target_test

import (
	"encoding/binary"

	"github.com/opencurve/curve-nbd/iscsi"
)

// SCSI statuses and sense codes that the tests look for.
const (
	good                = 0x00
	checkCondition      = 0x02
	taskSetFull         = 0x28
	taskAborted         = 0x40
	lunNotSupported     = 0x2500
	lunsChanged         = 0x3f0e
	unexpectedData      = 0x0c0c
	incorrectDataAmount = 0x0c0d
)

func testUnitReady() []byte { return make([]byte, 6) }

func inquiry(allocation byte) []byte { return []byte{0x12, 0, 0, 0, allocation, 0} }

func blocks10(code byte, lba, blocks int) []byte {
	b := make([]byte, 10)
	b[0] = code
	binary.BigEndian.PutUint32(b[2:], uint32(lba))
	binary.BigEndian.PutUint16(b[7:], uint16(blocks))
	return b
}

func read10(lba, blocks int) []byte  { return blocks10(0x28, lba, blocks) }
func write10(lba, blocks int) []byte { return blocks10(0x2a, lba, blocks) }

// command is a SCSI command as an initiator sends it.
type command struct {
	cdb         []byte
	lun         int
	read, write bool
	expected    int
	data        []byte // of a write
	immediate   bool
	attribute   iscsi.TaskAttribute
	// Of data: how much goes with the command, and how much in Data-Out PDUs that
	// were not asked for. Whatever else goes when it is asked for.
	attached, unsolicited int
	ahs                   []byte
	tag                   uint32
	asked                 int // R2Ts that the test took itself
}

// result is how a command ended.
type result struct {
	status   byte
	sense    []byte
	data     []byte
	residual iscsi.Residual
	ins      []iscsi.DataIn
	r2ts     []iscsi.R2T
	response *iscsi.ScsiResponse // nil if the status came with data
}

// code is ASC and ASCQ of the sense data.
func (r result) code() int {
	if len(r.sense) < 14 {
		return 0
	}
	return int(r.sense[12])<<8 | int(r.sense[13])
}

func lunOf(n int) iscsi.LUN {
	l, _ := iscsi.LUNOf(n)
	return l
}

// header is the PDU header of a command, which takes its place in the window.
func (i *initiator) header(c *command) iscsi.BHS {
	if c.tag == 0 {
		c.tag = i.tag()
	}
	h := iscsi.ScsiCommand{
		Immediate: c.immediate, Final: c.unsolicited == 0, Read: c.read, Write: c.write, Attribute: c.attribute,
		AHSLength: len(c.ahs), DataLength: c.attached, LUN: lunOf(c.lun), InitiatorTaskTag: c.tag,
		ExpectedDataLength: uint32(c.expected), CmdSN: i.next(c.immediate), ExpStatSN: i.statSN,
	}
	if h.Attribute == 0 {
		h.Attribute = iscsi.AttrSimple
	}
	copy(h.CDB[:], c.cdb)
	var b iscsi.BHS
	h.Encode(&b)
	return b
}

// frames is a command with the data that goes unasked, as it travels.
func (i *initiator) frames(c *command) []byte {
	b := i.frame(i.header(c), c.ahs, c.data[:c.attached])
	if c.unsolicited > 0 {
		b = append(b, i.dataOut(c, iscsi.ReservedTag, c.attached, c.unsolicited, 8192)...)
	}
	return b
}

// dataOut is n bytes of the data, from off on, in Data-Out PDUs of at most segment
// bytes.
func (i *initiator) dataOut(c *command, ttt uint32, off, n, segment int) (b []byte) {
	for sn := uint32(0); n > 0; sn++ {
		part := min(n, segment)
		n -= part
		d := iscsi.DataOut{
			Final: n == 0, DataLength: part, LUN: lunOf(c.lun), InitiatorTaskTag: c.tag, TargetTransferTag: ttt,
			ExpStatSN: i.statSN, DataSN: sn, BufferOffset: uint32(off),
		}
		var h iscsi.BHS
		d.Encode(&h)
		b = append(b, i.frame(h, nil, c.data[off:off+part])...)
		off += part
	}
	return b
}

// start sends a command.
func (i *initiator) start(c *command) {
	i.t.Helper()
	i.raw(i.frames(c))
}

// do sends a command and carries it to its end. No other may be under way.
func (i *initiator) do(c command) result {
	i.t.Helper()
	i.start(&c)
	return i.finish(&c)
}

// finish carries a command to its end. No other may be answered meanwhile.
func (i *initiator) finish(c *command) (r result) {
	i.t.Helper()
	for {
		a := i.recv()
		if a.InitiatorTaskTag() != c.tag {
			i.t.Fatalf("%v with tag %d, want one with %d", a.Opcode(), a.InitiatorTaskTag(), c.tag)
		}
		if i.take(c, &r, a) {
			return r
		}
	}
}

// take takes one PDU for a command, and says whether it is over.
func (i *initiator) take(c *command, r *result, a answer) bool {
	i.t.Helper()
	switch a.Opcode() {
	case iscsi.OpR2T:
		var q iscsi.R2T
		must(i.t, q.Decode(&a.BHS))
		if int(q.R2TSN) != len(r.r2ts)+c.asked {
			i.t.Fatalf("R2TSN %d, want %d", q.R2TSN, len(r.r2ts)+c.asked)
		}
		r.r2ts = append(r.r2ts, q)
		end := int(q.BufferOffset) + int(q.DesiredLength)
		if end > len(c.data) || q.DesiredLength == 0 {
			i.t.Fatalf("R2T %+v for %d bytes", q, len(c.data))
		}
		i.raw(i.dataOut(c, q.TargetTransferTag, int(q.BufferOffset), int(q.DesiredLength), 32*kib))
	case iscsi.OpDataIn:
		var d iscsi.DataIn
		must(i.t, d.Decode(&a.BHS))
		if int(d.DataSN) != len(r.ins) || int(d.BufferOffset) != len(r.data) {
			i.t.Fatalf("Data-In %d at %d, want %d at %d", d.DataSN, d.BufferOffset, len(r.ins), len(r.data))
		}
		r.ins, r.data = append(r.ins, d), append(r.data, a.data...)
		if d.HasStatus {
			r.status, r.residual = d.Status, d.Residual
			return true
		}
	case iscsi.OpScsiResponse:
		s := new(iscsi.ScsiResponse)
		must(i.t, s.Decode(&a.BHS))
		r.status, r.residual, r.response = s.Status, s.Residual, s
		if int(s.ExpDataSN) != len(r.ins)+len(r.r2ts)+c.asked {
			i.t.Fatalf("ExpDataSN %d after %d Data-In and %d R2T", s.ExpDataSN, len(r.ins), len(r.r2ts))
		}
		if len(a.data) > 2 {
			r.sense = a.data[2 : 2+binary.BigEndian.Uint16(a.data)]
		}
		return true
	default:
		i.t.Fatalf("%v in the middle of a command", a.Opcode())
	}
	return false
}

// wants fails unless the command ended with that status, and sense code if any.
func (r result) wants(t interface {
	Helper()
	Fatalf(string, ...any)
}, status byte, code int) {
	t.Helper()
	if r.status != status || r.code() != code {
		t.Fatalf("%v; want status %#02x, code %#04x", r, status, code)
	}
}

// store writes data at a block, with as much of it unasked as may be.
func (i *initiator) store(lun, lba int, data []byte) {
	i.t.Helper()
	c := command{cdb: write10(lba, len(data)/blockSize), lun: lun, write: true, expected: len(data), data: data}
	i.do(c).wants(i.t, good, 0)
}

// load reads blocks.
func (i *initiator) load(lun, lba, blocks int) []byte {
	i.t.Helper()
	r := i.do(command{cdb: read10(lba, blocks), lun: lun, read: true, expected: blocks * blockSize})
	r.wants(i.t, good, 0)
	return r.data
}

// alive checks that the session is in step.
func (i *initiator) alive() {
	i.t.Helper()
	i.do(command{cdb: testUnitReady()}).wants(i.t, good, 0)
}
