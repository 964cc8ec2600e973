package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// slowChunks is a store whose disk the test controls: it never serves inline,
// and keeps submitted operations until they are let go.
type slowChunks struct {
	backend.Chunks
	inline  bool
	mu      sync.Mutex
	holding bool
	held    []*backend.Op
	sent    atomic.Int64
	maxOut  int
}

func (s *slowChunks) Try(op *backend.Op) bool { return s.inline && s.Chunks.Try(op) }

func (s *slowChunks) Submit(op *backend.Op) {
	s.sent.Add(1)
	s.mu.Lock()
	if s.holding {
		s.held = append(s.held, op)
		s.maxOut = max(s.maxOut, len(s.held))
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.Chunks.Submit(op)
}

func (s *slowChunks) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

// release lets go of what is held, and of what comes later if for good.
func (s *slowChunks) release(forGood bool) {
	s.mu.Lock()
	ops := s.held
	s.held = nil
	s.holding = s.holding && !forGood
	s.mu.Unlock()
	for _, op := range ops {
		s.Chunks.Submit(op)
	}
}

func (s *slowChunks) heldOps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// countingMeta counts the questions to the MDS, and can make them wait or fail.
type countingMeta struct {
	backend.Meta
	asked, allocated atomic.Int64
	gate             chan struct{} // when not nil, allocations wait for it
	fail             error
}

func (m *countingMeta) Segment(ctx context.Context, id backend.VolumeID, i backend.SegmentIndex) (backend.Segment, error) {
	m.asked.Add(1)
	return m.Meta.Segment(ctx, id, i)
}

func (m *countingMeta) AllocateSegment(ctx context.Context, id backend.VolumeID, e backend.Epoch, i backend.SegmentIndex) (backend.Segment, error) {
	m.allocated.Add(1)
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return backend.Segment{}, ctx.Err()
		}
	}
	if m.fail != nil {
		return backend.Segment{}, m.fail
	}
	return m.Meta.AllocateSegment(ctx, id, e, i)
}

type fixture struct {
	*Volume
	meta   *countingMeta
	chunks *slowChunks
}

const testSize = 40 * mib

// open makes a volume of testSize bytes on memory and opens it. inline says
// whether the store serves inline.
func open(t testing.TB, g backend.Geometry, inline bool, q backend.QoS, o Options) *fixture {
	t.Helper()
	o.Owner = "test"
	m, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{meta: &countingMeta{Meta: m}, chunks: &slowChunks{Chunks: memory.New(), inline: inline}}
	if _, err := m.CreateVolume(ctx, backend.VolumeSpec{Name: "v", Size: testSize, Geometry: g, QoS: q}); err != nil {
		t.Fatal(err)
	}
	if f.Volume, err = Open(ctx, f.meta, f.chunks, "v", o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.chunks.release(true)
		if err := f.Close(ctx); err != nil && !errors.Is(err, backend.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if n, b := f.Limits().InFlight(); n != 0 || b != 0 {
			t.Errorf("%d permits of %d bytes were not given back", n, b)
		}
		_ = f.chunks.Close()
		_ = m.Close()
	})
	return f
}

type completion struct {
	done  chan struct{}
	times atomic.Int32
}

func (c *completion) RequestDone(*Request) {
	if c.times.Add(1) == 1 {
		close(c.done)
	}
}

// start submits a request and returns it with its completion.
func (f *fixture) start(op backend.OpKind, flags backend.Flags, off, n int64, data []byte) (*Request, *completion) {
	c := &completion{done: make(chan struct{})}
	r := &Request{Op: op, Flags: flags, Off: off, Len: n, Data: data, Done: c}
	f.Submit(r)
	return r, c
}

// do runs a request to its end, inline if possible.
func (f *fixture) do(op backend.OpKind, off, n int64, data []byte) (*Request, error) {
	r := &Request{Op: op, Off: off, Len: n, Data: data}
	if f.Try(r) {
		return r, r.Err
	}
	c := &completion{done: make(chan struct{})}
	r.Done = c
	f.Submit(r)
	<-c.done
	return r, r.Err
}

func (f *fixture) read(t *testing.T, off, n int64) []byte {
	t.Helper()
	data := bytes.Repeat([]byte{0xee}, int(n))
	if _, err := f.do(backend.OpRead, off, n, data); err != nil {
		t.Fatalf("read at %d: %v", off, err)
	}
	return data
}

// everyPath runs a test through both ways into the volume and both layouts.
func everyPath(t *testing.T, test func(t *testing.T, g backend.Geometry, inline bool)) {
	for _, layout := range []struct {
		name string
		g    backend.Geometry
	}{{"plain", plain}, {"striped", striped}} {
		for _, inline := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/inline=%t", layout.name, inline), func(t *testing.T) { test(t, layout.g, inline) })
		}
	}
}

func TestVolumeBehavesLikeAByteArray(t *testing.T) {
	everyPath(t, func(t *testing.T, g backend.Geometry, inline bool) {
		f := open(t, g, inline, backend.QoS{}, Options{})
		model := make([]byte, testSize)
		rnd := rand.New(rand.NewPCG(1, 2))
		for step := range 600 {
			blocks := int64(testSize / 4096)
			off := rnd.Int64N(blocks)
			n := min(1+rnd.Int64N(1<<rnd.IntN(10)), blocks-off) * 4096
			off *= 4096
			var err error
			switch rnd.IntN(5) {
			case 0, 1:
				data := make([]byte, n)
				for i := range data {
					data[i] = byte(step + i>>9)
				}
				copy(model[off:], data)
				_, err = f.do(backend.OpWrite, off, n, data)
			case 2:
				clear(model[off : off+n])
				_, err = f.do(backend.OpZero, off, n, nil)
			case 3:
				clear(model[off : off+n])
				_, err = f.do(backend.OpTrim, off, n, nil)
			default:
				if !bytes.Equal(f.read(t, off, n), model[off:off+n]) {
					t.Fatalf("step %d: read of %d at %d differs from the model", step, n, off)
				}
			}
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if !bytes.Equal(f.read(t, 0, testSize), model) {
			t.Fatal("whole volume differs from the model")
		}
	})
}

func TestUnallocatedReadsCostNoIO(t *testing.T) {
	everyPath(t, func(t *testing.T, g backend.Geometry, inline bool) {
		f := open(t, g, inline, backend.QoS{}, Options{})
		for range 3 {
			data := bytes.Repeat([]byte{1}, 16*mib)
			r, err := f.do(backend.OpRead, 4*mib, 16*mib, data)
			if err != nil || !r.Hole || !bytes.Equal(data, make([]byte, len(data))) {
				t.Fatalf("err %v, hole %t", err, r.Hole)
			}
		}
		if n := f.chunks.sent.Load(); n != 0 {
			t.Errorf("%d operations reached the backend", n)
		}
		if n := f.meta.asked.Load(); n > 3 {
			t.Errorf("asked the MDS %d times about 3 segments", n)
		}
		if n := f.meta.allocated.Load(); n != 0 {
			t.Errorf("reads allocated %d segments", n)
		}
	})
}

func TestTrimAndZeroOfUnallocatedSpaceAllocateNothing(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	for _, op := range []backend.OpKind{backend.OpTrim, backend.OpZero} {
		if _, err := f.do(op, 0, testSize, nil); err != nil {
			t.Fatal(err)
		}
	}
	if f.meta.allocated.Load() != 0 || f.chunks.sent.Load() != 0 {
		t.Errorf("allocated %d segments, sent %d operations", f.meta.allocated.Load(), f.chunks.sent.Load())
	}
}

func TestNoHoleZeroAllocates(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	r, c := f.start(backend.OpZero, backend.FlagNoHole, 0, 9*mib, nil)
	<-c.done
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	exts, err := f.Extents(ctx, 0, testSize, 100, nil)
	want := []backend.Extent{{Length: 9 * mib}, {Length: testSize - 9*mib, Hole: true}}
	if err != nil || fmt.Sprint(exts) != fmt.Sprint(want) {
		t.Errorf("extents %v (%v), want %v", exts, err, want)
	}
}

func TestManyWritersToOneNewSegmentAllocateItOnce(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.gate = make(chan struct{})
	var waiting []*completion
	for i := range int64(50) {
		_, c := f.start(backend.OpWrite, 0, i*4096, 4096, make([]byte, 4096))
		waiting = append(waiting, c)
	}
	close(f.meta.gate)
	for _, c := range waiting {
		<-c.done
	}
	if n := f.meta.allocated.Load(); n != 1 {
		t.Errorf("allocated %d times", n)
	}
}

func TestStalledAllocationDoesNotHoldUpKnownSegments(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	f.meta.gate = make(chan struct{})
	var stalled []*completion
	for i := range int64(100) {
		_, c := f.start(backend.OpWrite, 0, 8*mib+i*4096, 4096, make([]byte, 4096))
		stalled = append(stalled, c)
	}
	for range 100 {
		if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	if n, oldest := f.Queued(); n != 100 || oldest <= 0 {
		t.Errorf("%d requests queued, the oldest for %v; want 100", n, oldest)
	}
	close(f.meta.gate)
	for _, c := range stalled {
		<-c.done
	}
}

func TestFailedAllocationFailsItsRequestsOnly(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.fail = backend.ErrNoSpace
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("write: %v", err)
	}
	f.read(t, 0, 4096)
	f.meta.fail = nil
	if _, err := f.do(backend.OpWrite, 0, 4096, make([]byte, 4096)); err != nil {
		t.Errorf("write after the MDS recovered: %v", err)
	}
}

func TestHugeTrimIsHandedOutInWindows(t *testing.T) {
	g := backend.Geometry{BlockSize: 4096, ChunkSize: 64 * kib, SegmentSize: 8 * mib}
	f := open(t, g, false, backend.QoS{}, Options{})
	for off := int64(0); off < testSize; off += 64 * kib { // 640 chunks
		if _, err := f.do(backend.OpWrite, off, 4096, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	f.chunks.hold()
	r, c := f.start(backend.OpTrim, 0, 0, testSize, nil)
	for completed := false; !completed; {
		f.chunks.release(false)
		select {
		case <-c.done:
			completed = true
		default:
		}
	}
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if f.chunks.maxOut > windowPieces {
		t.Errorf("%d pieces of one request were out at once, limit %d", f.chunks.maxOut, windowPieces)
	}
	if exts, _ := f.Extents(ctx, 0, testSize, 10, nil); len(exts) != 1 || !exts[0].Hole {
		t.Errorf("not everything was trimmed: %v", exts)
	}
}

func TestRequestCompletesOnceWithTheFirstError(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 6*mib, make([]byte, 6*mib)); err != nil {
		t.Fatal(err)
	}
	// A later open fences this one: every piece fails.
	if _, err := f.meta.OpenVolume(ctx, "v", "test", backend.OpenExclusive); err != nil {
		t.Fatal(err)
	}
	op := backend.Op{Kind: backend.OpRead, Volume: f.ID(), Epoch: f.Epoch() + 1, Data: make([]byte, 4096), Len: 4096}
	segment, _ := f.cache.lookup(0)
	op.Chunk = segment.Chunks[0]
	if !f.chunks.Chunks.Try(&op) || op.Err != nil {
		t.Fatalf("new owner: %v", op.Err)
	}
	r, c := f.start(backend.OpRead, 0, 0, 6*mib, make([]byte, 6*mib))
	<-c.done
	if !errors.Is(r.Err, backend.ErrStaleEpoch) || c.times.Load() != 1 {
		t.Errorf("completed %d times with %v", c.times.Load(), r.Err)
	}
	if err := f.Close(ctx); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("close of a lost volume: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	block := make([]byte, 4096)
	cases := []struct {
		name string
		r    *Request
		want error
	}{
		{"past the end", &Request{Op: backend.OpRead, Off: testSize, Len: 4096, Data: block}, ErrOutOfRange},
		{"across the end", &Request{Op: backend.OpWrite, Off: testSize - 4096, Len: 8192, Data: make([]byte, 8192)}, ErrOutOfRange},
		{"negative offset", &Request{Op: backend.OpRead, Off: -4096, Len: 4096, Data: block}, ErrOutOfRange},
		{"offset that overflows", &Request{Op: backend.OpTrim, Off: 1<<63 - 4096, Len: 8192}, ErrOutOfRange},
		{"negative length", &Request{Op: backend.OpTrim, Off: 0, Len: -4096}, ErrOutOfRange},
		{"unaligned offset", &Request{Op: backend.OpRead, Off: 512, Len: 4096, Data: block}, ErrUnaligned},
		{"unaligned length", &Request{Op: backend.OpZero, Off: 0, Len: 100}, ErrUnaligned},
		{"data of another length", &Request{Op: backend.OpWrite, Off: 0, Len: 8192, Data: block}, backend.ErrInvalid},
		{"no such operation", &Request{Op: 99}, backend.ErrInvalid},
		{"fast zero that keeps space", &Request{Op: backend.OpZero, Len: 4096, Flags: backend.FlagFastZero | backend.FlagNoHole}, backend.ErrNotSupported},
		{"zero length is nothing to do", &Request{Op: backend.OpTrim}, nil},
	}
	f := open(t, plain, true, backend.QoS{}, Options{})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !f.Try(c.r) || !errors.Is(c.r.Err, c.want) {
				t.Errorf("Try: %v, want %v", c.r.Err, c.want)
			}
			r, done := f.start(c.r.Op, c.r.Flags, c.r.Off, c.r.Len, c.r.Data)
			<-done.done
			if !errors.Is(r.Err, c.want) {
				t.Errorf("Submit: %v, want %v", r.Err, c.want)
			}
		})
	}
}

func TestCloseWaitsForWhatIsInFlightAndRefusesTheRest(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.chunks.hold()
	_, inFlight := f.start(backend.OpWrite, 0, 0, 4096, make([]byte, 4096))
	for f.chunks.heldOps() == 0 {
		time.Sleep(time.Millisecond) // the stages are at work
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close(ctx) }()
	for {
		r, c := f.start(backend.OpRead, 0, 0, 4096, make([]byte, 4096))
		select {
		case <-c.done:
		default: // came before the close
			continue
		}
		if errors.Is(r.Err, backend.ErrClosed) {
			break
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("closed (%v) with a write in flight", err)
	default:
	}
	f.chunks.release(true)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	<-inFlight.done
	if _, err := f.meta.OpenVolume(ctx, "v", "other", backend.OpenExclusive); err != nil {
		t.Errorf("the lease was not given back: %v", err)
	}
}

func TestCloseDeadlineEndsWaitsForTheMDS(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	f.meta.gate = make(chan struct{}) // never opened
	r, c := f.start(backend.OpWrite, 0, 0, 4096, make([]byte, 4096))
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := f.Close(short); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if r.Err == nil {
		t.Error("a write that was never allocated succeeded")
	}
}

func TestResizeWhileOpenLetsRequestsIn(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	if _, err := f.do(backend.OpWrite, 0, 4096, bytes.Repeat([]byte{7}, 4096)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.do(backend.OpWrite, testSize, 4096, make([]byte, 4096)); !errors.Is(err, ErrOutOfRange) {
		t.Fatalf("write past the old end: %v", err)
	}
	if _, err := f.meta.ResizeVolume(ctx, "v", 2*testSize); err != nil {
		t.Fatal(err)
	}
	f.Resize(2 * testSize)
	if _, err := f.do(backend.OpWrite, 2*testSize-4096, 4096, make([]byte, 4096)); err != nil {
		t.Fatalf("write before the new end: %v", err)
	}
	if f.read(t, 0, 4096)[0] != 7 {
		t.Error("old data is gone")
	}
}

func TestExtentsStopAtTheLimit(t *testing.T) {
	f := open(t, plain, true, backend.QoS{}, Options{})
	for i := range int64(10) {
		if _, err := f.do(backend.OpWrite, i*2*mib, mib, bytes.Repeat([]byte{1}, mib)); err != nil {
			t.Fatal(err)
		}
	}
	exts, err := f.Extents(ctx, 0, testSize, 3, nil)
	want := []backend.Extent{{Length: mib}, {Length: mib, Hole: true}, {Length: mib}}
	if err != nil || fmt.Sprint(exts) != fmt.Sprint(want) {
		t.Errorf("extents %v (%v), want %v", exts, err, want)
	}
}

func TestQoSHoldsTheRate(t *testing.T) {
	cases := []struct {
		name string
		qos  backend.QoS
		n    int
		size int64
		want time.Duration
	}{
		{"iops", backend.QoS{IOPS: 100, IOPSBurst: 10}, 210, 4096, 2 * time.Second},
		{"bytes per second", backend.QoS{BPS: mib, BPSBurst: mib}, 4, mib, 3 * time.Second},
		{"request larger than the burst", backend.QoS{BPS: mib, BPSBurst: 64 * kib}, 1, mib, 937500 * time.Microsecond},
		{"both, the tighter one counts", backend.QoS{IOPS: 1000, IOPSBurst: 1, BPS: 40960, BPSBurst: 4096}, 11, 4096, time.Second},
	}
	for _, c := range cases {
		for _, inline := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/inline=%t", c.name, inline), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := open(t, plain, inline, c.qos, Options{})
					began := time.Now()
					for range c.n {
						if _, err := f.do(backend.OpRead, 0, c.size, make([]byte, c.size)); err != nil {
							t.Fatal(err)
						}
					}
					// The limiter rounds each wait; a request's worth is the slack.
					took := time.Since(began)
					if took < c.want-10*time.Millisecond || took > c.want+20*time.Millisecond {
						t.Errorf("took %v, want %v", took, c.want)
					}
				})
			})
		}
	}
}

func TestFlushIsNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := open(t, plain, false, backend.QoS{IOPS: 1, IOPSBurst: 1}, Options{})
		var writes []*completion
		for range 5 {
			_, c := f.start(backend.OpRead, 0, 0, 4096, make([]byte, 4096))
			writes = append(writes, c)
		}
		began := time.Now()
		if _, err := f.do(backend.OpFlush, 0, 0, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("flush waited %v", took)
		}
		for _, c := range writes {
			<-c.done
		}
	})
}

func TestInlineServiceAllocatesNothing(t *testing.T) {
	f := open(t, plain, true, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	if _, err := f.do(backend.OpWrite, 0, 4096, data); err != nil {
		t.Fatal(err)
	}
	for _, op := range []backend.OpKind{backend.OpRead, backend.OpWrite} {
		var r Request
		if n := testing.AllocsPerRun(200, func() {
			r.Reset()
			r.Op, r.Len, r.Data = op, 4096, data
			if !f.Try(&r) || r.Err != nil {
				t.Fatal(r.Err)
			}
		}); n != 0 {
			t.Errorf("%v: %v allocations per request", op, n)
		}
	}
}

func TestSubmitAllocatesNothing(t *testing.T) {
	f := open(t, plain, false, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	if _, err := f.do(backend.OpWrite, 0, 4096, data); err != nil {
		t.Fatal(err)
	}
	done := make(signal, 1)
	var r Request
	if n := testing.AllocsPerRun(200, func() {
		r.Reset()
		r.Op, r.Len, r.Data, r.Done = backend.OpRead, 4096, data, done
		f.Submit(&r)
		<-done
	}); n > 0.1 {
		t.Errorf("%v allocations per request", n)
	}
}

type signal chan struct{}

func (s signal) RequestDone(*Request) { s <- struct{}{} }

func BenchmarkTry(b *testing.B) { benchmarkVolume(b, true) }

func BenchmarkSubmit(b *testing.B) { benchmarkVolume(b, false) }

func benchmarkVolume(b *testing.B, inline bool) {
	f := open(b, backend.DefaultGeometry(), inline, backend.QoS{}, Options{})
	data := make([]byte, 4096)
	done := make(signal, 1)
	var r Request
	b.ReportAllocs()
	for i := range b.N {
		r.Reset()
		r.Op, r.Off, r.Len, r.Data, r.Done = backend.OpWrite, int64(i%8192)*4096, 4096, data, done
		if !f.Try(&r) {
			f.Submit(&r)
			<-done
		}
		if r.Err != nil {
			b.Fatal(r.Err)
		}
	}
}
