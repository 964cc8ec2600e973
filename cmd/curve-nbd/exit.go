package main

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

// Exit codes. Stable: scripts test them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitBusy        = 4
	exitExists      = 5
	exitUnreachable = 6
	exitDegraded    = 7
)

// errUsage: the command line, the environment or the configuration file is
// wrong; nothing was done.
var errUsage = errors.New("usage")

// errDegraded: it works, but not as it should.
var errDegraded = errors.New("degraded")

// exitTable says with which code each error ends the program. The first row
// that matches wins; anything else is exitFailure.
var exitTable = []struct {
	err  error
	code int
}{
	{errUsage, exitUsage},
	{errDegraded, exitDegraded},
	{control.ErrUnreachable, exitUnreachable},
	{backend.ErrUnreachable, exitUnreachable},
	{backend.ErrInvalid, exitUsage},
	{backend.ErrNotFound, exitNotFound},
	{backend.ErrExists, exitExists},
	{backend.ErrBusy, exitBusy},
	{syscall.EADDRINUSE, exitBusy},
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for _, row := range exitTable {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	return exitFailure
}

// usageError is errUsage that says only what is wrong.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }
func (e *usageError) Unwrap() error { return errUsage }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}
