package iscsi

// NopOut is a ping, or the answer to one of ours, RFC 7143 11.18.
type NopOut struct {
	Immediate         bool
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32 // ReservedTag: wants no answer, and takes no CmdSN
	TargetTransferTag uint32 // of our NOP-In if it answers one
	CmdSN             uint32
	ExpStatSN         uint32
}

// Decode reads n from b.
func (n *NopOut) Decode(b *BHS) error {
	if err := b.expect(OpNopOut); err != nil {
		return err
	}
	*n = NopOut{
		Immediate:         b.Immediate(),
		DataLength:        b.DataLength(),
		LUN:               b.lun(),
		InitiatorTaskTag:  b.u32(16),
		TargetTransferTag: b.u32(20),
		CmdSN:             b.u32(24),
		ExpStatSN:         b.u32(28),
	}
	return nil
}

// Encode writes n to b.
func (n *NopOut) Encode(b *BHS) {
	b.start(OpNopOut, n.Immediate, flagFinal, n.InitiatorTaskTag)
	b.putDataLength(n.DataLength)
	b.putLUN(n.LUN)
	b.put32(20, n.TargetTransferTag)
	b.put32(24, n.CmdSN)
	b.put32(28, n.ExpStatSN)
}

// NopIn answers a ping with its data, or is one, RFC 7143 11.19. As a ping it
// has InitiatorTaskTag ReservedTag and does not consume its StatSN.
type NopIn struct {
	DataLength        int
	LUN               LUN
	InitiatorTaskTag  uint32
	TargetTransferTag uint32 // ReservedTag: wants no answer
	Window
}

// Encode writes n to b.
func (n *NopIn) Encode(b *BHS) {
	b.start(OpNopIn, false, flagFinal, n.InitiatorTaskTag)
	b.putDataLength(n.DataLength)
	b.putLUN(n.LUN)
	b.put32(20, n.TargetTransferTag)
	n.Window.encode(b)
}

// Decode reads n from b.
func (n *NopIn) Decode(b *BHS) error {
	if err := b.expect(OpNopIn); err != nil {
		return err
	}
	*n = NopIn{DataLength: b.DataLength(), LUN: b.lun(), InitiatorTaskTag: b.u32(16), TargetTransferTag: b.u32(20)}
	n.Window.decode(b)
	return nil
}

// LogoutReason is what an initiator wants closed.
type LogoutReason uint8

// The reasons of RFC 7143 11.14.1.
const (
	LogoutSession    LogoutReason = 0
	LogoutConnection LogoutReason = 1
	LogoutRecovery   LogoutReason = 2
)

// LogoutRequest is RFC 7143 11.14. An unknown Reason is the target's to refuse.
type LogoutRequest struct {
	Immediate        bool
	Reason           LogoutReason
	InitiatorTaskTag uint32
	CID              uint16
	CmdSN            uint32
	ExpStatSN        uint32
}

// Decode reads l from b.
func (l *LogoutRequest) Decode(b *BHS) error {
	if err := b.expect(OpLogoutRequest); err != nil {
		return err
	}
	*l = LogoutRequest{
		Immediate:        b.Immediate(),
		Reason:           LogoutReason(b[1] & 0x7f),
		InitiatorTaskTag: b.u32(16),
		CID:              b.u16(20),
		CmdSN:            b.u32(24),
		ExpStatSN:        b.u32(28),
	}
	return nil
}

// Encode writes l to b.
func (l *LogoutRequest) Encode(b *BHS) {
	b.start(OpLogoutRequest, l.Immediate, flagFinal|byte(l.Reason)&0x7f, l.InitiatorTaskTag)
	b.put16(20, l.CID)
	b.put32(24, l.CmdSN)
	b.put32(28, l.ExpStatSN)
}

// LogoutResult is how a logout ended.
type LogoutResult uint8

// The results of RFC 7143 11.15.1.
const (
	LogoutDone                 LogoutResult = 0
	LogoutCIDNotFound          LogoutResult = 1
	LogoutRecoveryNotSupported LogoutResult = 2
	LogoutCleanupFailed        LogoutResult = 3
)

// LogoutResponse is RFC 7143 11.15. The times are in seconds.
type LogoutResponse struct {
	Result           LogoutResult
	InitiatorTaskTag uint32
	Window
	Time2Wait   uint16
	Time2Retain uint16
}

// Encode writes l to b.
func (l *LogoutResponse) Encode(b *BHS) {
	b.start(OpLogoutResponse, false, flagFinal, l.InitiatorTaskTag)
	b[2] = byte(l.Result)
	l.Window.encode(b)
	b.put16(40, l.Time2Wait)
	b.put16(42, l.Time2Retain)
}

// Decode reads l from b.
func (l *LogoutResponse) Decode(b *BHS) error {
	if err := b.expect(OpLogoutResponse); err != nil {
		return err
	}
	*l = LogoutResponse{Result: LogoutResult(b[2]), InitiatorTaskTag: b.u32(16), Time2Wait: b.u16(40), Time2Retain: b.u16(42)}
	l.Window.decode(b)
	return nil
}

// RejectReason says what is wrong with a PDU.
type RejectReason uint8

// The reasons of RFC 7143 11.17.1.
const (
	RejectDataDigest          RejectReason = 0x02
	RejectSnack               RejectReason = 0x03
	RejectProtocolError       RejectReason = 0x04
	RejectCommandNotSupported RejectReason = 0x05
	RejectImmediateCommand    RejectReason = 0x06
	RejectTaskInProgress      RejectReason = 0x07
	RejectInvalidDataAck      RejectReason = 0x08
	RejectInvalidField        RejectReason = 0x09
	RejectOutOfResources      RejectReason = 0x0a
	RejectNegotiationReset    RejectReason = 0x0b
	RejectWaitingForLogout    RejectReason = 0x0c
)

// Reject refuses a PDU, RFC 7143 11.17. Its data is the header of that PDU: the
// BHS, and the AHS if there was one.
type Reject struct {
	Reason     RejectReason
	DataLength int
	Window
	DataSN uint32 // next DataSN or R2TSN, of a rejected SNACK or Data-Out only
}

// Encode writes r to b.
func (r *Reject) Encode(b *BHS) {
	b.start(OpReject, false, flagFinal, ReservedTag)
	b[2] = byte(r.Reason)
	b.putDataLength(r.DataLength)
	r.Window.encode(b)
	b.put32(36, r.DataSN)
}

// Decode reads r from b.
func (r *Reject) Decode(b *BHS) error {
	if err := b.expect(OpReject); err != nil {
		return err
	}
	*r = Reject{Reason: RejectReason(b[2]), DataLength: b.DataLength(), DataSN: b.u32(36)}
	r.Window.decode(b)
	return nil
}

// AsyncEvent is what a target reports unasked.
type AsyncEvent uint8

// The events of RFC 7143 11.9.1.
const (
	AsyncScsiEvent         AsyncEvent = 0
	AsyncLogoutRequested   AsyncEvent = 1
	AsyncConnectionDropped AsyncEvent = 2
	AsyncSessionDropped    AsyncEvent = 3
	AsyncRenegotiate       AsyncEvent = 4
	AsyncTasksTerminated   AsyncEvent = 5
	AsyncVendor            AsyncEvent = 255
)

// AsyncMessage is RFC 7143 11.9. Its data is sense data of a SCSI event.
type AsyncMessage struct {
	Event      AsyncEvent
	VendorCode uint8
	DataLength int
	LUN        LUN
	Window
	// By event: a CID, Time2Wait and Time2Retain, or the seconds until the
	// target gives up waiting for a logout.
	Parameter1, Parameter2, Parameter3 uint16
}

// Encode writes a to b.
func (a *AsyncMessage) Encode(b *BHS) {
	b.start(OpAsyncMessage, false, flagFinal, ReservedTag)
	b.putDataLength(a.DataLength)
	b.putLUN(a.LUN)
	a.Window.encode(b)
	b[36], b[37] = byte(a.Event), a.VendorCode
	b.put16(38, a.Parameter1)
	b.put16(40, a.Parameter2)
	b.put16(42, a.Parameter3)
}

// Decode reads a from b.
func (a *AsyncMessage) Decode(b *BHS) error {
	if err := b.expect(OpAsyncMessage); err != nil {
		return err
	}
	*a = AsyncMessage{
		Event: AsyncEvent(b[36]), VendorCode: b[37],
		DataLength: b.DataLength(), LUN: b.lun(),
		Parameter1: b.u16(38), Parameter2: b.u16(40), Parameter3: b.u16(42),
	}
	a.Window.decode(b)
	return nil
}
