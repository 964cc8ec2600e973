package chunkstore

import (
	"context"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Delete implements backend.Chunks. Damaged chunks are deleted like any other.
// A change of a deleted chunk that is still in flight would make it anew: the
// caller stops using a volume before it deletes the volume's chunks.
func (s *Store) Delete(ctx context.Context, vol backend.VolumeID, chunks []backend.ChunkRef) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	// Bounded steps keep a large volume's deletion stoppable, and what a stop
	// leaves undone is found again by the caller's repetition.
	const step = 1024
	for len(chunks) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(step, len(chunks))
		if err := s.removeFiles(chunks[:n]); err != nil {
			return fmt.Errorf("delete chunks of %v: %w", vol, err)
		}
		chunks = chunks[n:]
	}
	return nil
}

// removeFiles removes chunks whatever their state, durably.
func (s *Store) removeFiles(chunks []backend.ChunkRef) error {
	var touched [subdirs]bool
	for _, ref := range chunks {
		touched[uint8(ref.ID)] = true
		if err := s.removeFile(ref.ID); err != nil {
			return err
		}
	}
	for i, yes := range touched {
		if !yes {
			continue
		}
		if err := s.syncDir(backend.ChunkID(i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) removeFile(id backend.ChunkID) error {
	// A chunk that is not open is given a placeholder, locked, so that nobody
	// opens the file while it goes away.
	mine := s.newChunk(backend.ChunkRef{ID: id, Size: backend.MinChunkSize}, nil)
	mine.sync.Lock()
	mine.mu.Lock()
	c, _ := s.index.insert(mine)
	if c == mine {
		s.counters.open.Add(1)
	} else {
		mine.mu.Unlock()
		mine.sync.Unlock()
		c.sync.Lock()
		c.mu.Lock()
		if c.gone {
			c.mu.Unlock()
			c.sync.Unlock()
			return s.removeFile(id)
		}
	}
	defer c.sync.Unlock()
	defer c.mu.Unlock()
	if err := s.fs.Remove(c.path); err != nil && !disk.NotExist(err) {
		if c == mine {
			s.forget(c)
		}
		return disk.Error("remove "+id.String(), err)
	}
	if s.index.setFile(id, false) {
		s.counters.chunks.Add(-1)
	}
	s.forget(c)
	return nil
}
