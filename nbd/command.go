package nbd

import (
	"fmt"
	"math"

	"github.com/opencurve/curve-nbd/backend"
)

// allowedFlags of each command, besides FUA, which is harmless everywhere.
var allowedFlags = [...]uint16{
	cmdRead:        cmdFlagDF,
	cmdWrite:       0,
	cmdFlush:       0,
	cmdTrim:        0,
	cmdCache:       0,
	cmdDisconnect:  0,
	cmdWriteZeroes: cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagReqOne,
}

// validate holds a command against what was negotiated. What depends on the
// volume (bounds, alignment) the volume checks.
func (c *conn) validate(cmd *command) error {
	if int(cmd.Type) >= len(allowedFlags) {
		return &wireError{errnoInval, fmt.Sprintf("unknown command %d", cmd.Type)}
	}
	allowed := allowedFlags[cmd.Type] | cmdFlagFUA
	if c.format.extended && (cmd.Type == cmdWrite || cmd.Type == cmdBlockStatus) {
		allowed |= cmdFlagPayloadLen
	}
	if !c.format.structured && !c.format.extended {
		allowed &^= cmdFlagDF
	}
	switch {
	case cmd.Flags&^allowed != 0:
		return &wireError{errnoInval, fmt.Sprintf("flags %#x not allowed on command %d", cmd.Flags&^allowed, cmd.Type)}
	case cmd.Type == cmdWrite && !cmd.Payload:
		return &wireError{errnoInval, "write without the payload flag"}
	case cmd.Type == cmdFlush && (cmd.Offset != 0 || cmd.Length != 0):
		return &wireError{errnoInval, "flush takes neither offset nor length"}
	case cmd.Type == cmdBlockStatus && !c.blockStatus:
		return &wireError{errnoInval, "block status without a negotiated meta context"}
	case cmd.Type == cmdBlockStatus && !cmd.Payload && cmd.Length == 0:
		return &wireError{errnoInval, "block status of no bytes"}
	case cmd.Type == cmdRead && cmd.Length > maxPayload:
		return &wireError{c.tooLong(), fmt.Sprintf("read of %d bytes: at most %d", cmd.Length, maxPayload)}
	case cmd.Payload && cmd.Length > maxPayload:
		return &wireError{errnoInval, fmt.Sprintf("payload of %d bytes: at most %d", cmd.Length, maxPayload)}
	}
	return nil
}

// tooLong is the error for a read past the maximum: EOVERFLOW is for those who
// negotiated what knows it.
func (c *conn) tooLong() uint32 {
	if c.format.structured || c.format.extended {
		return errnoOverflow
	}
	return errnoInval
}

// offset is the command's as the volume counts; past the end of anything when
// it does not fit.
func (cmd *command) offset() int64 {
	if cmd.Offset > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(cmd.Offset)
}

func (cmd *command) length() int64 {
	if cmd.Length > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(cmd.Length)
}

// opOf is what a command is to the volume.
func opOf(command uint16) backend.OpKind {
	switch command {
	case cmdRead, cmdCache:
		return backend.OpRead
	case cmdWrite:
		return backend.OpWrite
	case cmdWriteZeroes:
		return backend.OpZero
	case cmdTrim:
		return backend.OpTrim
	case cmdFlush:
		return backend.OpFlush
	default:
		return 0
	}
}

func flagsOf(flags uint16) (f backend.Flags) {
	if flags&cmdFlagFUA != 0 {
		f |= backend.FlagFUA
	}
	if flags&cmdFlagNoHole != 0 {
		f |= backend.FlagNoHole
	}
	if flags&cmdFlagFastZero != 0 {
		f |= backend.FlagFastZero
	}
	return f
}
