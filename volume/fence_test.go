package volume

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

// TestFenceForgetsNothingThatIsNotAcknowledged compares the fence with a plain
// set of numbers.
func TestFenceForgetsNothingThatIsNotAcknowledged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f fence
		var open []uint64
		// Start near where the ring wraps around.
		for range rapid.IntRange(0, 2*backend.FenceWindow).Draw(t, "before") {
			f.acknowledge(f.number())
		}
		next := f.given + 1
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if len(open) > 0 && rapid.Bool().Draw(t, "acknowledge") {
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				f.acknowledge(open[i])
				open = append(open[:i], open[i+1:]...)
			} else {
				if seq := f.number(); seq != next {
					t.Fatalf("number %d, want %d", seq, next)
				}
				open = append(open, next)
				next++
			}
			low := next
			for _, seq := range open {
				low = min(low, seq)
			}
			if f.low() != low {
				t.Fatalf("low %d with %v not acknowledged, want %d", f.low(), open, low)
			}
		}
	})
}

func TestFenceIsFullAtItsWindow(t *testing.T) {
	var f fence
	for range backend.FenceWindow {
		if f.full() {
			t.Fatalf("full after %d numbers", f.given)
		}
		f.number()
	}
	if !f.full() {
		t.Fatal("one more number than a replica remembers")
	}
	for seq := uint64(backend.FenceWindow); seq > 1; seq-- {
		f.acknowledge(seq)
	}
	if !f.full() || f.low() != 1 {
		t.Fatalf("low %d while the first is not acknowledged", f.low())
	}
	f.acknowledge(1)
	if f.full() || f.low() != backend.FenceWindow+1 {
		t.Errorf("low %d after all were acknowledged", f.low())
	}
}
