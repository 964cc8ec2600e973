package chunkstore

import (
	"errors"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Try implements backend.Chunks. It runs what the page cache can serve: reads
// of cached blocks and of holes, writes into a chunk that carries its dirty
// mark, flushes with nothing to flush.
func (s *Store) Try(op *backend.Op) bool {
	if err := op.Check(); err != nil {
		return s.tried(op, err)
	}
	if s.closed.Load() {
		return s.tried(op, errClosed)
	}
	switch op.Kind {
	case backend.OpRead:
		return s.tryRead(op)
	case backend.OpWrite:
		return s.tryWrite(op)
	case backend.OpFlush:
		return s.tryFlush(op)
	}
	return false
}

func (s *Store) tried(op *backend.Op, err error) bool {
	s.counters.inline.Add(1)
	op.Err = err
	return true
}

// hasPending says that a submitted change of the chunk is in flight.
func (s *Store) hasPending(id backend.ChunkID) bool {
	return s.pending[hashChunk(id)%pendingSlots].Load() != 0
}

func (s *Store) tryRead(op *backend.Op) bool {
	if s.hasPending(op.Chunk.ID) {
		return false
	}
	op.Hole = false
	c, hasFile := s.index.lookup(op.Chunk.ID)
	if c == nil && hasFile {
		return false
	}
	if c == nil {
		err := s.volumes.get(op.Volume).admit(op.Epoch)
		if err == nil {
			clear(op.Data)
			op.Hole = true
		}
		return s.tried(op, err)
	}
	c.touch()
	if !c.mu.TryRLock() {
		return false
	}
	defer c.mu.RUnlock()
	if c.gone {
		return false
	}
	if err := c.checkOwner(op.Chunk, op.Volume); err != nil {
		return s.tried(op, err)
	}
	if err := c.vol.admit(op.Epoch); err != nil {
		return s.tried(op, err)
	}
	hole, err := c.read(op.Data, op.Off, noWait)
	if err == disk.ErrWouldBlock {
		return false
	}
	op.Hole = hole
	s.countDamage(err)
	return s.tried(op, err)
}

func (s *Store) tryWrite(op *backend.Op) bool {
	if op.Flags.Has(backend.FlagFUA) || op.Len == 0 || s.hasPending(op.Chunk.ID) {
		return false
	}
	c, _ := s.index.lookup(op.Chunk.ID)
	if c == nil {
		return false
	}
	c.touch()
	if !c.mu.TryLock() {
		return false
	}
	defer c.mu.Unlock()
	if c.gone || c.state != stateDirty {
		return false
	}
	if err := s.checkChange(c, op); err != nil {
		return s.tried(op, err)
	}
	err := s.write(c, op.Data, op.Off, noWait)
	if err == disk.ErrWouldBlock {
		return false
	}
	s.countDamage(err)
	return s.tried(op, err)
}

func (s *Store) tryFlush(op *backend.Op) bool {
	vol := s.volumes.get(op.Volume)
	if err := vol.admit(op.Epoch); err != nil {
		return s.tried(op, err)
	}
	if !vol.idle() {
		return false
	}
	return s.tried(op, nil)
}

func isDamage(err error) bool { return errors.Is(err, backend.ErrChecksum) }

// countDamage logs damage at its first, second, fourth, eighth meeting and so
// on: a client that retries must not fill the log.
func (s *Store) countDamage(err error) {
	if err == nil || !isDamage(err) {
		return
	}
	if n := s.counters.checksum.Add(1); n&(n-1) == 0 {
		s.log.Error("chunk is damaged", "err", err, "met_so_far", n)
	}
}
