package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// absentMeta is metadata that may be out of reach.
type absentMeta struct {
	backend.Meta
	away atomic.Bool
}

func (m *absentMeta) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	if m.away.Load() {
		return backend.VolumeInfo{}, backend.ErrUnreachable
	}
	return m.Meta.Volume(ctx, name)
}

func TestOpenExportTakesMoreClientsWhileTheMDSIsAway(t *testing.T) {
	g := newGateway(t, Options{})
	if _, err := g.CreateVolume(ctx, backend.VolumeSpec{Name: "other", Size: mib}); err != nil {
		t.Fatal(err)
	}
	meta := &absentMeta{Meta: g.meta}
	g.meta = meta
	first := mustOpen(t, g, "v")
	meta.away.Store(true)
	for _, name := range []string{"v", "/v"} {
		if info, err := g.Describe(ctx, name); err != nil || info != first.Info() {
			t.Errorf("%s is described as %+v (%v), want %+v", name, info, err, first.Info())
		}
		mustOpen(t, g, name).Release()
	}
	if _, err := g.Open(ctx, "other"); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("a volume that is not open: %v", err)
	}
	first.Release()
}
