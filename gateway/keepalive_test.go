package gateway

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/volume"
)

// pulseMeta counts the signs of life, and can hang like an MDS that is away.
type pulseMeta struct {
	backend.Meta
	owner atomic.Pointer[string]
	beats atomic.Int64
	hang  atomic.Bool
	modes []backend.OpenMode
}

func (m *pulseMeta) KeepAlive(ctx context.Context, owner string) error {
	m.owner.Store(&owner)
	m.beats.Add(1)
	if m.hang.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (m *pulseMeta) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	m.modes = append(m.modes, mode)
	return m.Meta.OpenVolume(ctx, name, owner, backend.OpenExclusive)
}

func pulseGateway(t *testing.T, o Options) (*Gateway, *pulseMeta) {
	t.Helper()
	m, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	meta := &pulseMeta{Meta: m}
	chunks := memory.New()
	g := New(meta, chunks, o)
	if _, err := g.CreateVolume(ctx, backend.VolumeSpec{Name: "v", Size: 64 * mib}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		_ = chunks.Close()
		_ = m.Close()
	})
	return g, meta
}

func TestGatewayKeepsItsLeasesWhileVolumesAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, meta := pulseGateway(t, Options{Owner: "me"})
		time.Sleep(time.Minute)
		if n := meta.beats.Load(); n != 0 {
			t.Errorf("%d signs of life without a volume", n)
		}
		a, b := mustOpen(t, g, "v"), mustOpen(t, g, "v")
		time.Sleep(time.Minute)
		if n := meta.beats.Load(); n < 29 || n > 30 || *meta.owner.Load() != "me" {
			t.Errorf("%d signs of life of %q in a minute, one each %v wanted", n, *meta.owner.Load(), keepAliveEvery)
		}
		a.Release()
		b.Release()
		n := meta.beats.Load()
		time.Sleep(time.Minute)
		if meta.beats.Load() != n {
			t.Error("signs of life after the last volume was closed")
		}
		c := mustOpen(t, g, "v")
		time.Sleep(time.Minute)
		if meta.beats.Load() == n {
			t.Error("no sign of life after a volume was opened again")
		}
		c.Release()
	})
}

func TestIOAndCloseGoOnWhileTheMDSHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, meta := pulseGateway(t, Options{})
		h := mustOpen(t, g, "v")
		r := volume.Request{Op: backend.OpWrite, Len: 4096, Data: make([]byte, 4096), Done: make(waiter, 1)}
		h.Submit(&r) // allocates
		<-r.Done.(waiter)
		meta.hang.Store(true)
		time.Sleep(keepAliveEvery + keepAliveTimeout/2)
		r.Reset()
		r.Op, r.Len, r.Data, r.Done = backend.OpWrite, 4096, make([]byte, 4096), make(waiter, 1)
		began := time.Now()
		h.Submit(&r)
		<-r.Done.(waiter)
		if r.Err != nil || time.Since(began) > 0 {
			t.Errorf("a write took %v and ended with %v", time.Since(began), r.Err)
		}
		h.Release()
		if d := time.Since(began); d > 0 {
			t.Errorf("close took %v", d)
		}
	})
}

func TestSizeSetElsewhereIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, meta := pulseGateway(t, Options{})
		h := mustOpen(t, g, "v")
		if _, err := meta.ResizeVolume(ctx, "v", 96*mib); err != nil {
			t.Fatal(err)
		}
		time.Sleep(keepAliveEvery + keepAliveTimeout)
		if size := h.Info().Size; size != 96*mib {
			t.Errorf("the export has %d bytes", size)
		}
		h.Release()
	})
}

func TestTakeOverIsPassedOn(t *testing.T) {
	for _, takeOver := range []bool{false, true} {
		g, meta := pulseGateway(t, Options{TakeOver: takeOver})
		mustOpen(t, g, "v").Release()
		want := backend.OpenExclusive
		if takeOver {
			want = backend.OpenTakeOver
		}
		if len(meta.modes) != 1 || meta.modes[0] != want {
			t.Errorf("take over %t opened with modes %v", takeOver, meta.modes)
		}
	}
}
