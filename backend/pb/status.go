package pb

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
)

// Status is an outcome in a REPLY frame.
type Status uint8

// The numbers are part of the protocol.
const (
	StatusOK Status = iota
	StatusInvalid
	StatusNotFound
	StatusExists
	StatusBusy
	StatusStaleEpoch
	StatusNoSpace
	StatusChecksum
	StatusIO
	StatusNotSupported
	StatusReadOnly
	StatusClosed
	StatusNotLeader
	StatusNoCopyset
	StatusOverload
	StatusUnreachable
	StatusOutcomeUnknown
	StatusConflict
	statusEnd
)

// errorDomain marks error details that are ours.
const errorDomain = "curve-nbd"

// Keys of the error detail's metadata, for a backend.NotLeaderError.
const (
	keyCopyset = "copyset"
	keyLeader  = "leader"
	keyTerm    = "term"
)

// errorTable maps the errors of package backend to frames and to gRPC, and back.
// The gRPC code is for clients that know gRPC and not us; the reason, carried as an
// ErrorInfo detail, is what ours read, because gRPC itself uses several of the codes
// for its own failures. The first row that matches an error wins: what decides about
// a retry comes before what is only its cause. Statuses and reasons are part of the
// protocol.
var errorTable = []struct {
	err    error
	status Status
	code   codes.Code
	reason string
}{
	{backend.ErrOutcomeUnknown, StatusOutcomeUnknown, codes.Unknown, "OUTCOME_UNKNOWN"},
	{backend.ErrNotLeader, StatusNotLeader, codes.FailedPrecondition, "NOT_LEADER"},
	{backend.ErrNoCopyset, StatusNoCopyset, codes.NotFound, "NO_COPYSET"},
	{backend.ErrOverload, StatusOverload, codes.ResourceExhausted, "OVERLOAD"},
	{backend.ErrUnreachable, StatusUnreachable, codes.Unavailable, "UNREACHABLE"},
	{backend.ErrStaleEpoch, StatusStaleEpoch, codes.Aborted, "STALE_EPOCH"},
	{backend.ErrConflict, StatusConflict, codes.Aborted, "CONFLICT"},
	{backend.ErrInvalid, StatusInvalid, codes.InvalidArgument, "INVALID"},
	{backend.ErrNotFound, StatusNotFound, codes.NotFound, "NOT_FOUND"},
	{backend.ErrExists, StatusExists, codes.AlreadyExists, "EXISTS"},
	{backend.ErrBusy, StatusBusy, codes.FailedPrecondition, "BUSY"},
	{backend.ErrNoSpace, StatusNoSpace, codes.ResourceExhausted, "NO_SPACE"},
	{backend.ErrChecksum, StatusChecksum, codes.DataLoss, "CHECKSUM"},
	{backend.ErrNotSupported, StatusNotSupported, codes.Unimplemented, "NOT_SUPPORTED"},
	{backend.ErrReadOnly, StatusReadOnly, codes.PermissionDenied, "READ_ONLY"},
	{backend.ErrClosed, StatusClosed, codes.Unavailable, "CLOSED"},
	{backend.ErrIO, StatusIO, codes.Internal, "IO"},
}

// StatusOf is the status of an error: StatusOK for nil, StatusIO for one that is
// not of package backend.
func StatusOf(err error) Status {
	if err == nil {
		return StatusOK
	}
	for i := range errorTable {
		if errors.Is(err, errorTable[i].err) {
			return errorTable[i].status
		}
	}
	return StatusIO
}

// Valid says whether the status is one of this version's.
func (s Status) Valid() bool { return s < statusEnd }

func (s Status) String() string {
	if s == StatusOK {
		return "OK"
	}
	for i := range errorTable {
		if errorTable[i].status == s {
			return errorTable[i].reason
		}
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// farError is an error that happened in another process: its words, and the
// sentinel that they wrapped there.
type farError struct {
	text     string
	sentinel error
}

func (e *farError) Error() string { return e.text }
func (e *farError) Unwrap() error { return e.sentinel }

// Err is the error that a status and its words stand for; nil for StatusOK. The
// words of an error that says nothing beyond its sentinel may be left out.
func (s Status) Err(text string) error {
	if s == StatusOK {
		return nil
	}
	for i := range errorTable {
		if errorTable[i].status == s {
			if text == "" {
				return errorTable[i].err
			}
			return &farError{text: text, sentinel: errorTable[i].err}
		}
	}
	return fmt.Errorf("%w: answered with unknown status %d: %s", backend.ErrIO, uint8(s), text)
}

// ToStatus turns an error into one of gRPC, for a handler to return.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	for i := range errorTable {
		row := &errorTable[i]
		if !errors.Is(err, row.err) {
			continue
		}
		info := &errdetails.ErrorInfo{Reason: row.reason, Domain: errorDomain}
		if hint := (*backend.NotLeaderError)(nil); errors.As(err, &hint) {
			info.Metadata = map[string]string{
				keyCopyset: strconv.FormatUint(uint64(hint.Copyset), 10),
				keyLeader:  strconv.FormatUint(uint64(hint.Leader), 10),
				keyTerm:    strconv.FormatUint(hint.Term, 10),
			}
		}
		st, detailErr := status.New(row.code, err.Error()).WithDetails(info)
		if detailErr != nil {
			return status.Error(row.code, err.Error())
		}
		return st.Err()
	}
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	return status.FromContextError(err).Err()
}

// FromStatus turns what a call to peer returned into the error that was meant there.
// What gRPC itself failed with becomes backend.ErrUnreachable where the call cannot
// have been served, and backend.ErrOutcomeUnknown where it may have been.
func FromStatus(peer string, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", peer, err)
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.Domain != errorDomain {
			continue
		}
		for i := range errorTable {
			if errorTable[i].reason == info.Reason {
				return withHint(info, &farError{text: st.Message(), sentinel: errorTable[i].err})
			}
		}
	}
	switch st.Code() {
	case codes.Unavailable:
		return fmt.Errorf("%w: %s: %s", backend.ErrUnreachable, peer, st.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("%w: %s did not answer in time: %w", backend.ErrUnreachable, peer, context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("call to %s: %w", peer, context.Canceled)
	case codes.Unimplemented:
		return fmt.Errorf("%w: %s is of another version: %s", backend.ErrNotSupported, peer, st.Message())
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: %s: %s", backend.ErrInvalid, peer, st.Message()) // gRPC's own: a message too large
	}
	return fmt.Errorf("%s: %s: %s", peer, st.Code(), st.Message())
}

// withHint makes a NotLeaderError of an error whose detail carries a hint.
func withHint(info *errdetails.ErrorInfo, err *farError) error {
	if err.sentinel != backend.ErrNotLeader || len(info.Metadata) == 0 {
		return err
	}
	copyset, errC := strconv.ParseUint(info.Metadata[keyCopyset], 10, 32)
	leader, errL := strconv.ParseUint(info.Metadata[keyLeader], 10, 32)
	term, errT := strconv.ParseUint(info.Metadata[keyTerm], 10, 64)
	if errors.Join(errC, errL, errT) != nil {
		return err
	}
	return &backend.NotLeaderError{Copyset: backend.CopysetID(copyset), Leader: backend.ServerID(leader), Term: term}
}
