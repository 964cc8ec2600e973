package volume

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

func TestRetryTable(t *testing.T) {
	cases := []struct {
		name   string
		err    error
		reason string
		action retryAction
	}{
		{"redirect with a hint", &backend.NotLeaderError{Leader: 2, Term: 3}, "not-leader", retryRedirect},
		{"redirect without", backend.ErrNotLeader, "not-leader", retryRedirect},
		{"wrapped", fmt.Errorf("chunkserver 1: %w", backend.ErrOverload), "overload", retryLater},
		{"copyset moved", backend.ErrNoCopyset, "no-copyset", retryRefresh},
		{"unreachable", backend.ErrUnreachable, "unreachable", retrySearch},
		{"unknown", backend.ErrOutcomeUnknown, "outcome-unknown", retrySearch},
		{"fenced", backend.ErrStaleEpoch, "stale-epoch", retryLost},
		// Whatever else it says, a volume that is lost is lost.
		{"fenced on the way", fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, backend.ErrStaleEpoch), "stale-epoch", retryLost},
		{"invalid", backend.ErrInvalid, "invalid", retryNever},
		{"not supported", backend.ErrNotSupported, "not-supported", retryNever},
		{"nobody thought of it", errors.New("surprise"), "other", retryLater},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			row := retryFor(c.err)
			if row.reason != c.reason || row.action != c.action {
				t.Errorf("row %q action %d, want %q %d", row.reason, row.action, c.reason, c.action)
			}
		})
	}
}

func TestBackOffStaysInItsBounds(t *testing.T) {
	row := retryFor(backend.ErrOverload)
	for n := range 40 {
		whole, half := row.backOff(n, 0), row.backOff(n, 0.999)
		if whole < overloadFirst || whole > overloadLast || half < whole/2-time.Millisecond || half > whole {
			t.Errorf("repetition %d waits %v to %v", n, half, whole)
		}
	}
}
