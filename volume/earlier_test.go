package volume

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// barredReplicas note the operations that reach them, and say what becomes of each.
type barredReplicas struct {
	promptReplicas
	mu     sync.Mutex // guards all below
	ops    []backend.Op
	answer func(*backend.Op) error
}

func (b *barredReplicas) Submit(op *backend.Op) {
	b.mu.Lock()
	b.ops = append(b.ops, *op)
	op.Err = b.answer(op)
	b.mu.Unlock()
	op.Done.OpDone(op)
}

func TestFenceEarlierGoesToEveryCopysetOnce(t *testing.T) {
	replicas := &barredReplicas{answer: func(*backend.Op) error { return nil }}
	v := openOn(t, replicas, Options{})
	for range 3 {
		if err := v.FenceEarlier(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var copysets []backend.CopysetID
	for _, op := range replicas.ops {
		if op.Kind != backend.OpFlush || op.Epoch != v.Epoch() || op.Volume != v.ID() || op.Server == 0 {
			t.Errorf("operation %+v", op)
		}
		copysets = append(copysets, op.Chunk.Copyset)
	}
	if slices.Sort(copysets); !slices.Equal(copysets, []backend.CopysetID{1, 2}) {
		t.Errorf("copysets %v, want 1 and 2, once each", copysets)
	}
}

func TestFenceEarlierWaitsForALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		replicas := &barredReplicas{answer: func(op *backend.Op) error {
			if down && op.Chunk.Copyset == 2 {
				return backend.ErrNotLeader
			}
			return nil
		}}
		v := openOn(t, replicas, Options{})
		for range 2 { // the second joins the first
			short, cancel := context.WithTimeout(ctx, time.Second)
			if err := v.FenceEarlier(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("copyset 2 has no leader: %v", err)
			}
			cancel()
		}
		if n, _ := v.Queued(); n != 1 {
			t.Errorf("%d operations wait, want that of copyset 2", n)
		}
		replicas.mu.Lock()
		down = false
		replicas.mu.Unlock()
		v.router.LeaderIs(2, 3, 2)
		if err := v.FenceEarlier(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestFenceEarlierOfAVolumeThatIsLost(t *testing.T) {
	v := openOn(t, &barredReplicas{answer: func(*backend.Op) error { return backend.ErrStaleEpoch }}, Options{})
	for range 2 {
		if err := v.FenceEarlier(ctx); !errors.Is(err, backend.ErrStaleEpoch) {
			t.Errorf("got %v", err)
		}
	}
	if v.Lost() == nil {
		t.Error("the volume does not know that it is lost")
	}
	if err := v.Close(ctx); err == nil {
		t.Error("it closed as if it were not lost")
	}
	if err := v.FenceEarlier(ctx); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("after the close: %v", err)
	}
}

func TestFenceEarlierWithoutReplicas(t *testing.T) {
	f := open(t, backend.DefaultGeometry(), true, backend.QoS{}, Options{})
	if err := f.FenceEarlier(ctx); err != nil {
		t.Error(err)
	}
}
