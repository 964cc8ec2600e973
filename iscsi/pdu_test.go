package iscsi

import (
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// codec is what every PDU but Snack can do.
type codec interface {
	Decode(*BHS) error
	Encode(*BHS)
}

// bhs reads 12 words of hexadecimal; blanks do not count.
func bhs(t testing.TB, s string) *BHS {
	t.Helper()
	raw, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil || len(raw) != BHSSize {
		t.Fatalf("%d bytes of header, %v", len(raw), err)
	}
	return (*BHS)(raw)
}

var window = Window{StatSN: 0x11, ExpCmdSN: 0x22, MaxCmdSN: 0x33}

const (
	lun5       = "0005000000000000"
	none       = "ffffffff"
	windowHex  = "00000011 00000022 00000033"
	zero12     = "00000000 00000000 00000000"
	commandSNs = "00000022 00000011"
)

var goldenPDUs = []struct {
	name string
	hex  string
	pdu  codec
}{
	{"ping", "40800000 00000004 " + lun5 + " 00000007 " + none + commandSNs + zero12 + "00000000",
		&NopOut{Immediate: true, DataLength: 4, LUN: LUN{1: 5}, InitiatorTaskTag: 7, TargetTransferTag: ReservedTag, CmdSN: 0x22, ExpStatSN: 0x11}},
	{"ping of the target", "20800000 00000000 " + lun5 + none + "00000009" + windowHex + zero12,
		&NopIn{LUN: LUN{1: 5}, InitiatorTaskTag: ReservedTag, TargetTransferTag: 9, Window: window}},
	{"read of 4 KiB", "01c10000 00000000 " + lun5 + " 00000007 00001000" + commandSNs + "28000000 01000000 08000000 00000000",
		&ScsiCommand{Final: true, Read: true, Attribute: AttrSimple, LUN: LUN{1: 5}, InitiatorTaskTag: 7, ExpectedDataLength: 4096, CmdSN: 0x22, ExpStatSN: 0x11,
			CDB: [16]byte{0x28, 4: 1, 8: 8}}},
	{"write with immediate data and a long CDB", "01210000 05000200 " + lun5 + " 00000007 00001000" + commandSNs + "7f000000 00000018 000b0000 00000000",
		&ScsiCommand{Write: true, Attribute: AttrSimple, AHSLength: 20, DataLength: 512, LUN: LUN{1: 5}, InitiatorTaskTag: 7, ExpectedDataLength: 4096, CmdSN: 0x22, ExpStatSN: 0x11,
			CDB: [16]byte{0x7f, 7: 0x18, 9: 0x0b}}},
	{"response with sense and underflow", "21820002 00000014 00000000 00000000 00000007 00000000" + windowHex + "00000003 00000000 00000200",
		&ScsiResponse{Status: 2, DataLength: 20, InitiatorTaskTag: 7, Window: window, ExpDataSN: 3, Residual: Residual{Under: true, Count: 512}}},
	{"response of a bidirectional command", "21940100 00000000 00000000 00000000 00000007 00000005" + windowHex + "00000000 00000001 00000002",
		&ScsiResponse{Response: TargetFailure, InitiatorTaskTag: 7, SnackTag: 5, Window: window, Residual: Residual{Over: true, Count: 2}, BidiResidual: Residual{Over: true, Count: 1}}},
	{"abort", "42810000 00000000 " + lun5 + " 00000007 00000006" + commandSNs + "00000021 00000004 00000000 00000000",
		&TaskRequest{Immediate: true, Function: AbortTask, LUN: LUN{1: 5}, InitiatorTaskTag: 7, ReferencedTaskTag: 6, CmdSN: 0x22, ExpStatSN: 0x11, RefCmdSN: 0x21, ExpDataSN: 4}},
	{"abort not supported", "22800500 00000000 00000000 00000000 00000007 00000000" + windowHex + zero12,
		&TaskResponse{Result: TaskNotSupported, InitiatorTaskTag: 7, Window: window}},
	{"login request", "43870001 00000123 00023d00 00010002 00000007 00030000" + commandSNs + zero12 + "00000000",
		&LoginRequest{Transit: true, Current: StageOperational, Next: StageFullFeature, VersionMin: 1, DataLength: 0x123,
			ISID: ISID{0, 2, 0x3d, 0, 0, 1}, TSIH: 2, InitiatorTaskTag: 7, CID: 3, CmdSN: 0x22, ExpStatSN: 0x11}},
	{"login response", "23810000 00000123 00023d00 00010002 00000007 00000000" + windowHex + "02010000 00000000 00000000",
		&LoginResponse{Transit: true, Next: StageOperational, DataLength: 0x123, ISID: ISID{0, 2, 0x3d, 0, 0, 1}, TSIH: 2, InitiatorTaskTag: 7, Window: window, Status: StatusAuthFailed}},
	{"text request", "04800000 00000010 00000000 00000000 00000007 " + none + commandSNs + zero12 + "00000000",
		&TextRequest{Final: true, DataLength: 16, InitiatorTaskTag: 7, TargetTransferTag: ReservedTag, CmdSN: 0x22, ExpStatSN: 0x11}},
	{"text response that goes on", "24400000 00002000 00000000 00000000 00000007 00000001" + windowHex + zero12,
		&TextResponse{Continue: true, DataLength: 8192, InitiatorTaskTag: 7, TargetTransferTag: 1, Window: window}},
	{"data-out", "05800000 00001000 " + lun5 + " 00000007 00000009 00000000 00000011 00000000 00000002 00002000 00000000",
		&DataOut{Final: true, DataLength: 4096, LUN: LUN{1: 5}, InitiatorTaskTag: 7, TargetTransferTag: 9, ExpStatSN: 0x11, DataSN: 2, BufferOffset: 8192}},
	{"data-in with status", "25830000 00001000 " + lun5 + " 00000007 " + none + windowHex + "00000002 00002000 00000200",
		&DataIn{Final: true, HasStatus: true, DataLength: 4096, LUN: LUN{1: 5}, InitiatorTaskTag: 7, TargetTransferTag: ReservedTag, Window: window, DataSN: 2, BufferOffset: 8192,
			Residual: Residual{Under: true, Count: 512}}},
	{"r2t", "31800000 00000000 " + lun5 + " 00000007 00000009" + windowHex + "00000001 00010000 00040000",
		&R2T{LUN: LUN{1: 5}, InitiatorTaskTag: 7, TargetTransferTag: 9, Window: window, R2TSN: 1, BufferOffset: 65536, DesiredLength: 262144}},
	{"logout request", "46810000 00000000 00000000 00000000 00000007 00030000" + commandSNs + zero12 + "00000000",
		&LogoutRequest{Immediate: true, Reason: LogoutConnection, InitiatorTaskTag: 7, CID: 3, CmdSN: 0x22, ExpStatSN: 0x11}},
	{"logout response", "26800100 00000000 00000000 00000000 00000007 00000000" + windowHex + "00000000 00020014 00000000",
		&LogoutResponse{Result: LogoutCIDNotFound, InitiatorTaskTag: 7, Window: window, Time2Wait: 2, Time2Retain: 20}},
	{"reject", "3f800900 00000030 00000000 00000000 " + none + "00000000" + windowHex + zero12,
		&Reject{Reason: RejectInvalidField, DataLength: 48, Window: window}},
	{"async logout request", "32800000 00000000 00000000 00000000 " + none + "00000000" + windowHex + "01000000 0000000a 00000000",
		&AsyncMessage{Event: AsyncLogoutRequested, Window: window, Parameter3: 10}},
}

func TestPDUGoldenBytes(t *testing.T) {
	for _, c := range goldenPDUs {
		t.Run(c.name, func(t *testing.T) {
			want := bhs(t, c.hex)
			got := *want
			got[2] ^= 0xff // Encode must set every byte
			c.pdu.Encode(&got)
			if got != *want {
				t.Errorf("encoded\n%x, want\n%x", got, *want)
			}
			decoded := reflect.New(reflect.TypeOf(c.pdu).Elem()).Interface().(codec)
			if err := decoded.Decode(want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(decoded, c.pdu) {
				t.Errorf("decoded\n%+v, want\n%+v", decoded, c.pdu)
			}
		})
	}
}

func TestPDUDecodeRefusesAnotherOpcode(t *testing.T) {
	wrong := &BHS{0: 0x3e}
	for _, c := range goldenPDUs {
		if err := c.pdu.Decode(wrong); err == nil {
			t.Errorf("%T takes an unknown opcode", c.pdu)
		}
	}
	if (&Snack{}).Decode(wrong) == nil {
		t.Error("Snack takes an unknown opcode")
	}
}

func TestSnackDecode(t *testing.T) {
	var s Snack
	if err := s.Decode(bhs(t, "10810000 00000000 "+lun5+" 00000007 00000009 00000000 00000011 00000000 00000000 00000002 00000003")); err != nil {
		t.Fatal(err)
	}
	if want := (Snack{Type: 1, LUN: LUN{1: 5}, InitiatorTaskTag: 7, TargetTransferTag: 9, ExpStatSN: 0x11, BegRun: 2, RunLength: 3}); s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

// What contradicts itself is refused before anyone acts on it.
func TestPDUDecodeRefusesContradictions(t *testing.T) {
	for _, c := range []struct {
		name string
		hex  string
		pdu  codec
		want string
	}{
		{"command with the reserved tag", "01800000 00000000 " + lun5 + none + "00000000" + commandSNs + "00000000" + zero12, &ScsiCommand{}, "tag is reserved"},
		{"reserved task attribute", "01850000 00000000 " + lun5 + "00000007 00000000" + commandSNs + "00000000" + zero12, &ScsiCommand{}, "attribute"},
		{"unsolicited data without W", "01400000 00000000 " + lun5 + "00000007 00001000" + commandSNs + "00000000" + zero12, &ScsiCommand{}, "unsolicited"},
		{"immediate data without W", "01c00000 00000200 " + lun5 + "00000007 00001000" + commandSNs + "00000000" + zero12, &ScsiCommand{}, "immediate"},
		{"immediate data beyond the command's", "01a00000 00000201 " + lun5 + "00000007 00000200" + commandSNs + "00000000" + zero12, &ScsiCommand{}, "longer"},
		{"data-out of the reserved tag", "05800000 00000200 " + lun5 + none + none + "00000000 00000000 00000000 00000000 00000000 00000000", &DataOut{}, "tag is reserved"},
		{"data-out that wraps", "05800000 00000200 " + lun5 + "00000007" + none + "00000000 00000000 00000000 00000000 fffffff0 00000000", &DataOut{}, "beyond"},
		{"text that is final and goes on", "04c00000 00000000 " + lun5 + "00000007" + none + commandSNs + zero12 + "00000000", &TextRequest{}, "goes on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.pdu.Decode(bhs(t, c.hex))
			var e *PDUError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Reason != RejectInvalidField {
				t.Errorf("got %v, want one of %q", err, c.want)
			}
		})
	}
}

func TestBHSCheck(t *testing.T) {
	full := Limits{MaxDataSegment: 262144, MaxAHS: MaxCommandAHS}
	for _, c := range []struct {
		name   string
		header BHS
		limits Limits
		reason RejectReason // 0: passes
	}{
		{"empty ping", BHS{0: 0x40}, full, 0},
		{"as much data as declared", BHS{0: 0x05, 5: 4}, full, 0},
		{"a byte more", BHS{0: 0x05, 5: 4, 7: 1}, full, RejectProtocolError},
		{"login at its limit", BHS{0: 0x43, 6: 0x20}, LoginLimits, 0},
		{"login that announces 16 MiB", BHS{0: 0x43, 5: 0xff, 6: 0xff, 7: 0xff}, LoginLimits, RejectProtocolError},
		{"longest CDB with a bidirectional length", BHS{0: 0x01, 4: MaxCommandAHS / 4}, full, 0},
		{"more additional header than makes sense", BHS{0: 0x01, 4: MaxCommandAHS/4 + 1}, full, RejectProtocolError},
		{"additional header of a ping", BHS{0: 0x00, 4: 1}, full, RejectProtocolError},
		{"abort with data", BHS{0: 0x02, 7: 4}, full, RejectProtocolError},
		{"logout with data", BHS{0: 0x06, 7: 4}, full, RejectProtocolError},
		{"SNACK passes, to be refused by name", BHS{0: 0x10}, full, 0},
		{"PDU of a target", BHS{0: 0x25}, full, RejectCommandNotSupported},
		{"unknown opcode", BHS{0: 0x1c}, full, RejectCommandNotSupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.header.Check(c.limits)
			var e *PDUError
			if c.reason == 0 && err != nil || c.reason != 0 && (!errors.As(err, &e) || e.Reason != c.reason) {
				t.Errorf("got %v, want reason %#x", err, c.reason)
			}
		})
	}
}

func TestEncodeRefusesWhatTheLengthFieldCannotSay(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a segment of 16 MiB was encoded with a truncated length")
		}
	}()
	(&DataIn{DataLength: 1 << 24}).Encode(&BHS{})
}

func TestPDUCodecDoesNotAllocate(t *testing.T) {
	for _, c := range goldenPDUs {
		b := bhs(t, c.hex)
		if n := testing.AllocsPerRun(100, func() {
			if b.CheckLengths(Limits{1 << 20, MaxCommandAHS}) != nil || c.pdu.Decode(b) != nil {
				t.Fatal("refused")
			}
			c.pdu.Encode(b)
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestResidualOf(t *testing.T) {
	for _, c := range []struct {
		name     string
		expected uint32
		moves    uint64
		want     Residual
	}{
		{"as expected", 512, 512, Residual{}},
		{"nothing moves", 512, 0, Residual{Under: true, Count: 512}},
		{"less", 512, 500, Residual{Under: true, Count: 12}},
		{"more", 512, 1024, Residual{Over: true, Count: 512}},
		{"more than the field can say", 0, 1 << 40, Residual{Over: true, Count: 1<<32 - 1}},
	} {
		if got := ResidualOf(c.expected, c.moves); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSNBefore(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 2, true}, {2, 1, false}, {3, 3, false}, {0xffffffff, 0, true}, {0, 0xffffffff, false}} {
		if got := SNBefore(c.a, c.b); got != c.want {
			t.Errorf("%#x before %#x: %v", c.a, c.b, got)
		}
	}
}
