package volume

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
)

// promptReplicas serve everything before Submit returns.
type promptReplicas struct {
	backend.Chunks
	extents func() error
	submits atomic.Int64
}

func (p *promptReplicas) Try(*backend.Op) bool { return false }

func (p *promptReplicas) Submit(op *backend.Op) {
	p.submits.Add(1)
	op.Err = nil
	op.Done.OpDone(op)
}

func (p *promptReplicas) Watch(w backend.RouteWatcher) {
	w.LeaderIs(1, 1, 1)
	w.LeaderIs(2, 2, 1)
}
func (p *promptReplicas) Unwatch(backend.RouteWatcher)            {}
func (p *promptReplicas) Ask(backend.ServerID, backend.CopysetID) {}
func (p *promptReplicas) Cancel(*backend.Op)                      {}

func (p *promptReplicas) Extents(_ context.Context, _ backend.VolumeID, _ backend.ChunkRef, _, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	if err := p.extents(); err != nil {
		return dst, err
	}
	return backend.AppendExtent(dst, length, false), nil
}

// openOn opens the scripts' volume on replicas.
func openOn(t testing.TB, replicas backend.Replicas, o Options) *Volume {
	t.Helper()
	o.Owner = "test"
	v, err := Open(ctx, &scriptedMeta{trace: &trace{}, peers: []backend.ServerID{1, 2, 3}}, replicas, "v", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(ctx); err != nil && !errors.Is(err, backend.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	if err := v.cache.ask(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSubmitToAKnownLeaderAllocatesNothing(t *testing.T) {
	v := openOn(t, &promptReplicas{}, Options{})
	data := make([]byte, 4096)
	done := make(signal, 1)
	var r Request
	if n := testing.AllocsPerRun(500, func() {
		r.Reset()
		r.Op, r.Len, r.Data, r.Done = backend.OpWrite, 4096, data, done
		v.Submit(&r)
		<-done
	}); n > 0.1 {
		t.Errorf("%v allocations per request", n)
	}
}

func TestFlushOnReplicasNeedsNoIO(t *testing.T) {
	replicas := &promptReplicas{}
	v := openOn(t, replicas, Options{})
	r := Request{Op: backend.OpFlush}
	if !v.Try(&r) || r.Err != nil || replicas.submits.Load() != 0 {
		t.Errorf("error %v, %d operations", r.Err, replicas.submits.Load())
	}
}

func TestExtentsWaitForALeader(t *testing.T) {
	cases := []struct {
		name     string
		errs     []error
		deadline time.Duration
		want     error
	}{
		{"while there is none", []error{backend.ErrNotLeader, backend.ErrUnreachable, nil}, 0, nil},
		{"but not when they cannot succeed", []error{backend.ErrInvalid}, 0, backend.ErrInvalid},
		{"until the deadline", []error{backend.ErrNotLeader}, time.Second, backend.ErrNotLeader},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				v := openOn(t, &promptReplicas{extents: func() error {
					n++
					return c.errs[min(n, len(c.errs))-1]
				}}, Options{Deadline: c.deadline})
				runs, err := v.Extents(ctx, 0, 8192, 10, nil)
				if !errors.Is(err, c.want) || err == nil && len(runs) != 1 {
					t.Errorf("%v, error %v, want %v", runs, err, c.want)
				}
				if n < len(c.errs) {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

func TestLeaseWithoutSessionIsRefused(t *testing.T) {
	meta := &noSession{scriptedMeta: scriptedMeta{trace: &trace{}}}
	if _, err := Open(ctx, meta, &promptReplicas{}, "v", Options{Owner: "test"}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("got %v: two openers' changes would be taken for each other's", err)
	}
	if meta.closed != 1 {
		t.Errorf("the lease was given back %d times", meta.closed)
	}
}

type noSession struct {
	scriptedMeta
	closed int
}

func (m *noSession) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	lease, err := m.scriptedMeta.OpenVolume(ctx, name, owner, mode)
	lease.Session = 0
	return lease, err
}

func (m *noSession) CloseVolume(context.Context, backend.VolumeID, backend.Epoch) error {
	m.closed++
	return nil
}

func TestRouteMetricsRegister(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	s := NewStats(reg)
	openOn(t, &promptReplicas{}, Options{Stats: s})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != 10 {
		t.Errorf("%d metrics", len(families))
	}
}

// hastyReplicas complete operations at any moment from any goroutine, also while
// they are being submitted or cancelled, and let leaders come and go.
type hastyReplicas struct {
	backend.Chunks
	t       *testing.T
	jobs    sync.WaitGroup
	mu      sync.Mutex // guards all below
	watcher backend.RouteWatcher
	out     map[*backend.Op]uint64 // sendings, by number
	sent    uint64
	term    uint64
	cancels int
}

func (h *hastyReplicas) Try(*backend.Op) bool { return false }

func (h *hastyReplicas) Submit(op *backend.Op) {
	h.mu.Lock()
	h.sent++
	id, odd := h.sent, h.sent%7
	if h.out[op] != 0 {
		h.t.Error("an operation was sent again while it is out")
	}
	h.out[op] = id
	h.mu.Unlock()
	switch {
	case odd == 0: // only a cancel ends it
	case odd < 3:
		h.finish(op, id, nil)
	case odd == 3:
		h.jobs.Go(func() { h.finish(op, id, backend.ErrOverload) })
	case odd == 4:
		h.jobs.Go(func() { h.finish(op, id, backend.ErrOutcomeUnknown) })
	default:
		h.jobs.Go(func() { h.finish(op, id, nil) })
	}
}

func (h *hastyReplicas) finish(op *backend.Op, id uint64, err error) bool {
	h.mu.Lock()
	if h.out[op] != id {
		h.mu.Unlock()
		return false
	}
	delete(h.out, op)
	h.mu.Unlock()
	op.Err = err
	op.Done.OpDone(op)
	return true
}

func (h *hastyReplicas) Cancel(op *backend.Op) {
	h.mu.Lock()
	id := h.out[op]
	h.cancels++
	h.mu.Unlock()
	if id != 0 {
		h.finish(op, id, backend.ErrOutcomeUnknown)
	}
}

func (h *hastyReplicas) Ask(backend.ServerID, backend.CopysetID) { h.elect() }

// elect makes another server the leader of both copysets.
func (h *hastyReplicas) elect() {
	h.mu.Lock()
	h.term++
	w, term := h.watcher, h.term
	h.mu.Unlock()
	if w != nil {
		w.LeaderIs(1, backend.ServerID(1+term%3), term)
		w.LeaderIs(2, backend.ServerID(1+term%3), term)
	}
}

func (h *hastyReplicas) Watch(w backend.RouteWatcher) {
	h.mu.Lock()
	h.watcher = w
	h.mu.Unlock()
	h.elect()
}

func (h *hastyReplicas) Unwatch(backend.RouteWatcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watcher = nil
}

// TestCompletionsMeetCancelsAndSubmits is for the race detector: in real time, on
// real threads, with requests that are used again as soon as they are complete.
func TestCompletionsMeetCancelsAndSubmits(t *testing.T) {
	h := &hastyReplicas{t: t, out: make(map[*backend.Op]uint64)}
	v := openOn(t, h, Options{TryTimeout: time.Millisecond})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			done := make(signal, 1)
			var r Request
			for range 60 {
				r.Reset()
				r.Op, r.Len, r.Data, r.Done = backend.OpWrite, 8192, make([]byte, 8192), done
				// Some lie on two chunks, and so go through split and dispatch.
				r.Off = scriptGeometry.ChunkSize*random.Int64N(8) + []int64{0, 4096, scriptGeometry.ChunkSize - 4096}[random.IntN(3)]
				v.Submit(&r)
				<-done
				if r.Err != nil {
					t.Error(r.Err)
				}
			}
		})
	}
	clients.Wait()
	h.jobs.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cancels == 0 || len(h.out) != 0 {
		t.Errorf("%d cancels, %d operations left", h.cancels, len(h.out))
	}
}

func BenchmarkSubmitReplicas(b *testing.B) {
	v := openOn(b, &promptReplicas{}, Options{})
	data := make([]byte, 4096)
	done := make(signal, 1)
	var r Request
	b.ReportAllocs()
	for i := range b.N {
		r.Reset()
		r.Op, r.Off, r.Len, r.Data, r.Done = backend.OpWrite, int64(i%8192)*4096, 4096, data, done
		v.Submit(&r)
		<-done
	}
}
