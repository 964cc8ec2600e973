package target_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/iscsi"
)

// initiator speaks raw PDUs to a server, and holds every answer against the rules
// that all answers follow.
type initiator struct {
	t    testing.TB
	nc   net.Conn
	r    *bufio.Reader
	name string
	isid iscsi.ISID
	tsih uint16
	cid  uint16

	headerDigest, dataDigest bool
	// cmdSN is the next; statSN the one that the next answer must have.
	cmdSN, statSN, maxCmdSN uint32
	itt                     uint32
	agreed                  map[string]string
}

// answer is a PDU of the target.
type answer struct {
	iscsi.BHS
	data []byte
}

// dial connects, and logs nobody in.
func (p *portal) dial(t testing.TB) *initiator {
	t.Helper()
	nc, err := net.Dial("tcp", p.address)
	must(t, err)
	return newInitiator(t, nc)
}

func newInitiator(t testing.TB, nc net.Conn) *initiator {
	t.Cleanup(func() { nc.Close() })
	return &initiator{
		t: t, nc: nc, r: newInitiatorReader(nc),
		name: initiatorName, isid: iscsi.ISID{0x80, 1, 2, 3, 4, 5}, cmdSN: 100, itt: 1,
	}
}

// frame is a PDU as it travels.
func (i *initiator) frame(b iscsi.BHS, ahs, data []byte) []byte {
	pdu := append(append([]byte(nil), b[:]...), ahs...)
	if i.headerDigest {
		pdu = append(pdu, 0, 0, 0, 0)
		iscsi.PutDigest(pdu[len(pdu)-4:], iscsi.HeaderDigest(&b, ahs))
	}
	if len(data) == 0 {
		return pdu
	}
	pdu = append(pdu, data...)
	pdu = append(pdu, make([]byte, iscsi.Padded(len(data))-len(data))...)
	if i.dataDigest {
		pdu = append(pdu, 0, 0, 0, 0)
		iscsi.PutDigest(pdu[len(pdu)-4:], iscsi.DataDigest(data))
	}
	return pdu
}

// raw sends bytes.
func (i *initiator) raw(b []byte) {
	i.t.Helper()
	_ = i.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := i.nc.Write(b); err != nil {
		i.t.Fatalf("send: %v", err)
	}
}

func (i *initiator) send(b iscsi.BHS, data []byte) {
	i.t.Helper()
	i.raw(i.frame(b, nil, data))
}

// read takes the next PDU off the connection.
func (i *initiator) read() (a answer, err error) {
	_ = i.nc.SetReadDeadline(time.Now().Add(patience))
	full := func(b []byte) {
		if err == nil {
			_, err = io.ReadFull(i.r, b)
		}
	}
	full(a.BHS[:])
	var digest [4]byte
	if i.headerDigest {
		if full(digest[:]); err == nil && iscsi.GetDigest(digest[:]) != iscsi.HeaderDigest(&a.BHS, nil) {
			return a, errors.New("header digest of an answer is wrong")
		}
	}
	n := a.DataLength()
	if err != nil || n == 0 {
		return a, err
	}
	a.data = make([]byte, iscsi.Padded(n))
	full(a.data)
	if i.dataDigest {
		if full(digest[:]); err == nil && iscsi.GetDigest(digest[:]) != iscsi.DataDigestOf(a.data) {
			return a, errors.New("data digest of an answer is wrong")
		}
	}
	for _, b := range a.data[n:] {
		if b != 0 {
			return a, errors.New("padding is not zero")
		}
	}
	a.data = a.data[:n]
	return a, err
}

// recv is read of a PDU that must come, and whose serial numbers must be right.
func (i *initiator) recv() answer {
	i.t.Helper()
	a, err := i.read()
	if err != nil {
		i.t.Fatalf("receive: %v", err)
	}
	i.check(a)
	return a
}

// check holds an answer against 4.2.2.1 and 4.2.2.2: StatSN goes up by one with each
// answer that has one, the window never shrinks.
func (i *initiator) check(a answer) {
	i.t.Helper()
	statSN, expCmdSN, maxCmdSN := be32(a.BHS[24:]), be32(a.BHS[28:]), be32(a.BHS[32:])
	takes := true
	switch a.Opcode() {
	case iscsi.OpDataIn:
		takes = a.BHS[1]&1 != 0
	case iscsi.OpR2T:
		takes = false
	case iscsi.OpNopIn:
		takes = a.InitiatorTaskTag() != iscsi.ReservedTag
	}
	hasStatSN := takes || a.Opcode() != iscsi.OpDataIn
	if hasStatSN && statSN != i.statSN {
		i.t.Fatalf("%v has StatSN %d, want %d", a.Opcode(), statSN, i.statSN)
	}
	if takes {
		i.statSN++
	}
	if iscsi.SNBefore(maxCmdSN, i.maxCmdSN) {
		i.t.Fatalf("%v: MaxCmdSN went back from %d to %d", a.Opcode(), i.maxCmdSN, maxCmdSN)
	}
	if iscsi.SNBefore(i.cmdSN, expCmdSN) {
		i.t.Fatalf("%v: ExpCmdSN %d, but %d was not sent yet", a.Opcode(), expCmdSN, i.cmdSN)
	}
	i.maxCmdSN = maxCmdSN
}

// want receives a PDU of an opcode.
func (i *initiator) want(op iscsi.Opcode) answer {
	i.t.Helper()
	a := i.recv()
	if a.Opcode() != op {
		i.t.Fatalf("got %v (%x), want %v", a.Opcode(), a.BHS, op)
	}
	return a
}

// wantReject receives a Reject of that reason, which repeats the header that was sent.
func (i *initiator) wantReject(reason iscsi.RejectReason, of iscsi.BHS) {
	i.t.Helper()
	a := i.want(iscsi.OpReject)
	var r iscsi.Reject
	must(i.t, r.Decode(&a.BHS))
	if r.Reason != reason {
		i.t.Fatalf("rejected for reason %#x, want %#x", uint8(r.Reason), uint8(reason))
	}
	if string(a.data) != string(of[:]) {
		i.t.Fatalf("reject repeats %x, want %x", a.data, of)
	}
}

// wantClosed checks that the server hangs up, after whatever it has to say.
func (i *initiator) wantClosed() {
	i.t.Helper()
	_ = i.nc.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, i.r); errors.Is(err, os.ErrDeadlineExceeded) {
		i.t.Fatalf("server sent %d bytes and does not hang up", n)
	}
}

// close closes the connection.
func (i *initiator) close() { i.nc.Close() }

// tag is a new task tag.
func (i *initiator) tag() uint32 {
	i.itt++
	return i.itt
}

// next is the CmdSN of a request, which takes its place unless it is immediate.
func (i *initiator) next(immediate bool) uint32 {
	if !immediate {
		i.cmdSN++
		return i.cmdSN - 1
	}
	return i.cmdSN
}

// keys are text, "Key=Value" each.
func text(keys ...string) []byte { return []byte(strings.Join(keys, "\x00") + "\x00") }

// loginKeys name the initiator and the target.
func (i *initiator) loginKeys(more ...string) []string {
	return append([]string{"InitiatorName=" + i.name, "TargetName=" + targetName, "SessionType=Normal", "AuthMethod=None"}, more...)
}

// loginRequest is the request of a stage.
func (i *initiator) loginRequest(current, next iscsi.Stage) iscsi.LoginRequest {
	return iscsi.LoginRequest{
		Transit: true, Current: current, Next: next, ISID: i.isid, TSIH: i.tsih, CID: i.cid,
		InitiatorTaskTag: 7, CmdSN: i.cmdSN, ExpStatSN: i.statSN,
	}
}

// loginStep does one request of a login.
func (i *initiator) loginStep(r iscsi.LoginRequest, keys []byte) (iscsi.LoginResponse, error) {
	r.DataLength = len(keys)
	var b iscsi.BHS
	r.Encode(&b)
	i.raw(i.frame(b, nil, keys))
	var l iscsi.LoginResponse
	a, err := i.read()
	if err != nil {
		return l, err
	}
	if err := l.Decode(&a.BHS); err != nil {
		return l, err
	}
	i.statSN, i.maxCmdSN = l.StatSN+1, l.MaxCmdSN
	for _, pair := range strings.Split(strings.Trim(string(a.data), "\x00"), "\x00") {
		key, value, _ := strings.Cut(pair, "=")
		i.agreed[key] = value
	}
	return l, nil
}

// tryLogin logs in, with operational keys, and returns what the last answer said.
func (i *initiator) tryLogin(identity []string, operational ...string) (iscsi.LoginResponse, error) {
	i.agreed = make(map[string]string)
	l, err := i.loginStep(i.loginRequest(iscsi.StageSecurity, iscsi.StageOperational), text(identity...))
	if err != nil || l.Status != iscsi.StatusSuccess {
		return l, err
	}
	// Without any key the stage may be empty; the target declares its own then.
	l, err = i.loginStep(i.loginRequest(iscsi.StageOperational, iscsi.StageFullFeature), text(operational...))
	if err == nil && l.Status == iscsi.StatusSuccess {
		i.tsih = l.TSIH
		i.headerDigest = i.agreed["HeaderDigest"] == "CRC32C"
		i.dataDigest = i.agreed["DataDigest"] == "CRC32C"
	}
	return l, err
}

// usual is what a modern initiator offers.
var usual = []string{"InitialR2T=No", "ImmediateData=Yes", "MaxRecvDataSegmentLength=262144", "FirstBurstLength=65536", "MaxBurstLength=262144"}

// login logs in, which must succeed, and takes the first unit attention of unit 0.
func (p *portal) login(t testing.TB, operational ...string) *initiator {
	t.Helper()
	i := p.dial(t)
	i.login(operational...)
	return i
}

func (i *initiator) login(operational ...string) {
	i.t.Helper()
	if operational == nil {
		operational = usual
	}
	l, err := i.tryLogin(i.loginKeys(), operational...)
	must(i.t, err)
	if l.Status != iscsi.StatusSuccess {
		i.t.Fatalf("login refused: %v", l.Status)
	}
	if l.TSIH == 0 {
		i.t.Fatal("session without a handle")
	}
	i.ready(0)
}

// ready takes the unit attentions of a unit, and waits while somebody else's session
// that was cut has a hold on it.
func (i *initiator) ready(lun int) {
	i.t.Helper()
	var r result
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if r = i.do(command{cdb: testUnitReady(), lun: lun}); r.status == good {
			return
		}
	}
	i.t.Fatalf("unit %d does not become ready: %v", lun, r)
}

// loginAs logs another initiator in.
func (p *portal) loginAs(t testing.TB, name string) *initiator {
	t.Helper()
	i := p.dial(t)
	i.name = name
	i.login()
	return i
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }

func (r result) String() string {
	return fmt.Sprintf("status %#02x sense %x, %d bytes, residual %+v", r.status, r.sense, len(r.data), r.residual)
}

func newInitiatorReader(nc net.Conn) *bufio.Reader { return bufio.NewReaderSize(nc, 64*kib) }
