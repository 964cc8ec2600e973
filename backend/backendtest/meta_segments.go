package backendtest

import (
	"slices"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func wantSameSegment(t *testing.T, got, want backend.Segment) {
	t.Helper()
	if got.Index != want.Index || !slices.Equal(got.Chunks, want.Chunks) {
		t.Errorf("segment %+v, want %+v", got, want)
	}
}

var metaSegmentCases = []metaCase{
	{"SegmentIsMadeOnceAndStays", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 3)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		_, err := m.Segment(t.Context(), v.ID, 1)
		wantErr(t, err, backend.ErrNotFound)
		made := mustAllocate(t, m, lease, 1)
		if made.Index != 1 || len(made.Chunks) != v.Geometry.ChunksPerSegment() {
			t.Fatalf("segment %+v, want index 1 and %d chunks", made, v.Geometry.ChunksPerSegment())
		}
		for _, c := range made.Chunks {
			if c.ID == 0 || c.Copyset == 0 || c.Size != v.Geometry.ChunkSize {
				t.Errorf("chunk %+v, want ids above 0 and size %d", c, v.Geometry.ChunkSize)
			}
		}
		wantSameSegment(t, mustAllocate(t, m, lease, 1), made)
		got, err := m.Segment(t.Context(), v.ID, 1)
		if err != nil {
			t.Fatal(err)
		}
		wantSameSegment(t, got, made)
		_, err = m.Segment(t.Context(), v.ID, 0)
		wantErr(t, err, backend.ErrNotFound)
	}},
	{"SegmentsAreListedInOrder", func(t *testing.T, m backend.Meta) {
		v := mustCreate(t, m, "v", 300)
		other := mustCreate(t, m, "other", 1)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		mustAllocate(t, m, mustOpen(t, m, "other", "gw", backend.OpenExclusive), 0)
		want := map[backend.SegmentIndex]backend.Segment{}
		for _, index := range []backend.SegmentIndex{299, 0, 256, 255, 1} {
			want[index] = mustAllocate(t, m, lease, index)
		}
		got, err := m.Segments(t.Context(), v.ID)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d segments, %v, want %d", len(got), err, len(want))
		}
		for i, s := range got {
			if i > 0 && got[i-1].Index >= s.Index {
				t.Errorf("segment %d comes after %d", s.Index, got[i-1].Index)
			}
			wantSameSegment(t, s, want[s.Index])
		}
		if got, err := m.Segments(t.Context(), other.ID); err != nil || len(got) != 1 {
			t.Errorf("the other volume has %d segments, %v, want 1", len(got), err)
		}
	}},
	{"ListsLongerThanOnePageAreWhole", func(t *testing.T, m backend.Meta) {
		const n = 2100
		g := backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 64 << 10}
		if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: n * g.SegmentSize, Geometry: g}); err != nil {
			t.Fatal(err)
		}
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		inParallel(t, 32, n, func(i int) error {
			_, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, backend.SegmentIndex(i))
			return err
		})
		got, err := m.Segments(t.Context(), lease.Volume.ID)
		if err != nil || len(got) != n {
			t.Fatalf("%d segments, %v, want %d", len(got), err, n)
		}
		for i, s := range got {
			if s.Index != backend.SegmentIndex(i) {
				t.Fatalf("segment %d at position %d", s.Index, i)
			}
		}
	}},
	{"AllocationPastTheEndIsInvalid", func(t *testing.T, m backend.Meta) {
		v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: metaGeometry().SegmentSize + 4096, Geometry: metaGeometry()})
		if err != nil {
			t.Fatal(err)
		}
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		if last := mustAllocate(t, m, lease, 1); len(last.Chunks) != v.Geometry.ChunksPerSegment() {
			t.Errorf("a segment used in part has %d chunks", len(last.Chunks))
		}
		for _, index := range []backend.SegmentIndex{2, 1 << 31, 1<<32 - 1} {
			_, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, index)
			wantErr(t, err, backend.ErrInvalid)
			_, err = m.Segment(t.Context(), v.ID, index)
			wantErr(t, err, backend.ErrNotFound)
		}
	}},
	{"LargestGeometryAllocates", func(t *testing.T, m backend.Meta) {
		g := backend.Geometry{BlockSize: 512, ChunkSize: 64 << 10, SegmentSize: 64 << 10 * backend.MaxChunksPerSegment}
		if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: g.SegmentSize * 2, Geometry: g}); err != nil {
			t.Fatal(err)
		}
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		if got := mustAllocate(t, m, lease, 1); len(got.Chunks) != backend.MaxChunksPerSegment {
			t.Errorf("%d chunks, want %d", len(got.Chunks), backend.MaxChunksPerSegment)
		}
	}},
	{"CallersMayChangeWhatTheyGot", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "v", 1)
		lease := mustOpen(t, m, "v", "gw", backend.OpenExclusive)
		first := mustAllocate(t, m, lease, 0)
		want := slices.Clone(first.Chunks)
		first.Chunks[0].ID = 0xdead
		wantSameSegment(t, mustAllocate(t, m, lease, 0), backend.Segment{Index: 0, Chunks: want})
	}},
}
