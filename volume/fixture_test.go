package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

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
