package iscsi

import (
	"errors"
	"fmt"
)

// LoginStatus is Status-Class and Status-Detail of a login response, RFC 7143
// 11.13.5.
type LoginStatus uint16

// The statuses.
const (
	StatusSuccess            LoginStatus = 0x0000
	StatusMovedTemporarily   LoginStatus = 0x0101
	StatusMovedPermanently   LoginStatus = 0x0102
	StatusInitiatorError     LoginStatus = 0x0200
	StatusAuthFailed         LoginStatus = 0x0201
	StatusNotAuthorized      LoginStatus = 0x0202
	StatusNotFound           LoginStatus = 0x0203
	StatusRemoved            LoginStatus = 0x0204
	StatusUnsupportedVersion LoginStatus = 0x0205
	StatusTooManyConnections LoginStatus = 0x0206
	StatusMissingParameter   LoginStatus = 0x0207
	StatusCannotInclude      LoginStatus = 0x0208
	StatusSessionType        LoginStatus = 0x0209
	StatusNoSession          LoginStatus = 0x020a
	StatusInvalidDuringLogin LoginStatus = 0x020b
	StatusTargetError        LoginStatus = 0x0300
	StatusUnavailable        LoginStatus = 0x0301
	StatusOutOfResources     LoginStatus = 0x0302
)

var statusNames = map[LoginStatus]string{
	StatusSuccess: "success", StatusMovedTemporarily: "target moved temporarily", StatusMovedPermanently: "target moved permanently",
	StatusInitiatorError: "initiator error", StatusAuthFailed: "authentication failure", StatusNotAuthorized: "initiator not allowed",
	StatusNotFound: "target not found", StatusRemoved: "target removed", StatusUnsupportedVersion: "unsupported version",
	StatusTooManyConnections: "too many connections", StatusMissingParameter: "missing parameter",
	StatusCannotInclude: "cannot include in session", StatusSessionType: "session type not supported",
	StatusNoSession: "session does not exist", StatusInvalidDuringLogin: "invalid during login",
	StatusTargetError: "target error", StatusUnavailable: "service unavailable", StatusOutOfResources: "out of resources",
}

// String is the class and detail with their meaning.
func (s LoginStatus) String() string {
	if name, ok := statusNames[s]; ok {
		return fmt.Sprintf("0x%04x %s", uint16(s), name)
	}
	return fmt.Sprintf("0x%04x", uint16(s))
}

// LoginError is why a login failed: what the peer is told, and what happened.
type LoginError struct {
	Status LoginStatus
	Err    error
}

func (e *LoginError) Error() string { return fmt.Sprintf("login refused, %v: %v", e.Status, e.Err) }

// Unwrap gives what happened.
func (e *LoginError) Unwrap() error { return e.Err }

// What a Policy answers with; any other error is StatusTargetError.
var (
	ErrTargetNotFound     = errors.New("no such target")
	ErrTargetRemoved      = errors.New("target was removed")
	ErrNotAllowed         = errors.New("initiator is not allowed")
	ErrTooManyConnections = errors.New("session has all its connections")
	ErrCannotInclude      = errors.New("connection cannot join the session")
	ErrNoSession          = errors.New("no such session")
	ErrUnavailable        = errors.New("target is not available now")
	ErrOutOfResources     = errors.New("no room for another session")
)

// Redirect is a Policy's answer for a target that is elsewhere.
type Redirect struct {
	To        Portal
	Permanent bool
}

func (r *Redirect) Error() string { return "target moved to " + r.To.String() }

// statuses is the table from errors to what the peer learns. The first match
// counts.
var statuses = []struct {
	err    error
	status LoginStatus
}{
	{ErrTargetNotFound, StatusNotFound},
	{ErrTargetRemoved, StatusRemoved},
	{ErrNotAllowed, StatusNotAuthorized},
	{ErrTooManyConnections, StatusTooManyConnections},
	{ErrCannotInclude, StatusCannotInclude},
	{ErrNoSession, StatusNoSession},
	{ErrUnavailable, StatusUnavailable},
	{ErrOutOfResources, StatusOutOfResources},
	{ErrCHAPProtocol, StatusAuthFailed},
	{ErrCHAPAlgorithm, StatusAuthFailed},
	{ErrCHAPResponse, StatusAuthFailed},
	{ErrCHAPReflected, StatusAuthFailed},
	{ErrCHAPSame, StatusAuthFailed},
	{ErrCHAPNoMutual, StatusAuthFailed},
	{errSessionType, StatusSessionType},
	{ErrWrongPhase, StatusInvalidDuringLogin},
	{ErrWrongSender, StatusInitiatorError},
	{ErrRenegotiated, StatusInitiatorError},
	{ErrBadOffer, StatusInitiatorError},
	{ErrValue, StatusInitiatorError},
	{ErrName, StatusInitiatorError},
	{ErrNoDigest, StatusInitiatorError},
	{ErrTextTooLong, StatusInitiatorError},
	{ErrTextMalformed, StatusInitiatorError},
	{ErrDuplicateKey, StatusInitiatorError},
}

func loginError(err error) *LoginError {
	var already *LoginError
	if errors.As(err, &already) {
		return already
	}
	var moved *Redirect
	if errors.As(err, &moved) {
		if moved.Permanent {
			return &LoginError{StatusMovedPermanently, err}
		}
		return &LoginError{StatusMovedTemporarily, err}
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return &LoginError{s.status, err}
		}
	}
	return &LoginError{StatusTargetError, err}
}

func refuse(s LoginStatus, format string, args ...any) *LoginError {
	return &LoginError{s, fmt.Errorf(format, args...)}
}
