package pb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
)

func TestEveryErrorCrossesTheWire(t *testing.T) {
	seen := make(map[Status]bool)
	for _, row := range errorTable {
		if seen[row.status] {
			t.Errorf("%v stands for two errors", row.status)
		}
		seen[row.status] = true
		wrapped := fmt.Errorf("chunk 5: %w", row.err)
		if got := StatusOf(wrapped); got != row.status {
			t.Errorf("%v becomes %v, want %v", wrapped, got, row.status)
		}
		if back := row.status.Err(wrapped.Error()); !errors.Is(back, row.err) || back.Error() != wrapped.Error() {
			t.Errorf("%v comes back from a frame as %v", wrapped, back)
		}
		if back := row.status.Err(""); back != row.err {
			t.Errorf("%v without words comes back as %v", row.status, back)
		}
		if back := FromStatus("peer", ToStatus(wrapped)); !errors.Is(back, row.err) || back.Error() != wrapped.Error() {
			t.Errorf("%v comes back from a call as %v", wrapped, back)
		}
	}
	for s := StatusOK + 1; s < statusEnd; s++ {
		if !seen[s] {
			t.Errorf("status %d has no row", s)
		}
	}
	if StatusOK.Err("") != nil || StatusOf(nil) != StatusOK || ToStatus(nil) != nil || FromStatus("peer", nil) != nil {
		t.Error("success does not stay success")
	}
}

func TestRedirectKeepsItsHintThroughACall(t *testing.T) {
	want := backend.NotLeaderError{Copyset: 3, Leader: 2, Term: 1 << 40}
	var got *backend.NotLeaderError
	if err := FromStatus("peer", ToStatus(fmt.Errorf("usage: %w", &want))); !errors.As(err, &got) || *got != want {
		t.Errorf("got %v, want %v", err, &want)
	}
}

func TestFailuresOfGRPCItself(t *testing.T) {
	for _, c := range []struct {
		code codes.Code
		want error
	}{
		{codes.Unavailable, backend.ErrUnreachable},
		{codes.DeadlineExceeded, context.DeadlineExceeded},
		{codes.DeadlineExceeded, backend.ErrUnreachable},
		{codes.Canceled, context.Canceled},
		{codes.Unimplemented, backend.ErrNotSupported},
	} {
		err := FromStatus("chunkserver 3", status.Error(c.code, "words"))
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "chunkserver 3") {
			t.Errorf("%v: got %v, want %v", c.code, err, c.want)
		}
	}
}

func TestForeignErrorsBecomeIO(t *testing.T) {
	if got := StatusOf(errors.New("sector 7")); got != StatusIO {
		t.Errorf("got %v", got)
	}
	if got := Status(200).Err("words"); !errors.Is(got, backend.ErrIO) {
		t.Errorf("got %v", got)
	}
}

func TestErrorTextFitsInAReply(t *testing.T) {
	long := fmt.Errorf("%w: %s", backend.ErrIO, strings.Repeat("é", MaxText))
	text := ErrorText(long)
	if len(text) > MaxText || !strings.HasPrefix(long.Error(), text[:MaxText/2]) {
		t.Errorf("%d bytes: %.40q", len(text), text)
	}
	if got := ErrorText(errors.New("bad\xff\xfe\xfdbytes")); got != "bad?bytes" {
		t.Errorf("words that are not UTF-8 become %q", got)
	}
	if ErrorText(backend.ErrOverload) != "" {
		t.Error("words that the status says already")
	}
}
