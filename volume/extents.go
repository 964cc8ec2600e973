package volume

import (
	"context"

	"github.com/opencurve/curve-nbd/backend"
)

// Extents appends to dst what space the range has behind it: runs that start at
// off and follow each other. It stops early, short of length, once dst holds
// maxExtents runs; it always returns at least one run for a positive length.
func (v *Volume) Extents(ctx context.Context, off, length int64, maxExtents int, dst []backend.Extent) ([]backend.Extent, error) {
	if !v.enter() {
		return dst, backend.ErrClosed
	}
	defer v.leave()
	if off < 0 || length < 0 || off > v.size.Load()-length {
		return dst, ErrOutOfRange
	}
	var runs []backend.Extent
	for end := off + length; off < end; {
		p := locate(v.geometry, off, end)
		segment, err := v.segment(ctx, p.Segment)
		switch {
		case err != nil:
			return dst, err
		case segment == nil:
			p.Len = min(end, v.segmentEnd(p.Segment)) - off
			dst = backend.AppendExtent(dst, p.Len, true)
		default:
			runs, err = v.chunkExtents(ctx, segment.Chunks[p.Chunk], p, runs[:0])
			if err != nil {
				return dst, err
			}
			for _, e := range runs {
				dst = backend.AppendExtent(dst, e.Length, e.Hole)
			}
		}
		off += p.Len
		if len(dst) > maxExtents {
			return dst[:max(1, maxExtents)], nil
		}
	}
	return dst, nil
}

// chunkExtents asks the backend for the extents of one place, on replicas again
// and again while there is no leader to answer.
func (v *Volume) chunkExtents(ctx context.Context, chunk backend.ChunkRef, p place, dst []backend.Extent) ([]backend.Extent, error) {
	if v.router == nil {
		return v.chunks.Extents(ctx, v.id, chunk, p.ChunkOff, p.Len, dst)
	}
	err := v.router.persist(ctx, func() (err error) {
		dst, err = v.chunks.Extents(ctx, v.id, chunk, p.ChunkOff, p.Len, dst[:0])
		return err
	})
	return dst, err
}

// segment looks one segment up, asking the MDS on a miss; nil for one that is
// not allocated.
func (v *Volume) segment(ctx context.Context, index backend.SegmentIndex) (*backend.Segment, error) {
	if s, known := v.cache.lookup(index); known {
		return s, nil
	}
	if err := v.cache.ask(ctx, index, false); err != nil {
		return nil, err
	}
	s, _ := v.cache.lookup(index)
	v.cache.forget(index)
	return s, nil
}
