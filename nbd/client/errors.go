package client

import (
	"errors"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// ErrProtocol: the server sent what the protocol does not allow. The connection
// is lost; nothing that arrives later could be trusted.
var ErrProtocol = errors.New("server broke the NBD protocol")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Errno is an error number of a reply.
type Errno uint32

// Error numbers the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

func (e Errno) String() string {
	switch e {
	case EPERM:
		return "EPERM"
	case EIO:
		return "EIO"
	case ENOMEM:
		return "ENOMEM"
	case EINVAL:
		return "EINVAL"
	case ENOSPC:
		return "ENOSPC"
	case EOVERFLOW:
		return "EOVERFLOW"
	case ENOTSUP:
		return "ENOTSUP"
	case ESHUTDOWN:
		return "ESHUTDOWN"
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// sentinel is the error of package backend that says the same.
func (e Errno) sentinel() error {
	switch e {
	case EPERM:
		return backend.ErrReadOnly
	case EIO, ENOMEM:
		return backend.ErrIO
	case ENOSPC:
		return backend.ErrNoSpace
	case ENOTSUP:
		return backend.ErrNotSupported
	case ESHUTDOWN:
		return backend.ErrClosed
	}
	return backend.ErrInvalid // "treat an unexpected error value as EINVAL"
}

// Error is the server's refusal of one request. The connection lives.
type Error struct {
	Command        Command
	Offset, Length uint64
	Errno          Errno
	// Message is the server's explanation, "" with simple replies.
	Message string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%v of %d bytes at %d: server answered %v", e.Command, e.Length, e.Offset, e.Errno)
	if e.Message != "" {
		s += fmt.Sprintf(" (%s)", e.Message)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Errno.sentinel() }

// OptionError is the server's refusal of one option. The handshake goes on.
type OptionError struct {
	Option uint32
	// Reply is one of the RepErr numbers.
	Reply uint32
	// Message is the server's explanation, often "".
	Message string
}

func (e *OptionError) Error() string {
	s := fmt.Sprintf("option %d: server answered error %d", e.Option, e.Reply&^RepError)
	if e.Message != "" {
		s += fmt.Sprintf(" (%s)", e.Message)
	}
	return s
}

func (e *OptionError) Unwrap() error {
	switch e.Reply {
	case RepErrUnsup:
		return backend.ErrNotSupported
	case RepErrUnknown:
		return backend.ErrNotFound
	case RepErrShutdown:
		return backend.ErrClosed
	}
	return backend.ErrInvalid
}
