package volume

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

var (
	plain   = backend.Geometry{BlockSize: 4096, ChunkSize: mib, SegmentSize: 8 * mib}
	striped = backend.Geometry{BlockSize: 4096, ChunkSize: mib, SegmentSize: 8 * mib, StripeUnit: 64 * kib, StripeCount: 4}
)

func TestLocateCutsAtChunkAndStripeBorders(t *testing.T) {
	cases := []struct {
		name     string
		geometry backend.Geometry
		off, end int64
		want     place
	}{
		{"first block", plain, 0, 4 * kib, place{0, 0, 0, 0, 4 * kib}},
		{"inside a chunk", plain, mib + 8*kib, mib + 12*kib, place{0, 1, 8 * kib, mib + 8*kib, 4 * kib}},
		{"cut at the chunk's end", plain, mib - 4*kib, 2 * mib, place{0, 0, mib - 4*kib, mib - 4*kib, 4 * kib}},
		{"second segment", plain, 8 * mib, 9 * mib, place{1, 0, 0, 8 * mib, mib}},
		{"cut at the segment's end", plain, 8*mib - 4*kib, 9 * mib, place{0, 7, mib - 4*kib, 8*mib - 4*kib, 4 * kib}},
		{"stripe unit 0", striped, 0, mib, place{0, 0, 0, 0, 64 * kib}},
		{"stripe unit 1 is on the next chunk", striped, 64 * kib, mib, place{0, 1, 0, 64 * kib, 64 * kib}},
		{"second row returns to the first chunk", striped, 256 * kib, mib, place{0, 0, 64 * kib, 256 * kib, 64 * kib}},
		{"inside a stripe unit", striped, 68 * kib, 72 * kib, place{0, 1, 4 * kib, 68 * kib, 4 * kib}},
		{"second group", striped, 4 * mib, 8 * mib, place{0, 4, 0, 4 * mib, 64 * kib}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := locate(c.geometry, c.off, c.end); got != c.want {
				t.Errorf("locate(%d, %d) = %+v, want %+v", c.off, c.end, got, c.want)
			}
		})
	}
}

// drawGeometry makes any valid geometry of small chunks.
func drawGeometry(t *rapid.T) backend.Geometry {
	shift := func(name string, lo, hi int) int64 { return 1 << rapid.IntRange(lo, hi).Draw(t, name) }
	g := backend.Geometry{BlockSize: 4096, ChunkSize: shift("chunk", 16, 20)}
	g.SegmentSize = g.ChunkSize * shift("chunks", 0, 4)
	if n := g.ChunksPerSegment(); n > 1 && rapid.Bool().Draw(t, "striped") {
		g.StripeCount = int64(min(n, 1<<rapid.IntRange(1, 4).Draw(t, "count")))
		g.StripeUnit = min(g.ChunkSize, shift("unit", 12, 20))
	}
	if err := g.Validate(); err != nil {
		t.Fatalf("drew a bad geometry: %v", err)
	}
	return g
}

func drawRange(t *rapid.T, g backend.Geometry) (off, end int64) {
	blocks := 3 * g.SegmentSize / g.BlockSize
	first := rapid.Int64Range(0, blocks-1).Draw(t, "first")
	last := rapid.Int64Range(first+1, blocks).Draw(t, "last")
	return first * g.BlockSize, last * g.BlockSize
}

// home is where one block of the volume lives, worked out block by block with
// nothing but the definition of striping.
type home struct {
	segment backend.SegmentIndex
	chunk   int
	off     int64
}

func homeOf(g backend.Geometry, off int64) home {
	h := home{segment: backend.SegmentIndex(off / g.SegmentSize)}
	in := off % g.SegmentSize
	if !g.Striped() {
		h.chunk, h.off = int(in/g.ChunkSize), in%g.ChunkSize
		return h
	}
	perGroup := g.ChunkSize * g.StripeCount
	group, in := in/perGroup, in%perGroup
	row, inRow := in/(g.StripeUnit*g.StripeCount), in%(g.StripeUnit*g.StripeCount)
	h.chunk = int(group*g.StripeCount + inRow/g.StripeUnit)
	h.off = row*g.StripeUnit + inRow%g.StripeUnit
	return h
}

func TestLocateCoversEveryRangeExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		off, end := drawRange(t, g)
		for off < end {
			p := locate(g, off, end)
			if p.Off != off || p.Len <= 0 || p.Off+p.Len > end || p.ChunkOff+p.Len > g.ChunkSize {
				t.Fatalf("piece at %d: %+v", off, p)
			}
			for b := int64(0); b < p.Len; b += g.BlockSize {
				if want := (home{p.Segment, p.Chunk, p.ChunkOff + b}); homeOf(g, off+b) != want {
					t.Fatalf("block at %d went to %+v, belongs to %+v", off+b, want, homeOf(g, off+b))
				}
			}
			off += p.Len
		}
	})
}

func TestLocateSpanTouchesTheSameBlocksAsLocate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		off, end := drawRange(t, g)
		want := make(map[home]bool)
		for o := off; o < end; o += g.BlockSize {
			want[homeOf(g, o)] = true
		}
		var places []place
		for off < end {
			var next int64
			places, next = locateSpan(g, off, end, places[:0])
			if next <= off || next > end {
				t.Fatalf("span at %d goes on at %d", off, next)
			}
			for _, p := range places {
				for b := int64(0); b < p.Len; b += g.BlockSize {
					h := home{p.Segment, p.Chunk, p.ChunkOff + b}
					if !want[h] {
						t.Fatalf("span touches %+v, which is not in the range or was touched before", h)
					}
					delete(want, h)
				}
			}
			off = next
		}
		if len(want) != 0 {
			t.Fatalf("span missed %d blocks", len(want))
		}
	})
}

func BenchmarkLocate(b *testing.B) {
	for _, c := range []struct {
		name string
		g    backend.Geometry
	}{{"plain", backend.DefaultGeometry()}, {"striped", striped}} {
		b.Run(c.name, func(b *testing.B) {
			var sum int64
			for i := range b.N {
				off := int64(i) * 4096 % (1 << 32)
				sum += locate(c.g, off, off+4096).ChunkOff
			}
			_ = sum
		})
	}
}
