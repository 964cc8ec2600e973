package backendtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// metaCase is one sentence of backend.Meta's contract.
type metaCase struct {
	name string
	run  func(t *testing.T, m backend.Meta)
}

// TestMeta checks an implementation of backend.Meta against its contract. open
// returns an empty one, which the caller closes when t ends; closing it here
// first must do no harm.
func TestMeta(t *testing.T, open func(t *testing.T) backend.Meta) {
	for _, group := range [][]metaCase{metaVolumeCases, metaNameCases, metaLeaseCases, metaSegmentCases, metaRecycleCases, metaRecordCases, metaRaceCases} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
		}
	}
}

// metaGeometry is small, so that a volume of a few megabytes has many segments:
// 4 chunks of 64 KiB each.
func metaGeometry() backend.Geometry {
	return backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 256 << 10}
}

func metaSpec(name string, segments int64) backend.VolumeSpec {
	return backend.VolumeSpec{Name: name, Size: segments * metaGeometry().SegmentSize, Geometry: metaGeometry()}
}

func mustCreate(t *testing.T, m backend.Meta, name string, segments int64) backend.VolumeInfo {
	t.Helper()
	info, err := m.CreateVolume(t.Context(), metaSpec(name, segments))
	if err != nil {
		t.Fatalf("CreateVolume(%q): %v", name, err)
	}
	return info
}

func mustOpen(t *testing.T, m backend.Meta, name, owner string, mode backend.OpenMode) backend.Lease {
	t.Helper()
	lease, err := m.OpenVolume(t.Context(), name, owner, mode)
	if err != nil {
		t.Fatalf("OpenVolume(%q, %q, %d): %v", name, owner, mode, err)
	}
	return lease
}

func mustAllocate(t *testing.T, m backend.Meta, lease backend.Lease, index backend.SegmentIndex) backend.Segment {
	t.Helper()
	seg, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, index)
	if err != nil {
		t.Fatalf("AllocateSegment(%s, epoch %d, %d): %v", lease.Volume.ID, lease.Epoch, index, err)
	}
	return seg
}

func mustClose(t *testing.T, m backend.Meta, lease backend.Lease) {
	t.Helper()
	if err := m.CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch); err != nil {
		t.Fatalf("CloseVolume(%s, epoch %d): %v", lease.Volume.ID, lease.Epoch, err)
	}
}

func mustRemove(t *testing.T, m backend.Meta, name string) backend.VolumeInfo {
	t.Helper()
	info, err := m.RemoveVolume(t.Context(), name)
	if err != nil {
		t.Fatalf("RemoveVolume(%q): %v", name, err)
	}
	return info
}

// wantErr fails unless err is want and its text holds each of words: an error
// must also tell its reader what was wrong.
func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func volumeNames(t *testing.T, m backend.Meta, dir string) string {
	t.Helper()
	infos, err := m.Volumes(t.Context(), dir)
	if err != nil {
		t.Fatalf("Volumes(%q): %v", dir, err)
	}
	names := make([]string, len(infos))
	for i, info := range infos {
		names[i] = info.Name
	}
	return strings.Join(names, " ")
}

// closedMetaCalls is every method of backend.Meta but Close.
func closedMetaCalls(ctx context.Context, m backend.Meta) map[string]error {
	errs := map[string]error{}
	_, errs["CreateVolume"] = m.CreateVolume(ctx, metaSpec("late", 1))
	_, errs["Volume"] = m.Volume(ctx, "v")
	_, errs["Volumes"] = m.Volumes(ctx, "")
	_, errs["ResizeVolume"] = m.ResizeVolume(ctx, "v", 1<<20)
	_, errs["RemoveVolume"] = m.RemoveVolume(ctx, "v")
	_, errs["Recycled"] = m.Recycled(ctx)
	_, errs["RecoverVolume"] = m.RecoverVolume(ctx, 1, "")
	_, errs["PurgeVolume"] = m.PurgeVolume(ctx, 1)
	errs["PurgeDone"] = m.PurgeDone(ctx, 1)
	_, errs["OpenVolume"] = m.OpenVolume(ctx, "v", "gw", backend.OpenExclusive)
	errs["KeepAlive"] = m.KeepAlive(ctx, "gw")
	_, errs["Copyset"] = m.Copyset(ctx, 1)
	errs["CloseVolume"] = m.CloseVolume(ctx, 1, 1)
	_, errs["Segment"] = m.Segment(ctx, 1, 0)
	_, errs["AllocateSegment"] = m.AllocateSegment(ctx, 1, 1, 0)
	_, errs["Segments"] = m.Segments(ctx, 1)
	_, errs["Record"] = m.Record(ctx, "k")
	_, errs["Records"] = m.Records(ctx, "")
	_, _, errs["RecordChanges"] = m.RecordChanges(ctx, "", 1)
	_, errs["PutRecord"] = m.PutRecord(ctx, "k", nil, 0)
	errs["DeleteRecord"] = m.DeleteRecord(ctx, "k", 1)
	_, errs["ClusterID"] = m.ClusterID(ctx)
	return errs
}
