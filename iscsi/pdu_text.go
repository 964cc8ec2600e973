package iscsi

import "fmt"

// Stage is where a login stands, RFC 7143 11.12.3; 2 is reserved.
type Stage uint8

// The stages of a connection.
const (
	StageSecurity    Stage = 0
	StageOperational Stage = 1
	StageFullFeature Stage = 3
)

func (s Stage) String() string {
	switch s {
	case StageSecurity:
		return "security negotiation"
	case StageOperational:
		return "operational negotiation"
	case StageFullFeature:
		return "full feature phase"
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// LoginRequest is RFC 7143 11.12.
type LoginRequest struct {
	Transit          bool // T: wants to go to Next
	Continue         bool // C: the text goes on in the next request
	Current, Next    Stage
	VersionMax       uint8
	VersionMin       uint8
	DataLength       int
	ISID             ISID
	TSIH             uint16
	InitiatorTaskTag uint32
	CID              uint16
	CmdSN            uint32
	ExpStatSN        uint32
}

// Decode reads l from b. What the flags may say in which stage is for Login.
func (l *LoginRequest) Decode(b *BHS) error {
	if err := b.expect(OpLoginRequest); err != nil {
		return err
	}
	*l = LoginRequest{
		Transit: b.flag(1, flagFinal), Continue: b.flag(1, flagContinue),
		Current: Stage(b[1] >> 2 & 3), Next: Stage(b[1] & 3),
		VersionMax: b[2], VersionMin: b[3],
		DataLength:       b.DataLength(),
		ISID:             ISID(b[8:14]),
		TSIH:             b.u16(14),
		InitiatorTaskTag: b.u32(16),
		CID:              b.u16(20),
		CmdSN:            b.u32(24),
		ExpStatSN:        b.u32(28),
	}
	return nil
}

// Encode writes l to b. A login request is always immediate.
func (l *LoginRequest) Encode(b *BHS) {
	b.start(OpLoginRequest, true, loginFlags(l.Transit, l.Continue, l.Current, l.Next), l.InitiatorTaskTag)
	b[2], b[3] = l.VersionMax, l.VersionMin
	b.putDataLength(l.DataLength)
	copy(b[8:14], l.ISID[:])
	b.put16(14, l.TSIH)
	b.put16(20, l.CID)
	b.put32(24, l.CmdSN)
	b.put32(28, l.ExpStatSN)
}

func loginFlags(transit, more bool, current, next Stage) byte {
	return flagBit(transit, flagFinal) | flagBit(more, flagContinue) | byte(current&3)<<2 | byte(next&3)
}

// LoginResponse is RFC 7143 11.13. StatSN means something only if Status is
// StatusSuccess.
type LoginResponse struct {
	Transit          bool
	Continue         bool
	Current, Next    Stage
	VersionMax       uint8
	VersionActive    uint8
	DataLength       int
	ISID             ISID
	TSIH             uint16
	InitiatorTaskTag uint32
	Window
	Status LoginStatus
}

// Encode writes l to b.
func (l *LoginResponse) Encode(b *BHS) {
	b.start(OpLoginResponse, false, loginFlags(l.Transit, l.Continue, l.Current, l.Next), l.InitiatorTaskTag)
	b[2], b[3] = l.VersionMax, l.VersionActive
	b.putDataLength(l.DataLength)
	copy(b[8:14], l.ISID[:])
	b.put16(14, l.TSIH)
	l.Window.encode(b)
	b.put16(36, uint16(l.Status))
}

// Decode reads l from b.
func (l *LoginResponse) Decode(b *BHS) error {
	if err := b.expect(OpLoginResponse); err != nil {
		return err
	}
	*l = LoginResponse{
		Transit: b.flag(1, flagFinal), Continue: b.flag(1, flagContinue),
		Current: Stage(b[1] >> 2 & 3), Next: Stage(b[1] & 3),
		VersionMax: b[2], VersionActive: b[3],
		DataLength:       b.DataLength(),
		ISID:             ISID(b[8:14]),
		TSIH:             b.u16(14),
		InitiatorTaskTag: b.u32(16),
		Status:           LoginStatus(b.u16(36)),
	}
	l.Window.decode(b)
	return nil
}

// TextRequest is RFC 7143 11.10.
type TextRequest struct {
	Immediate         bool
	Final             bool
	Continue          bool
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32 // ReservedTag in the first of an exchange
	CmdSN             uint32
	ExpStatSN         uint32
}

// Decode reads t from b. F and C exclude each other (11.10.2).
func (t *TextRequest) Decode(b *BHS) error {
	if err := b.expect(OpTextRequest); err != nil {
		return err
	}
	*t = TextRequest{
		Immediate: b.Immediate(), Final: b.flag(1, flagFinal), Continue: b.flag(1, flagContinue),
		DataLength:        b.DataLength(),
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		CmdSN:             b.u32(24),
		ExpStatSN:         b.u32(28),
	}
	if t.Final && t.Continue {
		return &PDUError{Opcode: OpTextRequest, Reason: RejectInvalidField, What: "is final and goes on"}
	}
	return nil
}

// Encode writes t to b.
func (t *TextRequest) Encode(b *BHS) {
	b.start(OpTextRequest, t.Immediate, flagBit(t.Final, flagFinal)|flagBit(t.Continue, flagContinue), t.InitiatorTaskTag)
	b.putDataLength(t.DataLength)
	b.putLUN(t.LUN)
	b.put32(20, t.TargetTransferTag)
	b.put32(24, t.CmdSN)
	b.put32(28, t.ExpStatSN)
}

// TextResponse is RFC 7143 11.11.
type TextResponse struct {
	Final             bool
	Continue          bool
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32 // ReservedTag in the last of an exchange
	Window
}

// Encode writes t to b.
func (t *TextResponse) Encode(b *BHS) {
	b.start(OpTextResponse, false, flagBit(t.Final, flagFinal)|flagBit(t.Continue, flagContinue), t.InitiatorTaskTag)
	b.putDataLength(t.DataLength)
	b.putLUN(t.LUN)
	b.put32(20, t.TargetTransferTag)
	t.Window.encode(b)
}

// Decode reads t from b.
func (t *TextResponse) Decode(b *BHS) error {
	if err := b.expect(OpTextResponse); err != nil {
		return err
	}
	*t = TextResponse{
		Final: b.flag(1, flagFinal), Continue: b.flag(1, flagContinue),
		DataLength: b.DataLength(), LUN: b.lun(),
		InitiatorTaskTag: b.u32(16), TargetTransferTag: b.u32(20),
	}
	t.Window.decode(b)
	return nil
}
