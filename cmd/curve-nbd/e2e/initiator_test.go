package e2e

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
)

// initiator is one that does as the test says: a session to unit 0 of vm1, and one
// command at a time.
type initiator struct {
	t            testing.TB
	nc           net.Conn
	r            *bufio.Reader
	tag          uint32
	cmdSN, expSN uint32
}

// scsiResult is how a command ended.
type scsiResult struct {
	status byte
	sense  []byte
	data   []byte
}

// SCSI statuses.
const (
	scsiGood           = 0x00
	scsiCheckCondition = 0x02
	scsiBusy           = 0x08
	scsiConflict       = 0x18
)

// isUnitAttention says that the command was not done, for something else to be told.
func (r scsiResult) isUnitAttention() bool {
	return r.status == scsiCheckCondition && len(r.sense) > 2 && r.sense[2]&0xf == 6
}

// login logs an initiator in at a gateway.
func (g *gateway) login(t testing.TB, name string) *initiator {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(g.address("iscsi"), "tcp:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	i := &initiator{t: t, nc: nc, r: bufio.NewReader(nc), cmdSN: 1}
	i.loginStage(iscsi.StageSecurity, iscsi.StageOperational, "InitiatorName="+name, "TargetName="+vm1, "SessionType=Normal", "AuthMethod=None")
	i.loginStage(iscsi.StageOperational, iscsi.StageFullFeature, "InitialR2T=Yes", "ImmediateData=Yes", "MaxRecvDataSegmentLength=65536")
	return i
}

func (i *initiator) loginStage(now, next iscsi.Stage, keys ...string) {
	i.t.Helper()
	text := []byte(strings.Join(keys, "\x00") + "\x00")
	q := iscsi.LoginRequest{Transit: true, Current: now, Next: next, ISID: iscsi.ISID{0x80, 1, 2, 3, 4, 5}, CmdSN: i.cmdSN, ExpStatSN: i.expSN, DataLength: len(text)}
	var b iscsi.BHS
	q.Encode(&b)
	i.send(b, text)
	b, _ = i.receive()
	var a iscsi.LoginResponse
	if err := a.Decode(&b); err != nil || a.Status != iscsi.StatusSuccess {
		i.t.Fatalf("login: %v, %v", a.Status, err)
	}
	i.expSN = a.StatSN + 1
}

func (i *initiator) send(b iscsi.BHS, data []byte) {
	i.t.Helper()
	pdu := append(b[:], data...)
	pdu = append(pdu, make([]byte, iscsi.Padded(len(data))-len(data))...)
	if _, err := i.nc.Write(pdu); err != nil {
		i.t.Fatal(err)
	}
}

func (i *initiator) receive() (b iscsi.BHS, data []byte) {
	i.t.Helper()
	_ = i.nc.SetReadDeadline(time.Now().Add(patience))
	_, err := io.ReadFull(i.r, b[:])
	if err == nil {
		data = make([]byte, iscsi.Padded(b.DataLength()))
		_, err = io.ReadFull(i.r, data)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return b, data[:b.DataLength()]
}

// start sends a command: out goes with it, and room is for what it reads.
func (i *initiator) start(cdb, out []byte, room int) {
	i.t.Helper()
	i.tag++
	q := iscsi.ScsiCommand{
		Final: true, Read: room > 0, Write: len(out) > 0, Attribute: iscsi.AttrSimple, InitiatorTaskTag: i.tag,
		DataLength: len(out), ExpectedDataLength: uint32(len(out) + room), CmdSN: i.cmdSN, ExpStatSN: i.expSN,
	}
	copy(q.CDB[:], cdb)
	i.cmdSN++
	var b iscsi.BHS
	q.Encode(&b)
	i.send(b, out)
}

// finish receives the answer to the last command.
func (i *initiator) finish() (r scsiResult) {
	i.t.Helper()
	for {
		b, data := i.receive()
		switch b.Opcode() {
		case iscsi.OpDataIn:
			var d iscsi.DataIn
			if err := d.Decode(&b); err != nil {
				i.t.Fatal(err)
			}
			if r.data = append(r.data, data...); d.HasStatus {
				i.expSN, r.status = binary.BigEndian.Uint32(b[24:])+1, d.Status
				return r
			}
		case iscsi.OpScsiResponse:
			var s iscsi.ScsiResponse
			if err := s.Decode(&b); err != nil {
				i.t.Fatal(err)
			}
			i.expSN, r.status = binary.BigEndian.Uint32(b[24:])+1, s.Status
			if len(data) > 2 {
				r.sense = data[2:]
			}
			return r
		case iscsi.OpNopIn: // whether it is there
			var n iscsi.NopIn
			if err := n.Decode(&b); err != nil {
				i.t.Fatal(err)
			}
			if n.TargetTransferTag != iscsi.ReservedTag {
				a := iscsi.NopOut{Immediate: true, InitiatorTaskTag: iscsi.ReservedTag, TargetTransferTag: n.TargetTransferTag, CmdSN: i.cmdSN, ExpStatSN: i.expSN}
				var h iscsi.BHS
				a.Encode(&h)
				i.send(h, nil)
			}
		default:
			i.t.Fatalf("%v in the middle of a command", b.Opcode())
		}
	}
}

// do carries a command to its end, once there are no unit attentions in its way.
func (i *initiator) do(cdb, out []byte, room int) (r scsiResult) {
	i.t.Helper()
	for range 16 {
		i.start(cdb, out, room)
		if r = i.finish(); !r.isUnitAttention() {
			return r
		}
	}
	i.t.Fatalf("one unit attention after the other: %x", r.sense)
	return r
}

// order gives a PERSISTENT RESERVE OUT, for a reservation under which registrants
// write, until it is not BUSY.
func (i *initiator) order(action byte, key, actionKey uint64) {
	i.t.Helper()
	list := binary.BigEndian.AppendUint64(nil, key)
	list = append(binary.BigEndian.AppendUint64(list, actionKey), make([]byte, 8)...)
	cdb := []byte{0x5f, action, 5, 0, 0, 0, 0, 0, byte(len(list)), 0}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r := i.do(cdb, list, 0)
		switch r.status {
		case scsiGood:
			return
		case scsiBusy:
		default:
			i.t.Fatalf("PERSISTENT RESERVE OUT %d: status %#x, sense %x", action, r.status, r.sense)
		}
	}
	i.t.Fatalf("PERSISTENT RESERVE OUT %d is busy for ever", action)
}

// write10 and read10 are commands on the block of 512 bytes at an offset.
func write10(off int64) []byte { return blockAt(0x2a, off) }
func read10(off int64) []byte  { return blockAt(0x28, off) }

func blockAt(code byte, off int64) []byte {
	b := []byte{code, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	binary.BigEndian.PutUint32(b[2:], uint32(off/512))
	return b
}
