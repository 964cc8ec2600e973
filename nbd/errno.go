package nbd

import (
	"context"
	"errors"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// Error values of the wire (proto.md, "Error values").
const (
	errnoPerm     = uint32(1)
	errnoIO       = uint32(5)
	errnoNoMem    = uint32(12)
	errnoInval    = uint32(22)
	errnoNoSpace  = uint32(28)
	errnoOverflow = uint32(75)
	errnoNotSup   = uint32(95)
	errnoShutdown = uint32(108)
)

// wireError is a refusal that the protocol layer itself decided on.
type wireError struct {
	errno uint32
	text  string
}

func (e *wireError) Error() string { return e.text }

// errnoOf maps the outcome of a command to the wire, the only place where that
// is done. A write past the end is "no space", any other command past the end
// is "invalid" (proto.md).
func errnoOf(command uint16, err error) uint32 {
	var wire *wireError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &wire):
		return wire.errno
	case errors.Is(err, volume.ErrOutOfRange):
		if command == cmdWrite || command == cmdWriteZeroes {
			return errnoNoSpace
		}
		return errnoInval
	case errors.Is(err, backend.ErrInvalid):
		return errnoInval
	case errors.Is(err, backend.ErrReadOnly), errors.Is(err, backend.ErrStaleEpoch):
		return errnoPerm
	case errors.Is(err, backend.ErrNoSpace):
		return errnoNoSpace
	case errors.Is(err, backend.ErrNotSupported):
		return errnoNotSup
	case errors.Is(err, backend.ErrClosed), errors.Is(err, context.Canceled):
		return errnoShutdown
	default:
		return errnoIO
	}
}
