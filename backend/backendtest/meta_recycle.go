package backendtest

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func recycledIDs(t *testing.T, m backend.Meta) []backend.VolumeID {
	t.Helper()
	infos, err := m.Recycled(t.Context())
	if err != nil {
		t.Fatalf("Recycled: %v", err)
	}
	ids := []backend.VolumeID{}
	for _, info := range infos {
		if info.State != backend.VolumeRecycled || info.RecycledAt.IsZero() {
			t.Errorf("in the recycle bin: %+v", info)
		}
		ids = append(ids, info.ID)
	}
	return ids
}

func wantIDs(t *testing.T, got []backend.VolumeID, want ...backend.VolumeID) {
	t.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(got); i++ {
		ok = got[i] == want[i]
	}
	if !ok {
		t.Errorf("recycle bin holds %v, want %v", got, want)
	}
}

var metaRecycleCases = []metaCase{
	{"RemovedVolumeIsInTheBinAndItsNameIsFree", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "d/v", 2)
		lease := mustOpen(t, m, "d/v", "gw", backend.OpenExclusive)
		seg := mustAllocate(t, m, lease, 1)
		mustClose(t, m, lease)
		removed := mustRemove(t, m, "d/v")
		if removed.ID != v.ID || removed.State != backend.VolumeRecycled || removed.RecycledAt.Before(v.CreatedAt) {
			t.Errorf("removed: %+v", removed)
		}
		_, err := m.Volume(t.Context(), "d/v")
		wantErr(t, err, backend.ErrNotFound)
		if got := volumeNames(t, m, ""); got != "" {
			t.Errorf("active volumes: %s", got)
		}
		wantIDs(t, recycledIDs(t, m), v.ID)
		if again := mustCreate(t, m, "d/v", 1); again.ID <= v.ID {
			t.Errorf("new volume has id %d, after %d", again.ID, v.ID)
		}
		if got, err := m.Segment(t.Context(), v.ID, 1); err != nil {
			t.Errorf("segment of a recycled volume: %v", err)
		} else {
			wantSameSegment(t, got, seg)
		}
	}},
	{"OpenVolumeIsNotRemoved", func(t *testing.T, m backend.Meta) {
		for name, mode := range map[string]backend.OpenMode{"ex": backend.OpenExclusive, "sh": backend.OpenShared} {
			mustCreate(t, m, name, 1)
			lease := mustOpen(t, m, name, "gateway-7", mode)
			_, err := m.RemoveVolume(t.Context(), name)
			wantErr(t, err, backend.ErrBusy, "gateway-7", name)
			mustClose(t, m, lease)
			mustRemove(t, m, name)
		}
	}},
	{"BinIsListedOldestFirst", func(t *testing.T, m backend.Meta) {
		var ids []backend.VolumeID
		for _, name := range []string{"a", "b", "c"} {
			ids = append(ids, mustCreate(t, m, name, 1).ID)
		}
		for _, name := range []string{"b", "c", "a"} {
			mustRemove(t, m, name)
		}
		wantIDs(t, recycledIDs(t, m), ids[1], ids[2], ids[0])
	}},
	{"RecoveredVolumeIsWhatItWas", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "d/v", 2)
		lease := mustOpen(t, m, "d/v", "gw", backend.OpenExclusive)
		seg := mustAllocate(t, m, lease, 0)
		mustClose(t, m, lease)
		mustRemove(t, m, "d/v")
		got, err := m.RecoverVolume(t.Context(), v.ID, "")
		v.Epoch = lease.Epoch
		if err != nil || got != v {
			t.Fatalf("recovered %+v, %v, want %+v", got, err, v)
		}
		wantIDs(t, recycledIDs(t, m))
		again := mustOpen(t, m, "d/v", "gw", backend.OpenExclusive)
		if again.Epoch <= lease.Epoch {
			t.Errorf("epoch %d after %d: recovery must not set it back", again.Epoch, lease.Epoch)
		}
		wantSameSegment(t, mustAllocate(t, m, again, 0), seg)
	}},
	{"RecoverUnderANewName", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 1)
		mustRemove(t, m, "v")
		mustCreate(t, m, "v", 1)
		_, err := m.RecoverVolume(t.Context(), v.ID, "")
		wantErr(t, err, backend.ErrExists, `"v"`)
		_, err = m.RecoverVolume(t.Context(), v.ID, "v/below")
		wantErr(t, err, backend.ErrExists, `"v"`)
		_, err = m.RecoverVolume(t.Context(), v.ID, "../x")
		wantErr(t, err, backend.ErrInvalid)
		wantIDs(t, recycledIDs(t, m), v.ID)
		got, err := m.RecoverVolume(t.Context(), v.ID, "/old/v")
		if err != nil || got.Name != "old/v" || got.ID != v.ID || got.State != backend.VolumeActive {
			t.Fatalf("recovered %+v, %v", got, err)
		}
		if got := volumeNames(t, m, ""); got != "old/v v" {
			t.Errorf("volumes: %s", got)
		}
	}},
	{"RecoverNeedsARecycledVolume", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 1)
		_, err := m.RecoverVolume(t.Context(), v.ID, "w")
		wantErr(t, err, backend.ErrInvalid, `"v"`)
		_, err = m.RecoverVolume(t.Context(), 99, "w")
		wantErr(t, err, backend.ErrNotFound, "99")
	}},
	{"PurgeHandsOutEverySegmentUntilDone", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 200)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		var want []backend.Segment
		for i := backend.SegmentIndex(0); i < 200; i += 3 {
			want = append(want, mustAllocate(t, m, lease, i))
		}
		mustClose(t, m, lease)
		mustRemove(t, m, "v")
		for range 2 { // as after a crash between the two calls
			got, err := m.PurgeVolume(t.Context(), v.ID)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d segments to delete, %v, want %d", len(got), err, len(want))
			}
			for i := range got {
				wantSameSegment(t, got[i], want[i])
			}
			wantIDs(t, recycledIDs(t, m), v.ID)
		}
		_, err := m.RecoverVolume(t.Context(), v.ID, "")
		wantErr(t, err, backend.ErrBusy)
		if err := m.PurgeDone(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		wantIDs(t, recycledIDs(t, m))
		_, err = m.PurgeVolume(t.Context(), v.ID)
		wantErr(t, err, backend.ErrNotFound)
		_, err = m.Segments(t.Context(), v.ID)
		wantErr(t, err, backend.ErrNotFound)
		_, err = m.Segment(t.Context(), v.ID, 0)
		wantErr(t, err, backend.ErrNotFound)
		if err := m.PurgeDone(t.Context(), v.ID); err != nil {
			t.Errorf("PurgeDone again: %v", err)
		}
	}},
	{"PurgeNeedsARecycledVolume", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 1)
		_, err := m.PurgeVolume(t.Context(), v.ID)
		wantErr(t, err, backend.ErrInvalid, `"v"`)
		wantErr(t, m.PurgeDone(t.Context(), v.ID), backend.ErrInvalid)
		wantErr(t, m.PurgeDone(t.Context(), 99), backend.ErrNotFound)
		mustRemove(t, m, "v")
		wantErr(t, m.PurgeDone(t.Context(), v.ID), backend.ErrInvalid, "PurgeVolume")
		wantIDs(t, recycledIDs(t, m), v.ID)
	}},
	{"IDsOfPurgedVolumesAndChunksAreNotReused", func(t *testing.T, m backend.Meta) {
		var lastVolume backend.VolumeID
		var lastChunk backend.ChunkID
		for range 3 {
			v := mustCreate(t, m, "v", 1)
			lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
			seg := mustAllocate(t, m, lease, 0)
			if v.ID <= lastVolume || seg.Chunks[0].ID <= lastChunk {
				t.Errorf("volume %d after %d, chunk %d after %d", v.ID, lastVolume, seg.Chunks[0].ID, lastChunk)
			}
			lastVolume, lastChunk = v.ID, seg.Chunks[len(seg.Chunks)-1].ID
			mustClose(t, m, lease)
			mustRemove(t, m, "v")
			if _, err := m.PurgeVolume(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
			if err := m.PurgeDone(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
		}
	}},
}
