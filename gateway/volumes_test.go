package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
	"github.com/opencurve/curve-nbd/volume"
)

// ramGateway is a gateway with real metadata and chunks in RAM.
func ramGateway(t *testing.T) *Gateway {
	t.Helper()
	meta, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chunks := memory.New()
	g := New(meta, chunks, Options{})
	t.Cleanup(func() {
		if err := errors.Join(g.Close(context.Background()), chunks.Close(), meta.Close()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func mustCreate(t *testing.T, g *Gateway, name string, size int64) backend.VolumeInfo {
	t.Helper()
	v, err := g.CreateVolume(context.Background(), backend.VolumeSpec{Name: name, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustOpen(t *testing.T, g *Gateway, name string) *Handle {
	t.Helper()
	h, err := g.Open(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

type requestDone chan struct{}

func (d requestDone) RequestDone(*volume.Request) { close(d) }

// do runs one request to its end, as a front end would.
func do(t *testing.T, h *Handle, op backend.OpKind, off int64, data []byte) error {
	t.Helper()
	done := make(requestDone)
	r := &volume.Request{Op: op, Off: off, Len: int64(len(data)), Data: data, Done: done}
	if !h.Try(r) {
		h.Submit(r)
		<-done
	}
	return r.Err
}

func TestResizeReachesTheOpenExport(t *testing.T) {
	g := ramGateway(t)
	mustCreate(t, g, "pg", 1<<20)
	h := mustOpen(t, g, "pg")
	defer h.Release()
	block := bytes.Repeat([]byte{7}, 4096)
	if err := do(t, h, backend.OpWrite, 1<<20, block); !errors.Is(err, volume.ErrOutOfRange) {
		t.Fatalf("write past the end: %v, want ErrOutOfRange", err)
	}
	if _, err := g.ResizeVolume(context.Background(), "/pg", 2<<20); err != nil {
		t.Fatal(err)
	}
	if size := h.Info().Size; size != 2<<20 {
		t.Errorf("export has %d bytes, want %d", size, 2<<20)
	}
	if err := do(t, h, backend.OpWrite, 1<<20, block); err != nil {
		t.Errorf("write into the new part: %v", err)
	}
}

// slowOpen is metadata whose OpenVolume, after it read the volume, waits.
type slowOpen struct {
	backend.Meta
	read, goOn chan struct{}
}

func (m slowOpen) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	lease, err := m.Meta.OpenVolume(ctx, name, owner, mode)
	close(m.read)
	<-m.goOn
	return lease, err
}

func TestResizeDuringOpenIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := ramGateway(t)
		mustCreate(t, g, "pg", 1<<20)
		slow := slowOpen{Meta: g.meta, read: make(chan struct{}), goOn: make(chan struct{})}
		g.meta = slow

		opened := make(chan *Handle, 1)
		go func() {
			h, err := g.Open(context.Background(), "pg")
			if err != nil {
				t.Error(err)
			}
			opened <- h
		}()
		<-slow.read // the lease holds the old size
		resized := make(chan error, 1)
		go func() {
			_, err := g.ResizeVolume(context.Background(), "pg", 2<<20)
			resized <- err
		}()
		synctest.Wait() // until the resize waits for the open
		close(slow.goOn)
		h := <-opened
		defer h.Release()
		if err := <-resized; err != nil {
			t.Fatal(err)
		}
		if size := h.Info().Size; size != 2<<20 {
			t.Errorf("export has %d bytes, want %d", size, 2<<20)
		}
	})
}

func TestResizeGivesUpWaitingForAnOpenWithItsContext(t *testing.T) {
	g := ramGateway(t)
	mustCreate(t, g, "pg", 1<<20)
	slow := slowOpen{Meta: g.meta, read: make(chan struct{}), goOn: make(chan struct{})}
	g.meta = slow
	opened := make(chan *Handle, 1)
	go func() {
		h, _ := g.Open(context.Background(), "pg")
		opened <- h
	}()
	<-slow.read
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := g.settled(ctx, "pg"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	close(slow.goOn)
	(<-opened).Release()
}

func TestOpenVolumeIsNotRemoved(t *testing.T) {
	g := ramGateway(t)
	mustCreate(t, g, "pg", 1<<20)
	h := mustOpen(t, g, "pg")
	for _, purge := range []bool{false, true} {
		if _, err := g.RemoveVolume(context.Background(), "pg", purge); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("purge %v: %v, want ErrBusy", purge, err)
		}
	}
	h.Release()
	if _, err := g.RemoveVolume(context.Background(), "pg", false); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestUsageCountsAndPurgeFrees(t *testing.T) {
	g := ramGateway(t)
	ctx := context.Background()
	v := mustCreate(t, g, "pg", 1<<30)
	h := mustOpen(t, g, "pg")
	data := bytes.Repeat([]byte{1}, 1<<20)
	if err := do(t, h, backend.OpWrite, 0, data); err != nil {
		t.Fatal(err)
	}
	h.Release()
	if used, err := g.Usage(ctx, "pg"); err != nil || used < int64(len(data)) || used > 2*int64(len(data)) {
		t.Errorf("usage %d, %v; want about %d", used, err, len(data))
	}
	segments, err := g.meta.Segments(ctx, v.ID)
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %v, %v", segments, err)
	}
	if _, err := g.RemoveVolume(ctx, "pg", true); err != nil {
		t.Fatal(err)
	}
	if used, err := g.chunks.Usage(ctx, segments[0].Chunks); err != nil || used != 0 {
		t.Errorf("chunks of the purged volume take %d bytes, %v", used, err)
	}
	if bin, err := g.Recycled(ctx); err != nil || len(bin) != 0 {
		t.Errorf("recycle bin after the purge: %v, %v", bin, err)
	}
}

func TestRecoverFindsByIDAndByNameTheLastRemoved(t *testing.T) {
	g := ramGateway(t)
	ctx := context.Background()
	remove := func(name string) backend.VolumeInfo {
		v, err := g.RemoveVolume(ctx, name, false)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	mustCreate(t, g, "pg", 1<<20)
	first := remove("pg")
	mustCreate(t, g, "pg", 2<<20)
	second := remove("pg")

	if v, err := g.RecoverVolume(ctx, "pg", ""); err != nil || v.ID != second.ID || v.Name != "pg" {
		t.Errorf("by name: %+v, %v; want %v", v, err, second.ID)
	}
	_, err := g.RecoverVolume(ctx, "pg", "")
	if !errors.Is(err, backend.ErrExists) || !strings.Contains(err.Error(), "new name") {
		t.Errorf("taken name: %v, want ErrExists that says what to do", err)
	}
	if v, err := g.RecoverVolume(ctx, fmt.Sprint(uint64(first.ID)), "old"); err != nil || v.ID != first.ID || v.Name != "old" {
		t.Errorf("by id: %+v, %v; want %v", v, err, first.ID)
	}
	if _, err := g.RecoverVolume(ctx, "pg", "x"); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("nothing left: %v, want ErrNotFound", err)
	}
}

func TestRecycledVolumeNamedLikeAnIDIsFoundByItsName(t *testing.T) {
	bin := []backend.VolumeInfo{{ID: 1, Name: "2"}, {ID: 3, Name: "1"}}
	for _, c := range []struct {
		word string
		want backend.VolumeID
	}{{"1", 1}, {"2", 1}, {"3", 3}} {
		if v, ok := findRecycled(bin, c.word); !ok || v.ID != c.want {
			t.Errorf("%s found %v, %v; want %v", c.word, v.ID, ok, c.want)
		}
	}
}
