package iscsi

// TaskAttribute is how a command takes its place in the task set (SAM-5 8.6).
type TaskAttribute uint8

// Task attributes of a SCSI Command, RFC 7143 11.3.1.
const (
	AttrUntagged    TaskAttribute = 0
	AttrSimple      TaskAttribute = 1
	AttrOrdered     TaskAttribute = 2
	AttrHeadOfQueue TaskAttribute = 3
	AttrACA         TaskAttribute = 4
)

// ScsiCommand is RFC 7143 11.3. A CDB longer than 16 bytes goes on in an
// additional header: see ParseCommandAHS.
type ScsiCommand struct {
	Immediate          bool
	Final              bool // no unsolicited Data-Out follows
	Read               bool
	Write              bool
	Attribute          TaskAttribute
	AHSLength          int // padded, all segments
	DataLength         int // immediate data
	LUN                LUN
	InitiatorTaskTag   uint32
	ExpectedDataLength uint32 // of the write if Read and Write are both set
	CmdSN              uint32
	ExpStatSN          uint32
	CDB                [16]byte
}

const (
	cmdRead  = 0x40
	cmdWrite = 0x20
	cmdAttr  = 0x07
)

// Decode reads c from b. What contradicts itself is an error: data without W,
// more immediate data than the command moves, no F without W (11.3.1), the
// reserved tag.
func (c *ScsiCommand) Decode(b *BHS) error {
	if err := b.expect(OpScsiCommand); err != nil {
		return err
	}
	*c = ScsiCommand{
		Immediate: b.Immediate(),
		Final:     b.flag(1, flagFinal), Read: b.flag(1, cmdRead), Write: b.flag(1, cmdWrite),
		Attribute: TaskAttribute(b[1] & cmdAttr),
		AHSLength: b.AHSLength(), DataLength: b.DataLength(),
		LUN:                b.lun(),
		InitiatorTaskTag:   b.u32(16),
		ExpectedDataLength: b.u32(20),
		CmdSN:              b.u32(24),
		ExpStatSN:          b.u32(28),
		CDB:                [16]byte(b[32:48]),
	}
	bad := func(what string) error {
		return &PDUError{Opcode: OpScsiCommand, Reason: RejectInvalidField, What: what}
	}
	switch {
	case c.InitiatorTaskTag == ReservedTag:
		return bad("the initiator task tag is reserved")
	case c.Attribute > AttrACA:
		return bad("task attribute is reserved")
	case !c.Write && !c.Final:
		return bad("announces unsolicited data but is not a write")
	case !c.Write && c.DataLength > 0:
		return bad("carries immediate data but is not a write")
	case uint64(c.DataLength) > uint64(c.ExpectedDataLength):
		return &PDUError{OpScsiCommand, RejectInvalidField, "immediate data is longer than the command's", c.DataLength, int(c.ExpectedDataLength)}
	}
	return nil
}

// Encode writes c to b.
func (c *ScsiCommand) Encode(b *BHS) {
	flags := flagBit(c.Final, flagFinal) | flagBit(c.Read, cmdRead) | flagBit(c.Write, cmdWrite) | byte(c.Attribute)&cmdAttr
	b.start(OpScsiCommand, c.Immediate, flags, c.InitiatorTaskTag)
	b[4] = byte(Padded(c.AHSLength) / 4)
	b.putDataLength(c.DataLength)
	b.putLUN(c.LUN)
	b.put32(20, c.ExpectedDataLength)
	b.put32(24, c.CmdSN)
	b.put32(28, c.ExpStatSN)
	copy(b[32:], c.CDB[:])
}

// Residual is how far the data moved is from what the initiator expected. Over
// and Under are never both set.
type Residual struct {
	Over, Under bool
	Count       uint32
}

// ResidualOf compares the length an initiator expected with what its command
// moves (RFC 7143 11.4.5.1).
func ResidualOf(expected uint32, moves uint64) Residual {
	switch e := uint64(expected); {
	case moves > e:
		return Residual{Over: true, Count: uint32(min(moves-e, 1<<32-1))}
	case moves < e:
		return Residual{Under: true, Count: uint32(e - moves)}
	}
	return Residual{}
}

// ServiceResponse says if the target carried out a command at all.
type ServiceResponse uint8

// The two service responses of RFC 7143 11.4.3.
const (
	CommandCompleted ServiceResponse = 0x00
	TargetFailure    ServiceResponse = 0x01
)

// ScsiResponse is RFC 7143 11.4. Its data segment holds sense data, with a
// length in the first two bytes, and response data.
type ScsiResponse struct {
	Response         ServiceResponse
	Status           uint8 // meaningful if the command completed
	DataLength       int
	InitiatorTaskTag uint32
	SnackTag         uint32
	Window
	ExpDataSN    uint32 // Data-In and R2T PDUs sent for the command
	Residual     Residual
	BidiResidual Residual
}

const (
	respBidiOver, respBidiUnder = 0x10, 0x08
	respOver, respUnder         = 0x04, 0x02
)

// Encode writes r to b.
func (r *ScsiResponse) Encode(b *BHS) {
	flags := flagFinal | flagBit(r.BidiResidual.Over, respBidiOver) | flagBit(r.BidiResidual.Under, respBidiUnder) |
		flagBit(r.Residual.Over, respOver) | flagBit(r.Residual.Under, respUnder)
	b.start(OpScsiResponse, false, flags, r.InitiatorTaskTag)
	b[2], b[3] = byte(r.Response), r.Status
	b.putDataLength(r.DataLength)
	b.put32(20, r.SnackTag)
	r.Window.encode(b)
	b.put32(36, r.ExpDataSN)
	b.put32(40, r.BidiResidual.Count)
	b.put32(44, r.Residual.Count)
}

// Decode reads r from b.
func (r *ScsiResponse) Decode(b *BHS) error {
	if err := b.expect(OpScsiResponse); err != nil {
		return err
	}
	*r = ScsiResponse{
		Response: ServiceResponse(b[2]), Status: b[3],
		DataLength:       b.DataLength(),
		InitiatorTaskTag: b.u32(16),
		SnackTag:         b.u32(20),
		ExpDataSN:        b.u32(36),
		BidiResidual:     Residual{b.flag(1, respBidiOver), b.flag(1, respBidiUnder), b.u32(40)},
		Residual:         Residual{b.flag(1, respOver), b.flag(1, respUnder), b.u32(44)},
	}
	r.Window.decode(b)
	return nil
}
