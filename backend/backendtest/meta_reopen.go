package backendtest

import (
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// TestMetaReopened checks that what backend.Meta acknowledged outlives it. open
// returns an empty one; reopen closes it and opens what it stored again. Leases
// may be gone after that (a backend may know that their owners are dead), their
// epochs must not come back.
func TestMetaReopened(t *testing.T, open func(t *testing.T) backend.Meta, reopen func(t *testing.T, m backend.Meta) backend.Meta) {
	t.Run("VolumesSegmentsAndTheBinOutliveAReopen", func(t *testing.T) {
		m := open(t)
		for i := range 5 {
			mustCreate(t, m, fmt.Sprintf("dir%d/v", i), 8)
		}
		if _, err := m.ResizeVolume(t.Context(), "dir1/v", 16*metaGeometry().SegmentSize); err != nil {
			t.Fatal(err)
		}
		lease := mustOpen(t, m, "dir2/v", "gw", backend.OpenExclusive)
		segments := []backend.Segment{mustAllocate(t, m, lease, 3), mustAllocate(t, m, lease, 7)}
		mustClose(t, m, lease)
		removed := mustRemove(t, m, "dir3/v")
		purging := mustRemove(t, m, "dir4/v")
		if _, err := m.PurgeVolume(t.Context(), purging.ID); err != nil {
			t.Fatal(err)
		}
		before, err := m.Volumes(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}

		m = reopen(t, m)
		after, err := m.Volumes(t.Context(), "")
		if err != nil || len(after) != len(before) {
			t.Fatalf("%d volumes, %v, want %d", len(after), err, len(before))
		}
		for i := range before {
			if before[i] != after[i] {
				t.Errorf("volume is %+v, was %+v", after[i], before[i])
			}
		}
		got, err := m.Segments(t.Context(), lease.Volume.ID)
		if err != nil || len(got) != len(segments) {
			t.Fatalf("%d segments, %v, want %d", len(got), err, len(segments))
		}
		for i := range got {
			wantSameSegment(t, got[i], segments[i])
		}
		if back, err := m.RecoverVolume(t.Context(), removed.ID, ""); err != nil || back.Name != "dir3/v" {
			t.Errorf("recover after reopen: %+v, %v", back, err)
		}
		if _, err := m.RecoverVolume(t.Context(), purging.ID, ""); err == nil {
			t.Error("a volume whose purge had begun was recovered")
		}
	})
	t.Run("IDsAndEpochsGoOnAfterAReopen", func(t *testing.T) {
		m := open(t)
		v := mustCreate(t, m, "v", 4)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		seg := mustAllocate(t, m, lease, 0)

		m = reopen(t, m)
		again := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		if again.Epoch <= lease.Epoch || again.Session <= lease.Session {
			t.Errorf("epoch %d and session %d after %d and %d", again.Epoch, again.Session, lease.Epoch, lease.Session)
		}
		_, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, 1)
		wantErr(t, err, backend.ErrStaleEpoch)
		next := mustAllocate(t, m, again, 1)
		if last := seg.Chunks[len(seg.Chunks)-1].ID; next.Chunks[0].ID <= last {
			t.Errorf("chunk %d after %d", next.Chunks[0].ID, last)
		}
		if w := mustCreate(t, m, "w", 1); w.ID <= v.ID {
			t.Errorf("volume %d after %d", w.ID, v.ID)
		}
	})
	t.Run("RecordsAndTheClustersIDOutliveAReopen", func(t *testing.T) { metaRecordReopenCase(t, open, reopen) })
}
