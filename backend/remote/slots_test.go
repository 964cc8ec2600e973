package remote

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

// Against a map: a request's number finds its operation until it is freed, and never
// another one's.
func TestSlotsFindWhatTheyHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := slots{limit: 8}
		model := make(map[uint64]*backend.Op)
		var gone, held []uint64
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				if s.full() != (len(model) == 8) {
					t.Fatalf("full is %v with %d of 8 taken", s.full(), len(model))
				}
				if s.full() {
					return
				}
				op := new(backend.Op)
				id, slot := s.take(op, 1)
				if model[id] != nil || slot.op != op {
					t.Fatalf("request %#x is taken twice", id)
				}
				model[id] = op
				held = append(held, id)
			},
			"free": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				s.free(held[i])
				delete(model, held[i])
				gone = append(gone, held[i])
				held = append(held[:i], held[i+1:]...)
			},
			"": func(t *rapid.T) {
				for id, op := range model {
					if slot := s.get(id); slot == nil || slot.op != op {
						t.Fatalf("request %#x is lost", id)
					}
					if got, _ := s.find(op); got != id {
						t.Fatalf("operation of %#x is found at %#x", id, got)
					}
				}
				for _, id := range gone {
					if s.get(id) != nil {
						t.Fatalf("request %#x is there after it was freed", id)
					}
				}
			},
		})
	})
}

func TestFifoKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo
		var model []uint64
		next := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				next++
				q.push(next)
				model = append(model, next)
			},
			"pop": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				if got := q.pop(); got != model[0] {
					t.Fatalf("got %d, want %d", got, model[0])
				}
				model = model[1:]
			},
			"keep": func(*rapid.T) {
				odd := func(n uint64) bool { return n%2 == 1 }
				q.keep(odd)
				var kept []uint64
				for _, n := range model {
					if odd(n) {
						kept = append(kept, n)
					}
				}
				model = kept
			},
			"": func(t *rapid.T) {
				if q.len() != len(model) {
					t.Fatalf("length %d, want %d", q.len(), len(model))
				}
			},
		})
	})
}

func TestQueueThatIsPushedAndPoppedForEverStaysSmall(t *testing.T) {
	var q fifo
	q.push(0)
	for i := range uint64(100000) {
		q.push(i)
		q.pop()
	}
	if cap(q.items) > 64 {
		t.Errorf("two items take room for %d", cap(q.items))
	}
}
