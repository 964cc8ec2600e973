package iscsi

import (
	"encoding/binary"
	"fmt"
)

// BHSSize is the length of the basic header segment that starts every PDU.
const BHSSize = 48

// BHS is the basic header segment, RFC 7143 11.2.1; all integers big endian.
// Bytes 8 to 47 differ by opcode:
//
//	 0   .I opcode │ 1 F and flags │ 2–3 by opcode
//	 4   TotalAHSLength (words)    │ 5–7 DataSegmentLength (bytes)
//	 8   LUN, or by opcode
//	16   Initiator Task Tag
//	20   by opcode
type BHS [BHSSize]byte

// Opcode says what a PDU is; bit 5 is set in those of a target.
type Opcode uint8

// The opcodes, RFC 7143 11.2.1.2.
const (
	OpNopOut         Opcode = 0x00
	OpScsiCommand    Opcode = 0x01
	OpTaskRequest    Opcode = 0x02
	OpLoginRequest   Opcode = 0x03
	OpTextRequest    Opcode = 0x04
	OpDataOut        Opcode = 0x05
	OpLogoutRequest  Opcode = 0x06
	OpSnack          Opcode = 0x10
	OpNopIn          Opcode = 0x20
	OpScsiResponse   Opcode = 0x21
	OpTaskResponse   Opcode = 0x22
	OpLoginResponse  Opcode = 0x23
	OpTextResponse   Opcode = 0x24
	OpDataIn         Opcode = 0x25
	OpLogoutResponse Opcode = 0x26
	OpR2T            Opcode = 0x31
	OpAsyncMessage   Opcode = 0x32
	OpReject         Opcode = 0x3f
)

var opcodeNames = [64]string{
	OpNopOut: "NOP-Out", OpScsiCommand: "SCSI Command", OpTaskRequest: "Task Management Request",
	OpLoginRequest: "Login Request", OpTextRequest: "Text Request", OpDataOut: "Data-Out",
	OpLogoutRequest: "Logout Request", OpSnack: "SNACK Request",
	OpNopIn: "NOP-In", OpScsiResponse: "SCSI Response", OpTaskResponse: "Task Management Response",
	OpLoginResponse: "Login Response", OpTextResponse: "Text Response", OpDataIn: "Data-In",
	OpLogoutResponse: "Logout Response", OpR2T: "R2T", OpAsyncMessage: "Async Message", OpReject: "Reject",
}

// String is the name RFC 7143 gives the PDU.
func (o Opcode) String() string {
	if int(o) < len(opcodeNames) && opcodeNames[o] != "" {
		return opcodeNames[o]
	}
	return fmt.Sprintf("opcode 0x%02x", uint8(o))
}

// FromInitiator says that o is a PDU an initiator sends and this package knows.
func (o Opcode) FromInitiator() bool { return o <= OpLogoutRequest || o == OpSnack }

// ReservedTag in a task tag means: no task, no answer wanted.
const ReservedTag = uint32(0xffffffff)

// maxDataSegment is what the 24-bit DataSegmentLength can say.
const maxDataSegment = 1<<24 - 1

// Bits of byte 1 that several PDUs share.
const (
	flagFinal    = 0x80 // F, and T of a login
	flagContinue = 0x40 // C of Login and Text
	flagImmed    = 0x40 // I, in byte 0
	opcodeMask   = 0x3f
)

// Opcode is the PDU's opcode, known or not.
func (b *BHS) Opcode() Opcode { return Opcode(b[0] & opcodeMask) }

// Immediate says that the request takes no place in the command window.
func (b *BHS) Immediate() bool { return b[0]&flagImmed != 0 }

// AHSLength is the length in bytes of all additional header segments.
func (b *BHS) AHSLength() int { return int(b[4]) * 4 }

// DataLength is the length of the data segment in bytes, without padding.
func (b *BHS) DataLength() int { return int(b[5])<<16 | int(b[6])<<8 | int(b[7]) }

// InitiatorTaskTag is where every PDU has it.
func (b *BHS) InitiatorTaskTag() uint32 { return b.u32(16) }

// Padded is n rounded up to the 4 bytes that every segment ends on.
func Padded(n int) int { return (n + 3) &^ 3 }

// Limits bound what a peer may announce in a BHS.
type Limits struct {
	MaxDataSegment int // the MaxRecvDataSegmentLength we declared; 8192 until then
	MaxAHS         int // bytes of all additional header segments
}

// The limits of RFC 7143 before anything is negotiated (13.12), and the longest
// headers that make sense: a 260-byte CDB and a bidirectional length.
const (
	DefaultDataSegment = 8192
	MaxCommandAHS      = extendedCDBSegmentMax + bidiSegmentSize
)

// LoginLimits hold for all PDUs of the login phase; no login PDU has an AHS.
var LoginLimits = Limits{MaxDataSegment: DefaultDataSegment}

// PDUError is a PDU that breaks the protocol. Reason is what a Reject says of
// it; the stream is still in step if the announced lengths can be skipped.
type PDUError struct {
	Opcode Opcode
	Reason RejectReason
	What   string
	Found  int
	Limit  int
}

func (e *PDUError) Error() string {
	if e.Limit == 0 && e.Found == 0 {
		return fmt.Sprintf("iscsi: %v: %s", e.Opcode, e.What)
	}
	return fmt.Sprintf("iscsi: %v: %s: found %d, limit %d", e.Opcode, e.What, e.Found, e.Limit)
}

// Check holds the header of a received PDU against l: an opcode that an
// initiator may send, and lengths that may be read. It must come before
// anything that allocates or reads on.
func (b *BHS) Check(l Limits) error {
	op := b.Opcode()
	if !op.FromInitiator() {
		return &PDUError{Opcode: op, Reason: RejectCommandNotSupported, What: "not a PDU of an initiator"}
	}
	return b.CheckLengths(l)
}

// CheckLengths is Check without the opcode: for PDUs of a target too.
func (b *BHS) CheckLengths(l Limits) error {
	op, n := b.Opcode(), b.DataLength()
	if n > l.MaxDataSegment {
		return &PDUError{op, RejectProtocolError, "data segment is longer than declared", n, l.MaxDataSegment}
	}
	if n > 0 && !op.mayCarryData() {
		return &PDUError{op, RejectProtocolError, "has no data segment by definition", n, 0}
	}
	ahs := b.AHSLength()
	if ahs > 0 && op != OpScsiCommand {
		return &PDUError{op, RejectProtocolError, "has no additional header by definition", ahs, 0}
	}
	if ahs > l.MaxAHS {
		return &PDUError{op, RejectProtocolError, "additional headers are too long", ahs, l.MaxAHS}
	}
	return nil
}

// mayCarryData tells the PDUs whose DataSegmentLength RFC 7143 does not fix at
// zero.
func (o Opcode) mayCarryData() bool {
	switch o {
	case OpTaskRequest, OpLogoutRequest, OpSnack, OpTaskResponse, OpLogoutResponse, OpR2T:
		return false
	}
	return true
}

func (b *BHS) u16(at int) uint16        { return binary.BigEndian.Uint16(b[at:]) }
func (b *BHS) u32(at int) uint32        { return binary.BigEndian.Uint32(b[at:]) }
func (b *BHS) put16(at int, v uint16)   { binary.BigEndian.PutUint16(b[at:], v) }
func (b *BHS) put32(at int, v uint32)   { binary.BigEndian.PutUint32(b[at:], v) }
func (b *BHS) flag(at int, m byte) bool { return b[at]&m != 0 }

// start clears the header and writes the bytes that every PDU has.
func (b *BHS) start(op Opcode, immediate bool, flags byte, itt uint32) {
	*b = BHS{0: byte(op), 1: flags}
	if immediate {
		b[0] |= flagImmed
	}
	b.put32(16, itt)
}

// putDataLength panics if n does not fit: a truncated length would put the peer
// out of step and make data of it out of the bytes that follow.
func (b *BHS) putDataLength(n int) {
	if n < 0 || n > maxDataSegment {
		panic(fmt.Sprintf("iscsi: data segment of %d bytes, at most %d", n, maxDataSegment))
	}
	b[5], b[6], b[7] = byte(n>>16), byte(n>>8), byte(n)
}

func (b *BHS) expect(op Opcode) error {
	if b.Opcode() != op {
		return &PDUError{Opcode: b.Opcode(), Reason: RejectProtocolError, What: "decoded as another PDU"}
	}
	return nil
}

// Window is what every answer of a target tells of the command window,
// RFC 7143 4.2.2.1. StatSN is that of the answer.
type Window struct {
	StatSN   uint32
	ExpCmdSN uint32
	MaxCmdSN uint32
}

func (w *Window) decode(b *BHS) {
	w.StatSN, w.ExpCmdSN, w.MaxCmdSN = b.u32(24), b.u32(28), b.u32(32)
}

func (w *Window) encode(b *BHS) {
	b.put32(24, w.StatSN)
	b.put32(28, w.ExpCmdSN)
	b.put32(32, w.MaxCmdSN)
}

// SNBefore says that serial number a comes before b, in the arithmetic of RFC
// 1982 that RFC 7143 4.2.2.1 prescribes for CmdSN, StatSN and the like.
func SNBefore(a, b uint32) bool { return int32(a-b) < 0 }

// flagBit is m if on.
func flagBit(on bool, m byte) byte {
	if on {
		return m
	}
	return 0
}
