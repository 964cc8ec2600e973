package mds

import (
	"bytes"
	"context"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// segmentPage is how many segments one View lists: enough to make the
// transaction's cost small, few enough to pin its pages only briefly.
const segmentPage = 1024

// Segment implements backend.Meta. Recycled volumes still have segments.
func (m *MDS) Segment(ctx context.Context, id backend.VolumeID, index backend.SegmentIndex) (backend.Segment, error) {
	var seg backend.Segment
	err := m.store.View(ctx, func(tx Txn) error {
		b, err := tx.Get(segmentKey(id, index))
		if err != nil {
			return err
		}
		if b == nil {
			if _, err := getVolume(tx, id); err != nil {
				return err
			}
			return fmt.Errorf("%w: not allocated", backend.ErrNotFound)
		}
		seg.Index = index
		seg.Chunks, err = decodeSegment(b)
		return err
	})
	if err != nil {
		return backend.Segment{}, fmt.Errorf("segment %d of %s: %w", index, id, err)
	}
	return seg, nil
}

// AllocateSegment implements backend.Meta.
func (m *MDS) AllocateSegment(ctx context.Context, id backend.VolumeID, epoch backend.Epoch, index backend.SegmentIndex) (backend.Segment, error) {
	seg := backend.Segment{Index: index}
	var v *volumeRecord
	// Most calls after the first find the segment there, and need no Update.
	err := m.store.View(ctx, func(tx Txn) (err error) {
		v, seg.Chunks, err = allocatable(tx, id, epoch, index)
		return err
	})
	if err == nil && v.Lease.Mode == leaseExclusive {
		err = m.owners.hear(v.Lease.Owners[0])
	}
	if err == nil && seg.Chunks == nil {
		err = m.store.Update(ctx, func(tx Txn) error {
			v, chunks, err := allocatable(tx, id, epoch, index)
			if err == nil && chunks == nil {
				chunks, err = m.newChunks(tx, v)
				if err == nil {
					err = tx.Put(segmentKey(id, index), encodeSegment(chunks))
				}
			}
			seg.Chunks = chunks
			return err
		})
	}
	if err != nil {
		return backend.Segment{}, fmt.Errorf("allocate segment %d of %s: %w", index, id, err)
	}
	return seg, nil
}

// allocatable checks that epoch may allocate a segment, and returns the chunks
// that it has already, nil if none.
func allocatable(tx Txn, id backend.VolumeID, epoch backend.Epoch, index backend.SegmentIndex) (*volumeRecord, []backend.ChunkRef, error) {
	v, err := getVolume(tx, id)
	if err != nil {
		return nil, nil, err
	}
	if err := v.holds(epoch); err != nil {
		return nil, nil, err
	}
	if int64(index) >= v.segments() {
		return nil, nil, fmt.Errorf("%w: the volume of %d bytes ends with segment %d", backend.ErrInvalid, v.Size, v.segments()-1)
	}
	b, err := tx.Get(segmentKey(id, index))
	if err != nil || b == nil {
		return v, nil, err
	}
	chunks, err := decodeSegment(b)
	return v, chunks, err
}

// newChunks makes the chunks of a segment.
func (m *MDS) newChunks(tx Txn, v *volumeRecord) ([]backend.ChunkRef, error) {
	n := v.Geometry.ChunksPerSegment()
	first, err := takeIDs(tx, counterChunk, uint64(n))
	if err != nil {
		return nil, err
	}
	copysets := make([]backend.CopysetID, n)
	if err := m.alloc.Place(tx, v.ID, copysets); err != nil {
		return nil, err
	}
	chunks := make([]backend.ChunkRef, n)
	for i := range chunks {
		chunks[i] = backend.ChunkRef{ID: backend.ChunkID(first + uint64(i)), Copyset: copysets[i], Size: v.Geometry.ChunkSize}
	}
	return chunks, nil
}

// Segments implements backend.Meta.
func (m *MDS) Segments(ctx context.Context, id backend.VolumeID) ([]backend.Segment, error) {
	err := m.store.View(ctx, func(tx Txn) error {
		_, err := getVolume(tx, id)
		return err
	})
	var segments []backend.Segment
	if err == nil {
		err = m.eachSegment(ctx, segmentPrefix(id), func(_ backend.VolumeID, s backend.Segment) error {
			segments = append(segments, s)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("segments of %s: %w", id, err)
	}
	return segments, nil
}

// segmentsFrom lists segments from an index on, of about so many chunks.
func (m *MDS) segmentsFrom(ctx context.Context, id backend.VolumeID, from backend.SegmentIndex, chunks int) (segments []backend.Segment, more bool, err error) {
	err = m.store.View(ctx, func(tx Txn) error {
		segments, more = nil, false
		if _, err := getVolume(tx, id); err != nil {
			return err
		}
		listed := 0
		return tx.Scan(segmentPrefix(id), segmentKey(id, from), func(key, value []byte) (bool, error) {
			if listed >= chunks {
				more = true
				return false, nil
			}
			_, index, err := parseSegmentKey(key)
			if err != nil {
				return false, err
			}
			s := backend.Segment{Index: index}
			if s.Chunks, err = decodeSegment(value); err != nil {
				return false, fmt.Errorf("segment %d of %s: %w", index, id, err)
			}
			segments, listed = append(segments, s), listed+len(s.Chunks)
			return true, nil
		})
	})
	if err != nil {
		return nil, false, fmt.Errorf("segments of %s: %w", id, err)
	}
	return segments, more, nil
}

// EachSegment calls fn for every segment of every volume, recycled ones
// included, in order of volume and index. Segments that come or go meanwhile
// are seen or not.
func (m *MDS) EachSegment(ctx context.Context, fn func(backend.VolumeID, backend.Segment) error) error {
	if err := m.eachSegment(ctx, []byte{keySegment}, fn); err != nil {
		return fmt.Errorf("list all segments: %w", err)
	}
	return nil
}

// eachSegment lists in pages; fn runs outside of the transactions.
func (m *MDS) eachSegment(ctx context.Context, prefix []byte, fn func(backend.VolumeID, backend.Segment) error) error {
	type found struct {
		volume  backend.VolumeID
		segment backend.Segment
	}
	var from []byte
	for {
		var page []found
		var next []byte
		err := m.store.View(ctx, func(tx Txn) error {
			page, next = page[:0], nil
			return tx.Scan(prefix, from, func(key, value []byte) (bool, error) {
				if len(page) == segmentPage {
					next = bytes.Clone(key)
					return false, nil
				}
				id, index, err := parseSegmentKey(key)
				if err != nil {
					return false, err
				}
				chunks, err := decodeSegment(value)
				if err != nil {
					return false, fmt.Errorf("segment %d of %s: %w", index, id, err)
				}
				page = append(page, found{id, backend.Segment{Index: index, Chunks: chunks}})
				return true, nil
			})
		})
		if err != nil {
			return err
		}
		for _, f := range page {
			if err := fn(f.volume, f.segment); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		from = next
	}
}

// LastChunkID returns the highest chunk id given out so far.
func (m *MDS) LastChunkID(ctx context.Context) (last backend.ChunkID, err error) {
	err = m.store.View(ctx, func(tx Txn) error {
		n, err := getCounter(tx, counterChunk)
		last = backend.ChunkID(n)
		return err
	})
	return last, err
}

// SkipChunkIDs makes sure that ids up to upTo are never given out, for a caller
// who found chunks of that name, and remembers upTo for SkippedChunkIDs.
func (m *MDS) SkipChunkIDs(ctx context.Context, upTo backend.ChunkID) error {
	err := m.store.Update(ctx, func(tx Txn) error {
		last, err := getCounter(tx, counterChunk)
		if err != nil || uint64(upTo) <= last {
			return err
		}
		if err := putCounter(tx, counterSkipped, uint64(upTo)); err != nil {
			return err
		}
		return putCounter(tx, counterChunk, uint64(upTo))
	})
	if err != nil {
		return fmt.Errorf("skip chunk ids up to %d: %w", uint64(upTo), err)
	}
	return nil
}

// SkippedChunkIDs returns the id up to which chunks may exist that this metadata
// does not know, 0 if it knows all.
func (m *MDS) SkippedChunkIDs(ctx context.Context) (upTo backend.ChunkID, err error) {
	err = m.store.View(ctx, func(tx Txn) error {
		n, err := getCounter(tx, counterSkipped)
		upTo = backend.ChunkID(n)
		return err
	})
	return upTo, err
}
