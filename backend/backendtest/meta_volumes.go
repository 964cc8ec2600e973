package backendtest

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

var metaVolumeCases = []metaCase{
	{"CreatedVolumeIsAsAsked", func(t *testing.T, m backend.Meta) {
		spec := metaSpec("pg-data", 3)
		spec.QoS = backend.QoS{IOPS: 1000, IOPSBurst: 2000, BPS: 1 << 20, BPSBurst: 2 << 20}
		spec.Geometry.StripeUnit, spec.Geometry.StripeCount = 4096, 4
		before := time.Now().Add(-time.Second)
		info, err := m.CreateVolume(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		want := backend.VolumeInfo{
			ID: info.ID, Name: "pg-data", Size: spec.Size, Geometry: spec.Geometry, QoS: spec.QoS,
			State: backend.VolumeActive, CreatedAt: info.CreatedAt,
		}
		if info != want {
			t.Errorf("created %+v, want %+v", info, want)
		}
		if info.ID == 0 {
			t.Error("volume id is 0")
		}
		if info.CreatedAt.Before(before) || info.CreatedAt.After(time.Now().Add(time.Second)) {
			t.Errorf("created at %v, now is %v", info.CreatedAt, time.Now())
		}
		if got, err := m.Volume(t.Context(), "pg-data"); err != nil || got != info {
			t.Errorf("Volume returns %+v, %v, want what CreateVolume returned: %+v", got, err, info)
		}
	}},
	{"GeometryOfZeroIsTheDefault", func(t *testing.T, m backend.Meta) {
		info, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: 4096})
		if err != nil || info.Geometry != backend.DefaultGeometry() {
			t.Errorf("created with %+v, %v, want %+v", info.Geometry, err, backend.DefaultGeometry())
		}
	}},
	{"BadSpecsAreRefusedAndLeaveNothing", func(t *testing.T, m backend.Meta) {
		for name, c := range map[string]struct {
			change func(*backend.VolumeSpec)
			says   string
		}{
			"size 0":             {func(s *backend.VolumeSpec) { s.Size = 0 }, "0"},
			"negative size":      {func(s *backend.VolumeSpec) { s.Size = -4096 }, "-4096"},
			"part of a block":    {func(s *backend.VolumeSpec) { s.Size += 512 }, "4096"},
			"too large":          {func(s *backend.VolumeSpec) { s.Size = backend.MaxVolumeSize + 4096 }, "at most"},
			"far too large":      {func(s *backend.VolumeSpec) { s.Size = math.MaxInt64 &^ 4095 }, "at most"},
			"too many segments":  {func(s *backend.VolumeSpec) { s.Size = 1 << 60 }, "segments"},
			"block size 1000":    {func(s *backend.VolumeSpec) { s.Geometry.BlockSize = 1000 }, "1000"},
			"chunk size 3":       {func(s *backend.VolumeSpec) { s.Geometry.ChunkSize = 3 }, "chunk size 3"},
			"segment < chunk":    {func(s *backend.VolumeSpec) { s.Geometry.SegmentSize = 4096 }, "4096"},
			"stripe unit alone":  {func(s *backend.VolumeSpec) { s.Geometry.StripeUnit = 4096 }, "stripe"},
			"negative QoS":       {func(s *backend.VolumeSpec) { s.QoS.IOPS = -1 }, "-1"},
			"negative QoS burst": {func(s *backend.VolumeSpec) { s.QoS.BPSBurst = -7 }, "-7"},
		} {
			t.Run(name, func(t *testing.T) {
				spec := metaSpec("dir/v", 1)
				c.change(&spec)
				_, err := m.CreateVolume(t.Context(), spec)
				wantErr(t, err, backend.ErrInvalid, c.says)
			})
		}
		if got := volumeNames(t, m, ""); got != "" {
			t.Errorf("volumes after refusals: %s", got)
		}
	}},
	{"VolumeThatIsNotThereIsNotFound", func(t *testing.T, m backend.Meta) {
		_, err := m.Volume(t.Context(), "nobody")
		wantErr(t, err, backend.ErrNotFound, "nobody")
		_, err = m.ResizeVolume(t.Context(), "nobody", 1<<20)
		wantErr(t, err, backend.ErrNotFound, "nobody")
		_, err = m.RemoveVolume(t.Context(), "nobody")
		wantErr(t, err, backend.ErrNotFound, "nobody")
		_, err = m.OpenVolume(t.Context(), "nobody", "gw", backend.OpenExclusive)
		wantErr(t, err, backend.ErrNotFound, "nobody")
		_, err = m.Segments(t.Context(), 77)
		wantErr(t, err, backend.ErrNotFound, "77")
		_, err = m.Segment(t.Context(), 77, 0)
		wantErr(t, err, backend.ErrNotFound, "77")
		_, err = m.AllocateSegment(t.Context(), 77, 1, 0)
		wantErr(t, err, backend.ErrNotFound, "77")
		err = m.CloseVolume(t.Context(), 77, 1)
		wantErr(t, err, backend.ErrNotFound, "77")
	}},
	{"ResizeGrowsAndNeverShrinks", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 2)
		grown, err := m.ResizeVolume(t.Context(), "v", v.Size+4096)
		if err != nil || grown.Size != v.Size+4096 {
			t.Fatalf("grown to %d, %v, want %d", grown.Size, err, v.Size+4096)
		}
		if same, err := m.ResizeVolume(t.Context(), "v", grown.Size); err != nil || same != grown {
			t.Errorf("resize to the same size: %+v, %v, want %+v", same, err, grown)
		}
		for name, size := range map[string]int64{
			"smaller": v.Size, "zero": 0, "negative": -4096, "part of a block": grown.Size + 1, "too large": backend.MaxVolumeSize * 2,
		} {
			_, err := m.ResizeVolume(t.Context(), "v", size)
			if !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("resize to %s (%d): %v, want ErrInvalid", name, size, err)
			}
		}
		if got, err := m.Volume(t.Context(), "v"); err != nil || got != grown {
			t.Errorf("after refusals: %+v, %v, want %+v", got, err, grown)
		}
	}},
	{"ResizeWorksWhileOpen", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		if _, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, 1); !errors.Is(err, backend.ErrInvalid) {
			t.Fatalf("allocate past the end: %v, want ErrInvalid", err)
		}
		if _, err := m.ResizeVolume(t.Context(), "v", 2*metaGeometry().SegmentSize); err != nil {
			t.Fatal(err)
		}
		mustAllocate(t, m, lease, 1)
	}},
	{"CancelledCallsChangeNothing", func(t *testing.T, m backend.Meta) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.CreateVolume(ctx, metaSpec("v", 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("create with a cancelled context: %v", err)
		}
		if got := volumeNames(t, m, ""); got != "" {
			t.Errorf("volumes after a cancelled create: %s", got)
		}
	}},
	{"ClosedMetaAnswersErrClosed", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		for call, err := range closedMetaCalls(t.Context(), m) {
			if !errors.Is(err, backend.ErrClosed) {
				t.Errorf("%s after Close: %v, want ErrClosed", call, err)
			}
		}
	}},
}
