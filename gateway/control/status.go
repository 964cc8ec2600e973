package control

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
)

// ErrUnreachable: no gateway answers.
var ErrUnreachable = errors.New("gateway unreachable")

// errorDomain marks error details that are ours.
const errorDomain = "curve-nbd"

// errorTable maps the errors of package backend to what goes over the socket,
// and back. The code is for clients that know gRPC and not us; the reason,
// carried as an ErrorInfo detail, is what Client reads, because gRPC itself
// uses several of the codes for its own failures. The first row that matches
// wins, and the reasons are part of the protocol.
var errorTable = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{backend.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{backend.ErrNotFound, codes.NotFound, "NOT_FOUND"},
	{backend.ErrExists, codes.AlreadyExists, "EXISTS"},
	{backend.ErrBusy, codes.FailedPrecondition, "BUSY"},
	{backend.ErrConflict, codes.Aborted, "CONFLICT"},
	{backend.ErrStaleEpoch, codes.Aborted, "STALE_EPOCH"},
	{backend.ErrNoSpace, codes.ResourceExhausted, "NO_SPACE"},
	{backend.ErrChecksum, codes.DataLoss, "CHECKSUM"},
	{backend.ErrIO, codes.Internal, "IO"},
	{backend.ErrNotSupported, codes.Unimplemented, "NOT_SUPPORTED"},
	{backend.ErrReadOnly, codes.PermissionDenied, "READ_ONLY"},
	{backend.ErrClosed, codes.Unavailable, "CLOSED"},
	// Of a cluster's servers, where the gateway does not deal with them itself.
	{backend.ErrNotLeader, codes.Aborted, "NOT_LEADER"},
	{backend.ErrNoCopyset, codes.Aborted, "NO_COPYSET"},
	{backend.ErrOverload, codes.ResourceExhausted, "OVERLOAD"},
	{backend.ErrUnreachable, codes.Unavailable, "UNREACHABLE"},
	{backend.ErrOutcomeUnknown, codes.Unavailable, "OUTCOME_UNKNOWN"},
}

// toStatus turns an error of the gateway into one of gRPC.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, row := range errorTable {
		if !errors.Is(err, row.err) {
			continue
		}
		st, detailErr := status.New(row.code, err.Error()).WithDetails(&errdetails.ErrorInfo{
			Reason: row.reason,
			Domain: errorDomain,
		})
		if detailErr != nil {
			return status.Error(row.code, err.Error())
		}
		return st.Err()
	}
	return status.FromContextError(err).Err()
}

// gatewayError is an error that happened in the gateway: its words, and the
// sentinel that they wrapped there.
type gatewayError struct {
	text     string
	sentinel error
}

func (e *gatewayError) Error() string { return e.text }
func (e *gatewayError) Unwrap() error { return e.sentinel }

// fromStatus turns what a call returned into the error the gateway meant, or
// into ErrUnreachable when it was not the gateway that answered.
func (c *Client) fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("gateway at %s: %w", c.addr, err)
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.Domain != errorDomain {
			continue
		}
		for _, row := range errorTable {
			if row.reason == info.Reason {
				return &gatewayError{text: st.Message(), sentinel: row.err}
			}
		}
	}
	switch st.Code() {
	case codes.Unavailable:
		return fmt.Errorf("%w: the gateway at %s went away: %s", ErrUnreachable, c.addr, st.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("%w: the gateway at %s did not answer in time", ErrUnreachable, c.addr)
	case codes.Unimplemented:
		return fmt.Errorf("%w: the gateway at %s is of another version: %s", backend.ErrNotSupported, c.addr, st.Message())
	case codes.Canceled:
		return fmt.Errorf("%w: call to the gateway at %s", context.Canceled, c.addr)
	case codes.Unknown:
		return errors.New(st.Message())
	}
	return fmt.Errorf("gateway at %s: %s: %s", c.addr, st.Code(), st.Message())
}
