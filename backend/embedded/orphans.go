package embedded

import (
	"context"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// chunkLister is a chunk store that can say what it holds.
type chunkLister interface {
	ChunkIDs(ctx context.Context) ([]backend.ChunkID, error)
}

// orphanCandidates lists the chunks that the store holds before any operation
// is let in. An id in the list that is in no segment now never will be, since
// ids are not reused.
//
// No chunk can be newer than the metadata, which hands out the ids. Where one
// is, an older copy of the metadata was put back: those ids are skipped, lest a
// new segment find old data in its chunks, and chunks up to there are never
// taken for orphans, since the newer metadata may come back.
func (b *Backend) orphanCandidates(chunks chunkLister) ([]backend.ChunkID, error) {
	ids, err := chunks.ChunkIDs(b.background)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	last, err := b.mds.LastChunkID(b.background)
	if err != nil {
		return nil, err
	}
	if newest := slices.Max(ids); newest > last {
		b.log.Error("chunks are newer than the metadata: an older meta.db was put back; chunks it does not know are kept",
			"newest_chunk", uint64(newest), "last_allocated", uint64(last))
		return nil, b.mds.SkipChunkIDs(b.background, newest)
	}
	skipped, err := b.mds.SkippedChunkIDs(b.background)
	return slices.DeleteFunc(ids, func(id backend.ChunkID) bool { return id <= skipped }), err
}

// deleteOrphans deletes those of candidates that are in no segment: a crash
// between the deletion of a segment and that of its chunks leaves them.
func (b *Backend) deleteOrphans(candidates []backend.ChunkID) {
	orphans := make(map[backend.ChunkID]struct{}, len(candidates))
	for _, id := range candidates {
		orphans[id] = struct{}{}
	}
	if len(orphans) == 0 {
		return
	}
	err := b.mds.EachSegment(b.background, func(_ backend.VolumeID, s backend.Segment) error {
		for _, c := range s.Chunks {
			delete(orphans, c.ID)
		}
		return nil
	})
	if err == nil && len(orphans) > 0 {
		refs := make([]backend.ChunkRef, 0, len(orphans))
		for id := range orphans {
			refs = append(refs, backend.ChunkRef{ID: id})
		}
		err = b.purger.DeletePaced(b.background, noVolume, refs)
	}
	switch {
	case b.background.Err() != nil: // the next Open goes on
	case err != nil:
		b.log.Error("deletion of orphan chunks failed", "orphans", len(orphans), "err", err)
	case len(orphans) > 0:
		b.log.Info("orphan chunks deleted", "chunks", len(orphans))
	}
}

// noVolume: nobody knows which volume an orphan was of.
const noVolume backend.VolumeID = 0
