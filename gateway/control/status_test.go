package control

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
)

// failingGateway answers every lookup with one error.
type failingGateway struct {
	Gateway
	err error
}

func (g failingGateway) Volume(context.Context, string) (backend.VolumeInfo, error) {
	return backend.VolumeInfo{}, g.err
}

func TestEveryBackendErrorKeepsItsMeaningAndWords(t *testing.T) {
	sentinels := []error{
		backend.ErrInvalid, backend.ErrNotFound, backend.ErrExists, backend.ErrBusy, backend.ErrConflict, backend.ErrStaleEpoch,
		backend.ErrNoSpace, backend.ErrChecksum, backend.ErrIO, backend.ErrNotSupported, backend.ErrReadOnly, backend.ErrClosed,
		backend.ErrNotLeader, backend.ErrNoCopyset, backend.ErrOverload, backend.ErrUnreachable, backend.ErrOutcomeUnknown,
	}
	declared := declaredSentinels(t)
	if len(declared) != len(sentinels) || len(errorTable) != len(sentinels) {
		t.Errorf("package backend declares %d errors (%v), the table has %d rows, this test %d", len(declared), declared, len(errorTable), len(sentinels))
	}
	for _, sentinel := range sentinels {
		t.Run(sentinel.Error(), func(t *testing.T) {
			sent := fmt.Errorf("volume pg: %w: do this", sentinel)
			addr, _ := serve(t, failingGateway{err: sent})
			_, err := dial(t, addr).Volume(context.Background(), "pg")
			for _, other := range sentinels {
				if errors.Is(err, other) != (other == sentinel) {
					t.Errorf("errors.Is(%v, %v) is %v", err, other, !(other == sentinel))
				}
			}
			if err == nil || err.Error() != sent.Error() {
				t.Errorf("words %v, want %v", err, sent)
			}
			if errors.Is(err, ErrUnreachable) {
				t.Errorf("%v is unreachable, but it did answer", err)
			}
		})
	}
}

// declaredSentinels are the names of the errors that package backend declares.
func declaredSentinels(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../backend/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			names = append(names, spec.Names[0].Name)
		}
		return true
	})
	return names
}

func TestReasonsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range errorTable {
		if seen[row.reason] {
			t.Errorf("reason %s stands for two errors", row.reason)
		}
		seen[row.reason] = true
	}
}

func TestErrorsOfGRPCItselfAreNotTakenForOurs(t *testing.T) {
	c := &Client{addr: "unix:/x"}
	for _, tc := range []struct {
		code codes.Code
		want error
		not  error
	}{
		{codes.Unavailable, ErrUnreachable, backend.ErrClosed},
		{codes.DeadlineExceeded, ErrUnreachable, nil},
		{codes.Canceled, context.Canceled, ErrUnreachable},
		{codes.Unimplemented, backend.ErrNotSupported, ErrUnreachable},
		{codes.ResourceExhausted, nil, backend.ErrNoSpace},
		{codes.Internal, nil, backend.ErrIO},
		{codes.Unknown, nil, ErrUnreachable},
	} {
		t.Run(tc.code.String(), func(t *testing.T) {
			err := c.fromStatus(status.Error(tc.code, "words"))
			if err == nil {
				t.Fatal("no error")
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v is not %v", err, tc.want)
			}
			if tc.not != nil && errors.Is(err, tc.not) {
				t.Errorf("%v is %v", err, tc.not)
			}
		})
	}
}
