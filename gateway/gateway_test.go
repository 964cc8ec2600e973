package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

const (
	kib = 1 << 10
	mib = 1 << 20
)

// newGateway is a gateway in RAM with a volume "v" of 64 MiB.
func newGateway(t *testing.T, o Options) *Gateway {
	t.Helper()
	meta, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chunks := memory.New()
	o.Owner = "test"
	g := New(meta, chunks, o)
	t.Cleanup(func() {
		if err := g.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if n, b := g.limits.InFlight(); n != 0 || b != 0 {
			t.Errorf("%d permits of %d bytes were not given back", n, b)
		}
		_ = chunks.Close()
		_ = meta.Close()
	})
	if _, err := g.CreateVolume(ctx, backend.VolumeSpec{Name: "v", Size: 64 * mib}); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAllHandlesShareOneOpenOfTheVolume(t *testing.T) {
	g := newGateway(t, Options{})
	a := mustOpen(t, g, "v")
	b := mustOpen(t, g, "/v") // another spelling of the same name
	if a.export != b.export {
		t.Fatal("two exports of one volume: each open fences the other")
	}
	a.Release()
	r := volume.Request{Op: backend.OpWrite, Len: 4096, Data: make([]byte, 4096)}
	if done := make(waiter, 1); !b.Try(&r) {
		r.Done = done
		b.Submit(&r)
		<-done
	}
	if r.Err != nil {
		t.Errorf("write after another handle left: %v", r.Err)
	}
	b.Release()
	if g.lookup("v") != nil {
		t.Error("the volume is open though nobody holds it")
	}
}

type waiter chan struct{}

func (w waiter) RequestDone(*volume.Request) { w <- struct{}{} }

func TestOpensAndReleasesRacingLeaveNothingOpen(t *testing.T) {
	g := newGateway(t, Options{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				h, err := g.Open(ctx, "v")
				if err != nil {
					t.Error(err)
					return
				}
				r := volume.Request{Op: backend.OpRead, Len: 4096, Data: make([]byte, 4096), Done: make(waiter, 1)}
				if !h.Try(&r) {
					h.Submit(&r)
					<-r.Done.(waiter)
				}
				if r.Err != nil {
					t.Errorf("read on an open handle: %v", r.Err)
				}
				h.Release()
			}
		})
	}
	wg.Wait()
	if open := g.openExports(); len(open) != 0 {
		t.Errorf("%d exports are still open", len(open))
	}
	if v, err := g.Volume(ctx, "v"); err != nil || v.Owner != "" {
		t.Errorf("the lease is held by %q (%v)", v.Owner, err)
	}
}

func TestOpenOfWhatCannotBeHad(t *testing.T) {
	g := newGateway(t, Options{})
	if _, err := g.meta.OpenVolume(ctx, "v", "somebody else", backend.OpenExclusive); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, volume string
		want         error
		says         string
	}{
		{"no such volume", "nothing", backend.ErrNotFound, "nothing"},
		{"held elsewhere", "v", backend.ErrBusy, "somebody else"},
		{"bad name", "../v", backend.ErrInvalid, ".."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := g.Open(ctx, c.volume)
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %v, want %v naming %q", err, c.want, c.says)
			}
			if len(g.exports) != 0 {
				t.Error("the failed open left an entry in the table")
			}
		})
	}
}

func TestClosedGatewayRefusesHandles(t *testing.T) {
	g := newGateway(t, Options{})
	h := mustOpen(t, g, "v")
	if err := g.Close(ctx); err != nil {
		t.Fatal(err)
	}
	r := volume.Request{Op: backend.OpRead, Len: 4096, Data: make([]byte, 4096)}
	if !h.Try(&r) || !errors.Is(r.Err, backend.ErrClosed) {
		t.Errorf("request after close: %v", r.Err)
	}
	h.Release()
	if _, err := g.Open(ctx, "v"); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("open after close: %v", err)
	}
}

func TestReadOnlyGatewayRefusesChanges(t *testing.T) {
	g := newGateway(t, Options{ReadOnly: true})
	h := mustOpen(t, g, "v")
	defer h.Release()
	if !h.Info().ReadOnly {
		t.Error("Info does not say read-only")
	}
	for _, op := range []backend.OpKind{backend.OpWrite, backend.OpZero, backend.OpTrim} {
		r := volume.Request{Op: op, Len: 4096, Data: make([]byte, 4096), Done: make(waiter, 1)}
		if !h.Try(&r) || !errors.Is(r.Err, backend.ErrReadOnly) {
			t.Errorf("%v inline: %v", op, r.Err)
		}
		r.Err = nil
		h.Submit(&r)
		<-r.Done.(waiter)
		if !errors.Is(r.Err, backend.ErrReadOnly) {
			t.Errorf("%v submitted: %v", op, r.Err)
		}
	}
	r := volume.Request{Op: backend.OpRead, Len: 4096, Data: make([]byte, 4096), Done: make(waiter, 1)}
	if !h.Try(&r) {
		h.Submit(&r)
		<-r.Done.(waiter)
	}
	if r.Err != nil {
		t.Errorf("read: %v", r.Err)
	}
}

func TestBuffersStayWithinTheLimitWhateverSizesAreAsked(t *testing.T) {
	const limit = 8 * mib
	g := newGateway(t, Options{MaxBytes: limit})
	h := mustOpen(t, g, "v")
	defer h.Release()
	for _, size := range []int64{1 * mib, 4 * kib, 200 * kib, 1 * mib, 60 * kib, 1 * mib, 1} {
		var out []*Buffer
		for {
			b := h.TryBuffer(size)
			if b == nil {
				break
			}
			if int64(len(b.Data)) < size {
				t.Fatalf("asked %d, got %d", size, len(b.Data))
			}
			out = append(out, b)
			if held := g.buffers.heldBytes(); held > limit {
				t.Fatalf("%d bytes in buffers with a limit of %d, at size %d", held, limit, size)
			}
		}
		if len(out) == 0 {
			t.Errorf("no buffer of %d bytes at all", size)
		}
		for _, b := range out {
			b.Release()
		}
	}
}

func TestReleasedBuffersAreUsedAgain(t *testing.T) {
	g := newGateway(t, Options{})
	h := mustOpen(t, g, "v")
	defer h.Release()
	for _, size := range []int64{0, 4 * kib, 64 * kib, 256 * kib, mib} {
		if n := testing.AllocsPerRun(100, func() { h.TryBuffer(size).Release() }); n != 0 {
			t.Errorf("size %d: %v allocations per buffer", size, n)
		}
	}
}

func TestClientsThatKeepTheirBuffersLeaveSomeForOthers(t *testing.T) {
	g := newGateway(t, Options{})
	var handles []*Handle
	var taken []*Buffer
	for range 8 {
		h := mustOpen(t, g, "v")
		handles = append(handles, h)
		for b := h.TryBuffer(mib); b != nil; b = h.TryBuffer(mib) {
			taken = append(taken, b)
		}
	}
	polite := mustOpen(t, g, "v")
	handles = append(handles, polite)
	for range 3 {
		b := polite.TryBuffer(mib)
		if b == nil {
			t.Fatalf("nothing left beside %d MiB that others keep", len(taken))
		}
		taken = append(taken, b)
	}
	for _, b := range taken {
		b.Release()
	}
	for _, h := range handles {
		h.Release()
	}
}

func TestClientWaitsForItsShareUntilOthersGiveBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, Options{})
		a, b := mustOpen(t, g, "v"), mustOpen(t, g, "v")
		var others []*Handle
		for range 8 {
			others = append(others, mustOpen(t, g, "v"))
		}
		hold := func(h *Handle) (taken []*Buffer) {
			for x := h.TryBuffer(mib); x != nil; x = h.TryBuffer(mib) {
				taken = append(taken, x)
			}
			return taken
		}
		var ofA []*Buffer
		for _, h := range append(others, a) {
			ofA = append(ofA, hold(h)...)
		}
		ofB := hold(b)
		got := make(chan *Buffer)
		go func() {
			x, err := b.Buffer(ctx, mib)
			if err != nil {
				t.Error(err)
			}
			got <- x
		}()
		cancelled, cancel := context.WithCancel(ctx)
		go func() {
			if _, err := b.Buffer(cancelled, mib); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled wait: %v", err)
			}
			got <- nil
		}()
		synctest.Wait()
		cancel()
		if x := <-got; x != nil {
			t.Fatal("got more than its share")
		}
		for _, x := range ofA {
			x.Release()
		}
		(<-got).Release()
		for _, x := range ofB {
			x.Release()
		}
		for _, h := range append(others, a, b) {
			h.Release()
		}
	})
}

func TestMetricsOutliveTheLastClient(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := newGateway(t, Options{Metrics: reg})
	h := mustOpen(t, g, "v")
	var tally Tally
	tally.Add(backend.OpWrite, 4096, nil)
	tally.Add(backend.OpWrite, 4096, backend.ErrIO)
	h.Count(&tally)
	h.Count(&tally) // empty now
	h.Release()
	want := `# HELP curve_volume_bytes_total Payload or range bytes of requests served, by operation.
# TYPE curve_volume_bytes_total counter
curve_volume_bytes_total{op="flush",volume="v"} 0
curve_volume_bytes_total{op="read",volume="v"} 0
curve_volume_bytes_total{op="trim",volume="v"} 0
curve_volume_bytes_total{op="write",volume="v"} 4096
curve_volume_bytes_total{op="zero",volume="v"} 0
`
	if err := testutil.GatherAndCompare(reg, bytes.NewBufferString(want), "curve_volume_bytes_total"); err != nil {
		t.Error(err)
	}
	if _, err := g.RemoveVolume(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(reg, "curve_volume_bytes_total"); err != nil || n != 0 {
		t.Errorf("%d series of a removed volume (%v)", n, err)
	}
}

func TestStatusShowsClientsAndCounts(t *testing.T) {
	g := newGateway(t, Options{Version: "1.2.3", DataDir: "/data"})
	g.AddListener("nbd unix:/x")
	h := mustOpen(t, g, "v")
	defer h.Release()
	var tally Tally
	tally.Add(backend.OpRead, 8192, nil)
	h.Count(&tally)
	s := g.Status()
	if s.Version != "1.2.3" || s.DataDir != "/data" || len(s.Listeners) != 1 || len(s.Exports) != 1 {
		t.Fatalf("%+v", s)
	}
	if e := s.Exports[0]; e.Name != "v" || e.Connections != 1 || e.Reads != 1 || e.ReadBytes != 8192 || e.SizeBytes != 64*mib {
		t.Errorf("%+v", e)
	}
}

// A front end holds a volume for all its clients and makes each a handle: with one
// client that reads and writes there is one, not two.
func TestHandleForOthersIsNoClient(t *testing.T) {
	g := newGateway(t, Options{})
	var held, a, b, other *Handle
	for _, s := range []struct {
		name string
		do   func()
		want int64
	}{
		{"one for all", func() { held = mustOpen(t, g, "v") }, 1},
		{"its first client", func() { a = held.Another() }, 1},
		{"a second one", func() { b = held.Another() }, 2},
		{"one that came by itself", func() { other = mustOpen(t, g, "v") }, 3},
		{"a client leaves", func() { a.Release() }, 2},
		{"one made of a client", func() { a = b.Another() }, 3},
		{"which leaves", func() { a.Release() }, 2},
		{"the holder goes before its last client", func() { held.Release() }, 2},
		{"who leaves too", func() { b.Release() }, 1},
	} {
		s.do()
		if n := g.Status().Exports[0].Connections; n != s.want {
			t.Errorf("%s: %d clients, want %d", s.name, n, s.want)
		}
	}
	other.Release()
}
