package iscsi

import "encoding/binary"

// Additional header segments, RFC 7143 11.2.2: each is padded to 4 bytes and
// starts with
//
//	0–1 AHSLength: bytes behind byte 2, without padding │ 2 type │ 3 specific
//
// An extended CDB (11.2.2.3) has byte 3 reserved and then the CDB from its byte
// 16 on; a bidirectional read length (11.2.2.4) byte 3 reserved and 4 bytes.
const (
	ahsExtendedCDB = 1
	ahsBidiLength  = 2
	ahsTypeMask    = 0x3f
	ahsHead        = 3 // the two length bytes and the type do not count

	// MaxCDB is the longest CDB there is (SPC-5 4.3.3).
	MaxCDB = 260

	baseCDB               = 16
	bidiSegmentSize       = 8
	extendedCDBSegmentMax = 4 + MaxCDB - baseCDB
)

// CommandAHS is what the additional headers of a SCSI Command say.
type CommandAHS struct {
	ExtendedCDB    []byte // the CDB from byte 16 on: part of the bytes parsed
	HasBidi        bool
	BidiReadLength uint32
}

// ParseCommandAHS walks the segments in ahs, which has the AHSLength of its
// command. Unknown types, repeated ones and lengths that do not fit are errors.
func ParseCommandAHS(ahs []byte) (CommandAHS, error) {
	var c CommandAHS
	for len(ahs) > 0 {
		if len(ahs) < 4 {
			return CommandAHS{}, badAHS("is cut short", len(ahs), 4)
		}
		length, kind := int(binary.BigEndian.Uint16(ahs)), ahs[2]&ahsTypeMask
		size := Padded(ahsHead + length)
		if length < 1 || size > len(ahs) {
			return CommandAHS{}, badAHS("ends behind the header", size, len(ahs))
		}
		specific := ahs[4 : ahsHead+length]
		switch {
		case kind == ahsExtendedCDB && c.ExtendedCDB == nil:
			if len(specific) < 1 || len(specific) > MaxCDB-baseCDB {
				return CommandAHS{}, badAHS("extended CDB has a wrong length", len(specific), MaxCDB-baseCDB)
			}
			c.ExtendedCDB = specific
		case kind == ahsBidiLength && !c.HasBidi:
			if len(specific) != 4 {
				return CommandAHS{}, badAHS("bidirectional length has a wrong length", len(specific), 4)
			}
			c.HasBidi, c.BidiReadLength = true, binary.BigEndian.Uint32(specific)
		case kind == ahsExtendedCDB || kind == ahsBidiLength:
			return CommandAHS{}, badAHS("comes twice: type", int(kind), 1)
		default:
			return CommandAHS{}, badAHS("has an unknown type", int(kind), ahsBidiLength)
		}
		ahs = ahs[size:]
	}
	return c, nil
}

// Append adds the segments of c to dst, padded.
func (c *CommandAHS) Append(dst []byte) []byte {
	if n := len(c.ExtendedCDB); n > 0 {
		dst = binary.BigEndian.AppendUint16(dst, uint16(n+1))
		dst = append(dst, ahsExtendedCDB, 0)
		dst = append(dst, c.ExtendedCDB...)
		dst = append(dst, make([]byte, Padded(n)-n)...)
	}
	if c.HasBidi {
		dst = append(dst, 0, 5, ahsBidiLength, 0)
		dst = binary.BigEndian.AppendUint32(dst, c.BidiReadLength)
	}
	return dst
}

func badAHS(what string, found, limit int) error {
	return &PDUError{OpScsiCommand, RejectInvalidField, "additional header " + what, found, limit}
}
