package iscsi

// DataOut carries data of a write, RFC 7143 11.7.
type DataOut struct {
	Final             bool // the last of its sequence
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32 // of the R2T it answers; ReservedTag if unsolicited
	ExpStatSN         uint32
	DataSN            uint32
	BufferOffset      uint32
}

// Decode reads d from b. It cannot know where the command's data ends: the
// receiver must hold BufferOffset and DataLength against it.
func (d *DataOut) Decode(b *BHS) error {
	if err := b.expect(OpDataOut); err != nil {
		return err
	}
	*d = DataOut{
		Final:             b.flag(1, flagFinal),
		DataLength:        b.DataLength(),
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		ExpStatSN:         b.u32(28),
		DataSN:            b.u32(36),
		BufferOffset:      b.u32(40),
	}
	if d.InitiatorTaskTag == ReservedTag {
		return &PDUError{Opcode: OpDataOut, Reason: RejectInvalidField, What: "the initiator task tag is reserved"}
	}
	if d.End() > 1<<32-1 {
		return &PDUError{Opcode: OpDataOut, Reason: RejectInvalidField, What: "data ends beyond any command's"}
	}
	return nil
}

// End is the offset behind the PDU's last byte; it does not wrap.
func (d *DataOut) End() uint64 { return uint64(d.BufferOffset) + uint64(d.DataLength) }

// Encode writes d to b.
func (d *DataOut) Encode(b *BHS) {
	b.start(OpDataOut, false, flagBit(d.Final, flagFinal), d.InitiatorTaskTag)
	b.putDataLength(d.DataLength)
	b.putLUN(d.LUN)
	b.put32(20, d.TargetTransferTag)
	b.put32(28, d.ExpStatSN)
	b.put32(36, d.DataSN)
	b.put32(40, d.BufferOffset)
}

// DataIn carries data of a read, RFC 7143 11.7. With Status set it is the
// command's response too; only then StatSN, Status and Residual mean something.
type DataIn struct {
	Final             bool
	Acknowledge       bool // asks for a SNACK of type DataACK, ErrorRecoveryLevel > 0 only
	HasStatus         bool
	Status            uint8
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32
	Window
	DataSN       uint32
	BufferOffset uint32
	Residual     Residual
}

const (
	dataAcknowledge = 0x40
	dataStatus      = 0x01
)

// Encode writes d to b.
func (d *DataIn) Encode(b *BHS) {
	flags := flagBit(d.Final, flagFinal) | flagBit(d.Acknowledge, dataAcknowledge) | flagBit(d.HasStatus, dataStatus) |
		flagBit(d.Residual.Over, respOver) | flagBit(d.Residual.Under, respUnder)
	b.start(OpDataIn, false, flags, d.InitiatorTaskTag)
	b[3] = d.Status
	b.putDataLength(d.DataLength)
	b.putLUN(d.LUN)
	b.put32(20, d.TargetTransferTag)
	d.Window.encode(b)
	b.put32(36, d.DataSN)
	b.put32(40, d.BufferOffset)
	b.put32(44, d.Residual.Count)
}

// Decode reads d from b.
func (d *DataIn) Decode(b *BHS) error {
	if err := b.expect(OpDataIn); err != nil {
		return err
	}
	*d = DataIn{
		Final: b.flag(1, flagFinal), Acknowledge: b.flag(1, dataAcknowledge), HasStatus: b.flag(1, dataStatus),
		Status:            b[3],
		DataLength:        b.DataLength(),
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		DataSN:            b.u32(36),
		BufferOffset:      b.u32(40),
		Residual:          Residual{b.flag(1, respOver), b.flag(1, respUnder), b.u32(44)},
	}
	d.Window.decode(b)
	return nil
}

// R2T asks the initiator for data of a write, RFC 7143 11.8. Its StatSN is the
// next one, which the PDU does not consume.
type R2T struct {
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32
	Window
	R2TSN         uint32
	BufferOffset  uint32
	DesiredLength uint32 // at most MaxBurstLength, never 0
}

// Encode writes r to b.
func (r *R2T) Encode(b *BHS) {
	b.start(OpR2T, false, flagFinal, r.InitiatorTaskTag)
	b.putLUN(r.LUN)
	b.put32(20, r.TargetTransferTag)
	r.Window.encode(b)
	b.put32(36, r.R2TSN)
	b.put32(40, r.BufferOffset)
	b.put32(44, r.DesiredLength)
}

// Decode reads r from b.
func (r *R2T) Decode(b *BHS) error {
	if err := b.expect(OpR2T); err != nil {
		return err
	}
	*r = R2T{
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		R2TSN:             b.u32(36),
		BufferOffset:      b.u32(40),
		DesiredLength:     b.u32(44),
	}
	r.Window.decode(b)
	return nil
}

// Snack asks for PDUs again or acknowledges them, RFC 7143 11.16. At
// ErrorRecoveryLevel 0 no initiator may send one: it is decoded to be refused.
type Snack struct {
	Type              uint8
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32
	ExpStatSN         uint32
	BegRun, RunLength uint32
}

// Decode reads s from b.
func (s *Snack) Decode(b *BHS) error {
	if err := b.expect(OpSnack); err != nil {
		return err
	}
	*s = Snack{
		Type:              b[1] & 0x0f,
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		ExpStatSN:         b.u32(28),
		BegRun:            b.u32(40),
		RunLength:         b.u32(44),
	}
	return nil
}
