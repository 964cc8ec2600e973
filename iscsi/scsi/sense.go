package scsi

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// Sense says why a command was not done.
type Sense struct {
	Key  Key
	Code Code
	// Info is the INFORMATION field, where InfoValid is set: an LBA, or the
	// offset of a byte that differs.
	Info      uint64
	InfoValid bool
	// A field pointer leads to the field at fault: its byte, its highest bit, or
	// noBit, and whether it is in the CDB or in the parameter list.
	pointer bool
	inData  bool
	field   uint16
	bit     int8
	// progress is how far a long operation is, of 65536.
	inProgress bool
	progress   uint16
}

// noBit: the field at fault is a whole byte or more.
const noBit = -1

// maxSense is room for a descriptor format with every descriptor we send.
const maxSense = 32

func sense(key Key, code Code) *Sense { return &Sense{Key: key, Code: code} }

// badCDB points at a field of the CDB.
func badCDB(field int, bit int8) *Sense {
	return &Sense{Key: IllegalRequest, Code: InvalidFieldInCDB, pointer: true, field: uint16(field), bit: bit}
}

// badData points at a field of the parameter list.
func badData(field int, bit int8) *Sense {
	return &Sense{Key: IllegalRequest, Code: InvalidFieldInParameter, pointer: true, inData: true, field: uint16(field), bit: bit}
}

// outOfRange carries no information: SBC-3 asks for none.
func outOfRange() *Sense { return sense(IllegalRequest, LBAOutOfRange) }

func miscompare(offset int64) *Sense {
	return &Sense{Key: Miscompare, Code: MiscompareDuringVerify, Info: uint64(offset), InfoValid: true}
}

// specific encodes the sense key specific bytes.
func (s *Sense) specific() (b [3]byte) {
	switch {
	case s.inProgress:
		return [3]byte{0x80, byte(s.progress >> 8), byte(s.progress)}
	case !s.pointer:
		return b
	}
	b[0] = 0x80 // SKSV
	if !s.inData {
		b[0] |= 0x40
	}
	if s.bit >= 0 {
		b[0] |= 0x08 | byte(s.bit)
	}
	binary.BigEndian.PutUint16(b[1:], s.field)
	return b
}

// encode writes s into dst and returns its length (SPC-4, 4.5).
func (s *Sense) encode(dst *[maxSense]byte, descriptor bool) int {
	*dst = [maxSense]byte{}
	if descriptor || s.InfoValid && s.Info > 0xffffffff {
		return s.encodeDescriptors(dst)
	}
	dst[0] = 0x70
	dst[2] = byte(s.Key)
	dst[7] = 10 // additional length
	binary.BigEndian.PutUint16(dst[12:], uint16(s.Code))
	if s.InfoValid {
		dst[0] |= 0x80
		binary.BigEndian.PutUint32(dst[3:], uint32(s.Info))
	}
	specific := s.specific()
	copy(dst[15:], specific[:])
	return 18
}

func (s *Sense) encodeDescriptors(dst *[maxSense]byte) int {
	dst[0], dst[1] = 0x72, byte(s.Key)
	binary.BigEndian.PutUint16(dst[2:], uint16(s.Code))
	n := 8
	if s.InfoValid {
		dst[n], dst[n+1], dst[n+2] = 0x00, 0x0a, 0x80
		binary.BigEndian.PutUint64(dst[n+4:], s.Info)
		n += 12
	}
	if s.pointer || s.inProgress {
		dst[n], dst[n+1] = 0x02, 0x06
		specific := s.specific()
		copy(dst[n+4:], specific[:])
		n += 8
	}
	dst[7] = byte(n - 8)
	return n
}

// senseOf maps the outcome of a volume's operation to sense data, the only
// place where that is done. What initiators retry is what may succeed later.
func senseOf(op backend.OpKind, err error) *Sense {
	switch {
	case errors.Is(err, volume.ErrOutOfRange):
		return outOfRange()
	case errors.Is(err, backend.ErrReadOnly):
		return sense(DataProtect, WriteProtected)
	case errors.Is(err, backend.ErrNoSpace):
		return sense(DataProtect, SpaceAllocationFailed)
	case errors.Is(err, backend.ErrStaleEpoch):
		// The volume belongs to another gateway. An initiator with a path there
		// must take that; with 04h/0Ch it would give this one up for good.
		return standby()
	case errors.Is(err, backend.ErrClosed), errors.Is(err, context.Canceled):
		return sense(NotReady, NotReadyTransition)
	case errors.Is(err, backend.ErrInvalid), errors.Is(err, backend.ErrNotSupported):
		// The command was held against the rules before: the fault is ours.
		return sense(AbortedCommand, InternalTargetFailure)
	case op.Changes(), op == backend.OpFlush:
		return sense(MediumError, WriteError)
	default:
		return sense(MediumError, UnrecoveredReadError)
	}
}
