package copyset

import (
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
)

// waveOps is how many operations are made at once; at most 2*maxBatchOps of them
// come from one entry.
const waveOps = 4 * maxBatchOps

// inlineBytes is up to which size a change is made on the goroutine that applies,
// if it can be without waiting: handing it over costs more.
const inlineBytes = 32 << 10

// wave is changes that are made together: those of different chunks at once, those
// of one chunk in order, which the store sees to.
type wave struct {
	ops [waveOps]backend.Op
	n   int
	// high is how many of ops may hold on to payloads.
	high int
	// touched are the chunks that are made or freed.
	touched []backend.ChunkID
	// last is the entry up to which the wave goes.
	last     uint64
	outcomes []outcome
	answers  []answer

	left atomic.Int32
	done chan struct{}
}

// outcome is what a local operation will be answered with, answer what a local
// proposal will.
type (
	outcome struct {
		op  *backend.Op
		err error
	}
	answer struct {
		p   *proposal
		err error
	}
)

var waves = sync.Pool{New: func() any { return &wave{done: make(chan struct{}, 1)} }}

// OpDone implements backend.Completer.
func (w *wave) OpDone(*backend.Op) {
	if w.left.Add(-1) == 0 {
		w.done <- struct{}{}
	}
}

// run makes the changes and waits for all.
func (w *wave) run(store *chunkstore.Store) {
	w.left.Store(1)
	w.high = min(max(w.high, w.n+1), len(w.ops)) // one more was decoded into, perhaps
	for i := range w.n {
		op := &w.ops[i]
		op.Err, op.Done = nil, nil
		if op.Len <= inlineBytes && store.Try(op) {
			continue
		}
		op.Done = w
		w.left.Add(1)
		store.Submit(op)
	}
	if w.left.Add(-1) != 0 {
		<-w.done
	}
}

// answer tells the local operations and proposals of the wave; with err set, all of
// them that.
func (w *wave) answer(p *proposer, err error) {
	bytes := int64(0)
	for i := range w.outcomes {
		o := &w.outcomes[i]
		bytes += payload(o.op)
		if err != nil {
			o.err = err
		}
		finish(o.op, o.err)
	}
	if len(w.outcomes) > 0 {
		p.answered(len(w.outcomes), bytes)
	}
	for _, a := range w.answers {
		if err != nil {
			a.err = err
		}
		if a.p.done != nil {
			a.p.done(a.err)
		}
		a.p.free()
	}
	clear(w.outcomes)
	clear(w.answers)
	w.outcomes, w.answers = w.outcomes[:0], w.answers[:0]
}

func (w *wave) reset() {
	clear(w.ops[:w.high]) // payloads must not be kept from the collector
	w.n, w.high, w.last, w.touched = 0, 0, 0, w.touched[:0]
}
