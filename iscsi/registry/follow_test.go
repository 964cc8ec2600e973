package registry_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// away is metadata that cannot be reached for a while.
type away struct {
	registry.Meta
	gone atomic.Bool
}

func (m *away) RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error) {
	if m.gone.Load() {
		return nil, 0, fmt.Errorf("%w: no MDS answers", backend.ErrUnreachable)
	}
	return m.Meta.RecordChanges(ctx, prefix, mark)
}

// counted is metadata that count the records that they list; those of an old program
// know of no marks.
type counted struct {
	registry.Meta
	old    bool
	listed atomic.Int64
}

func (m *counted) RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error) {
	if m.old {
		mark = 0
	}
	records, mark, err := m.Meta.RecordChanges(ctx, prefix, mark)
	m.listed.Add(int64(len(records)))
	if m.old {
		mark = 0
	}
	return records, mark, err
}

func TestRefreshListsNothingWhereNothingHasChanged(t *testing.T) {
	for name, old := range map[string]bool{"today's metadata": false, "an old MDS": true} {
		t.Run(name, func(t *testing.T) {
			meta := openMeta(t)
			other := open(t, meta, registry.Options{})
			mustCreate(t, other, vm1)
			mustCreate(t, other, vm1+"-other")
			count := &counted{Meta: meta, old: old}
			r := registry.New(count, registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
			defer r.Close()
			refresh := func() int64 {
				t.Helper()
				before := count.listed.Load()
				if err := r.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				return count.listed.Load() - before
			}
			refresh()
			if n := refresh(); n != 0 && !old {
				t.Errorf("%d records listed, and nothing has changed", n)
			}
			mustAdd(t, other, "pg", 0)
			refresh()
			if got := known(t, r); len(got.Units) != 1 {
				t.Errorf("after a change elsewhere: %+v", got)
			}
			if err := other.Remove(t.Context(), vm1, false); err != nil {
				t.Fatal(err)
			}
			refresh()
			if left := r.Targets(); len(left) != 1 || left[0].Name != vm1+"-other" {
				t.Errorf("after a removal elsewhere there are %v", left)
			}
		})
	}
}

func TestWhatIsKnownServesWhileTheMetadataAreAway(t *testing.T) {
	meta := &away{Meta: openMeta(t)}
	var log strings.Builder
	r := open(t, meta, registry.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	mustCreate(t, r, vm1)
	meta.gone.Store(true)
	for range 3 {
		wantErr(t, r.Refresh(t.Context()), backend.ErrUnreachable)
	}
	known(t, r)
	mustAdd(t, r, "pg", 0) // the change is made, the picture comes later
	meta.gone.Store(false)
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := known(t, r); len(got.Units) != 1 {
		t.Errorf("after it came back: %+v", got)
	}
	r.Close()
	for _, said := range []string{"cannot be read", "can be read"} {
		if n := strings.Count(log.String(), said); n != 1 {
			t.Errorf("%q is said %d times, want once:\n%s", said, n, log.String())
		}
	}
}
