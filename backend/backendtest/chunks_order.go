package backendtest

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// countdown is a Completer shared by many operations; it counts each one's
// completions.
type countdown struct {
	wg sync.WaitGroup
	mu sync.Mutex
	// calls per operation.
	calls map[*backend.Op]int
}

func newCountdown() *countdown { return &countdown{calls: make(map[*backend.Op]int)} }

func (c *countdown) submit(chunks backend.Chunks, op *backend.Op) {
	c.wg.Add(1)
	op.Done = c
	chunks.Submit(op)
}

func (c *countdown) OpDone(op *backend.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[op]++
	if c.calls[op] == 1 {
		c.wg.Done()
	}
}

func (t *chunksTest) wantEachOnce(c *countdown, ops int) {
	t.Helper()
	c.wg.Wait()
	// Close waits for what is in flight, so a second call would be in by then.
	if err := t.chunks.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) != ops {
		t.Errorf("%d operations completed, %d were submitted", len(c.calls), ops)
	}
	for op, n := range c.calls {
		if n != 1 {
			t.Errorf("%s completed %d times", describe(op), n)
		}
	}
}

func (t *chunksTest) doneOnce() {
	c := newCountdown()
	const rounds = 200
	n := 0
	for i := range rounds {
		ref := backend.ChunkRef{ID: backend.ChunkID(i%7 + 1), Size: chunkSize}
		for _, op := range append(t.everyOp(ref), t.op(backend.OpRead, ref, 1, 1)) {
			c.submit(t.chunks, op)
			n++
		}
	}
	t.wantEachOnce(c, n)
}

func (t *chunksTest) noDoneAfterTry() {
	c := newCountdown()
	ref := t.chunk()
	t.write(ref, 0, pattern(1, block))
	done := 0
	for range 50 {
		for _, op := range t.everyOp(ref) {
			op.Done = c
			if t.chunks.Try(op) {
				done++
			} else {
				c.submit(t.chunks, op)
			}
		}
	}
	t.wantEachOnce(c, 50*len(t.everyOp(ref))-done)
}

// submittedOrder overlaps many writes, zeroes and trims of one chunk in flight;
// the last one wins everywhere.
func (t *chunksTest) submittedOrder() {
	r := rand.New(rand.NewPCG(1, 1))
	refs := []backend.ChunkRef{t.chunk(), t.chunk(), t.chunk(), t.chunk()}
	for round := range 20 {
		c := newCountdown()
		models := make([][]byte, len(refs))
		for i, ref := range refs {
			models[i], _ = t.read(ref, 0, chunkSize)
		}
		for i := range 200 {
			n := r.IntN(len(refs))
			off, length := randomRange(r)
			if length == chunkSize && i%4 != 0 {
				length = chunkSize - sector
			}
			op := t.op([]backend.OpKind{backend.OpWrite, backend.OpZero, backend.OpTrim}[r.IntN(3)], refs[n], off, length)
			if op.Kind == backend.OpWrite {
				op.Data = pattern(uint64(round*1000+i), length)
				copy(models[n][off:], op.Data)
			} else {
				clear(models[n][off : off+length])
			}
			c.submit(t.chunks, op)
		}
		c.wg.Wait()
		for op := range c.calls {
			if op.Err != nil {
				t.Fatalf("%s: %v", describe(op), op.Err)
			}
		}
		for i, ref := range refs {
			t.wantContent(ref, 0, models[i])
		}
	}
}

func (t *chunksTest) tryNeverOvertakes() {
	ref := t.chunk()
	t.write(ref, 0, pattern(99, chunkSize))
	for round := range 200 {
		c := newCountdown()
		first, second := pattern(uint64(2*round), 4*block), pattern(uint64(2*round+1), 4*block)
		op := t.op(backend.OpWrite, ref, 0, 4*block)
		op.Data = first
		c.submit(t.chunks, op)

		read := t.op(backend.OpRead, ref, 0, 4*block)
		read.Data = make([]byte, 4*block)
		if t.chunks.Try(read) {
			if read.Err != nil {
				t.Fatalf("Try: %v", read.Err)
			}
			t.wantEqual(ref, 0, read.Data, first)
		}
		over := t.op(backend.OpWrite, ref, 0, 4*block)
		over.Data = second
		if t.chunks.Try(over) {
			if over.Err != nil {
				t.Fatalf("Try: %v", over.Err)
			}
		} else {
			c.submit(t.chunks, over)
		}
		c.wg.Wait()
		t.wantContent(ref, 0, second)
	}
}

// manyGoroutines gives each goroutine a stretch of its own in chunks that all
// share.
func (t *chunksTest) manyGoroutines() {
	const goroutines, rounds = 8, 150
	const stretch = chunkSize / goroutines
	refs := []backend.ChunkRef{t.chunk(), t.chunk(), t.chunk()}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 2))
			base := int64(g) * stretch
			models := make([][]byte, len(refs))
			for i := range models {
				models[i] = make([]byte, stretch)
			}
			for round := range rounds {
				n := r.IntN(len(refs))
				length := (r.Int64N(stretch/sector) + 1) * sector
				off := r.Int64N((stretch-length)/sector+1) * sector
				op := t.op([]backend.OpKind{backend.OpWrite, backend.OpZero, backend.OpTrim, backend.OpRead, backend.OpFlush}[r.IntN(5)], refs[n], base+off, length)
				want := models[n][off : off+length]
				switch op.Kind {
				case backend.OpWrite:
					op.Data = pattern(uint64(g*rounds+round), length)
					copy(want, op.Data)
				case backend.OpZero, backend.OpTrim:
					clear(want)
				case backend.OpRead:
					op.Data = make([]byte, length)
				}
				if err := Do(t.chunks, op); err != nil {
					t.Errorf("%s: %v", describe(op), err)
					return
				}
				if op.Kind == backend.OpRead && !bytes.Equal(op.Data, want) {
					t.Errorf("goroutine %d, round %d: %s: wrong content", g, round, describe(op))
					return
				}
			}
		})
	}
	wg.Wait()
}

// readersSeeCandidates reads while one goroutine overwrites: every sector holds
// one of the written patterns whole, and never an older one than the last that
// was complete before the read began.
func (t *chunksTest) readersSeeCandidates() {
	ref := t.chunk()
	const length = 4 * block
	var acked atomic.Int64 // the byte of the last complete write
	t.write(ref, 0, bytes.Repeat([]byte{0}, length))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := acked.Load()
				op := t.op(backend.OpRead, ref, 0, length)
				op.Data = make([]byte, length)
				if err := Do(t.chunks, op); err != nil {
					t.Errorf("read: %v", err)
					return
				}
				for s := 0; s < length; s += sector {
					got := op.Data[s]
					if !bytes.Equal(op.Data[s:s+sector], bytes.Repeat([]byte{got}, sector)) {
						t.Errorf("sector at %d is torn", s)
						return
					}
					if int64(got) < least {
						t.Errorf("sector at %d holds write %d, though write %d was complete", s, got, least)
						return
					}
				}
			}
		})
	}
	for i := int64(1); i <= 255; i++ {
		op := t.op(backend.OpWrite, ref, 0, length)
		op.Data = bytes.Repeat([]byte{byte(i)}, length)
		if err := Do(t.chunks, op); err != nil {
			t.Errorf("write: %v", err)
			break
		}
		acked.Store(i)
	}
	close(stop)
	wg.Wait()
}

func (t *chunksTest) closeWaits() {
	c := newCountdown()
	var ops []*backend.Op
	for i := range 300 {
		op := t.op(backend.OpWrite, backend.ChunkRef{ID: backend.ChunkID(i%5 + 1), Size: chunkSize}, 0, block)
		op.Data = pattern(uint64(i), block)
		ops = append(ops, op)
		c.submit(t.chunks, op)
	}
	if err := t.chunks.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range ops {
		if c.calls[op] != 1 {
			t.Fatalf("%s: completed %d times when Close returned", describe(op), c.calls[op])
		}
		if op.Err != nil {
			t.Fatalf("%s: %v", describe(op), op.Err)
		}
	}
}
