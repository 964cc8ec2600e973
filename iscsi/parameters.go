package iscsi

import "fmt"

// Digest is a checksum for headers or data.
type Digest uint8

// The digests of RFC 7143 13.1.
const (
	DigestNone Digest = iota
	DigestCRC32C
)

func (d Digest) String() string {
	if d == DigestCRC32C {
		return "CRC32C"
	}
	return ValueNone
}

// TaskReporting is what a task management response waits for, RFC 7143 13.23.
type TaskReporting uint8

// The values of TaskReporting.
const (
	TaskReportingRFC3720 TaskReporting = iota
	TaskReportingResponseFence
	TaskReportingFastAbort
)

func (r TaskReporting) String() string {
	return [...]string{"RFC3720", "ResponseFence", "FastAbort"}[min(r, TaskReportingFastAbort)]
}

// Parameters are what a login agreed on, or RFC 7143's default of what it did
// not speak of. Times are in seconds.
type Parameters struct {
	HeaderDigest, DataDigest Digest
	MaxConnections           uint16
	InitialR2T               bool
	ImmediateData            bool
	MaxRecvDataSegmentLength uint32 // ours: bounds what the initiator sends
	MaxSendDataSegmentLength uint32 // the initiator's: bounds what we send
	MaxBurstLength           uint32
	FirstBurstLength         uint32 // at most MaxBurstLength
	DefaultTime2Wait         uint16
	DefaultTime2Retain       uint16
	MaxOutstandingR2T        uint16
	DataPDUInOrder           bool
	DataSequenceInOrder      bool
	ErrorRecoveryLevel       uint8
	TaskReporting            TaskReporting
	ProtocolLevel            uint8
}

// Join returns what holds for one more connection of a session with parameters p: c are
// those that the connection's own login agreed on, which is not asked about the others
// (RFC 7143 13, scope of the keys).
func (p Parameters) Join(c Parameters) Parameters {
	p.HeaderDigest, p.DataDigest = c.HeaderDigest, c.DataDigest
	p.MaxRecvDataSegmentLength, p.MaxSendDataSegmentLength = c.MaxRecvDataSegmentLength, c.MaxSendDataSegmentLength
	return p
}

// DefaultParameters are those of RFC 7143 section 13.
var DefaultParameters = Parameters{
	MaxConnections:           1,
	InitialR2T:               true,
	ImmediateData:            true,
	MaxRecvDataSegmentLength: DefaultDataSegment,
	MaxSendDataSegmentLength: DefaultDataSegment,
	MaxBurstLength:           262144,
	FirstBurstLength:         65536,
	DefaultTime2Wait:         2,
	DefaultTime2Retain:       20,
	MaxOutstandingR2T:        1,
	DataPDUInOrder:           true,
	DataSequenceInOrder:      true,
	ProtocolLevel:            1,
}

// Settings are the target's side of every negotiation: the best it takes. A key
// that the initiator does not offer has its default whatever Settings say.
type Settings struct {
	HeaderDigests, DataDigests []Digest // what we take; the initiator's order decides
	RequireHeaderDigest        bool     // fail the login rather than run without
	RequireDataDigest          bool
	MaxRecvDataSegmentLength   uint32
	MaxConnections             uint16
	InitialR2T                 bool // true: never take unsolicited Data-Out
	ImmediateData              bool
	MaxBurstLength             uint32
	FirstBurstLength           uint32
	DefaultTime2Wait           uint16
	DefaultTime2Retain         uint16
	MaxOutstandingR2T          uint16
	TaskReporting              []TaskReporting
	ProtocolLevel              uint8
}

// DefaultSettings take unsolicited data, so that a write of up to 256 KiB needs
// no round trip, and both kinds of digest.
func DefaultSettings() Settings {
	return Settings{
		HeaderDigests:            []Digest{DigestCRC32C, DigestNone},
		DataDigests:              []Digest{DigestCRC32C, DigestNone},
		MaxRecvDataSegmentLength: 262144,
		MaxConnections:           1,
		ImmediateData:            true,
		MaxBurstLength:           1 << 20,
		FirstBurstLength:         262144,
		DefaultTime2Wait:         2,
		DefaultTime2Retain:       0,
		MaxOutstandingR2T:        1,
		TaskReporting:            []TaskReporting{TaskReportingRFC3720},
		ProtocolLevel:            1,
	}
}

// Check says what of s RFC 7143 does not allow.
func (s *Settings) Check() error {
	for _, n := range []struct {
		name             string
		value, low, high uint64
	}{
		{keyMaxRecvDataSegmentLength, uint64(s.MaxRecvDataSegmentLength), 512, maxDataSegment},
		{keyMaxBurstLength, uint64(s.MaxBurstLength), 512, maxDataSegment},
		{keyFirstBurstLength, uint64(s.FirstBurstLength), 512, uint64(s.MaxBurstLength)},
		{keyMaxConnections, uint64(s.MaxConnections), 1, 65535},
		{keyDefaultTime2Wait, uint64(s.DefaultTime2Wait), 0, maxSeconds},
		{keyDefaultTime2Retain, uint64(s.DefaultTime2Retain), 0, maxSeconds},
		{keyMaxOutstandingR2T, uint64(s.MaxOutstandingR2T), 1, 65535},
		{keyProtocolLevel, uint64(s.ProtocolLevel), 0, 31},
	} {
		if n.value < n.low || n.value > n.high {
			return fmt.Errorf("iscsi: %s is %d, must be %d to %d", n.name, n.value, n.low, n.high)
		}
	}
	return nil
}
