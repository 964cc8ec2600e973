package volume

import "github.com/opencurve/curve-nbd/backend"

// place is where one piece of a request lands: a run of bytes on one chunk.
type place struct {
	Segment  backend.SegmentIndex
	Chunk    int   // index in the segment
	ChunkOff int64 // bytes
	Off      int64 // volume offset of the piece's first byte
	Len      int64
}

// locate returns the place that starts at volume offset off and is as long as
// its chunk (or stripe unit) and end allow. Pure: geometry in, place out.
//
// Striped, a group of StripeCount chunks holds its bytes row by row, StripeUnit
// bytes of each chunk in turn:
//
//	group offset  0    U    2U   3U   4U ...       (U = StripeUnit, count = 4)
//	chunk         0    1    2    3    0  ...
//	chunk offset  0    0    0    0    U  ...
func locate(g backend.Geometry, off, end int64) place {
	p := place{Segment: backend.SegmentIndex(off / g.SegmentSize), Off: off}
	so := off % g.SegmentSize
	if !g.Striped() {
		p.Chunk = int(so / g.ChunkSize)
		p.ChunkOff = so % g.ChunkSize
		p.Len = min(g.ChunkSize-p.ChunkOff, end-off)
		return p
	}
	group := g.ChunkSize * g.StripeCount
	first := so / group * g.StripeCount
	unit := so % group / g.StripeUnit
	p.Chunk = int(first + unit%g.StripeCount)
	p.ChunkOff = unit/g.StripeCount*g.StripeUnit + so%g.StripeUnit
	p.Len = min(g.StripeUnit-so%g.StripeUnit, end-off)
	return p
}

// locateSpan does the same for operations without payload (zero, trim), which
// need not go stripe by stripe: within one group of chunks the part of a span
// that falls on a chunk is contiguous on that chunk. It appends one place per
// chunk touched in the group (or the one chunk, unstriped) that holds off, and
// returns the offset at which the next call continues. The Off of a striped
// span's places is off for all of them.
func locateSpan(g backend.Geometry, off, end int64, dst []place) ([]place, int64) {
	if !g.Striped() {
		p := locate(g, off, end)
		return append(dst, p), off + p.Len
	}
	group := g.ChunkSize * g.StripeCount
	groupStart := off / group * group
	end = min(end, groupStart+group)
	from, to := off-groupStart, end-groupStart
	for i := int64(0); i < g.StripeCount; i++ {
		lo, hi := stripeEdge(g, from, i), stripeEdge(g, to, i)
		if lo == hi {
			continue
		}
		p := locate(g, groupStart+i*g.StripeUnit, groupStart+group)
		p.ChunkOff, p.Off, p.Len = lo, off, hi-lo
		dst = append(dst, p)
	}
	return dst, end
}

// stripeEdge says how many bytes of the group's first x bytes lie on its i-th
// chunk.
func stripeEdge(g backend.Geometry, x, i int64) int64 {
	row := g.StripeUnit * g.StripeCount
	inRow := x%row - i*g.StripeUnit
	return x/row*g.StripeUnit + max(0, min(inRow, g.StripeUnit))
}
