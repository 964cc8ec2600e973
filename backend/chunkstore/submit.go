package chunkstore

import (
	"github.com/opencurve/curve-nbd/backend"
)

// Submit implements backend.Chunks.
func (s *Store) Submit(op *backend.Op) {
	if err := op.Check(); err != nil {
		s.finish(op, err)
		return
	}
	s.gate.RLock()
	if s.closed.Load() {
		s.gate.RUnlock()
		s.finish(op, errClosed)
		return
	}
	switch {
	case op.Kind == backend.OpFlush:
		s.enqueueFlush(op)
	case op.Kind == backend.OpRead:
		s.readers <- op
	default:
		h := hashChunk(op.Chunk.ID)
		s.pending[h%pendingSlots].Add(1)
		s.writers[h%uint32(len(s.writers))] <- op
	}
	s.gate.RUnlock()
}

// finish completes a submitted operation. Nothing touches op afterwards.
func (s *Store) finish(op *backend.Op, err error) {
	s.counters.queued.Add(1)
	op.Err = err
	if op.Done != nil {
		op.Done.OpDone(op)
	}
}

func (s *Store) readWorker() {
	defer s.readDone.Done()
	for op := range s.readers {
		err := s.doRead(op)
		s.countDamage(err)
		s.finish(op, err)
	}
}

func (s *Store) doRead(op *backend.Op) error {
	op.Hole = false
	c, err := s.lockForRead(op.Chunk, op.Volume)
	if err != nil {
		return err
	}
	if c == nil {
		if err := s.volumes.get(op.Volume).admit(op.Epoch); err != nil {
			return err
		}
		clear(op.Data)
		op.Hole = true
		return nil
	}
	defer c.mu.RUnlock()
	if err := c.vol.admit(op.Epoch); err != nil {
		return err
	}
	op.Hole, err = c.read(op.Data, op.Off, mayWait)
	return err
}

// lockForRead returns the chunk with mu held shared, or nil when it has no file.
func (s *Store) lockForRead(ref backend.ChunkRef, vol backend.VolumeID) (*chunk, error) {
	for {
		c, hasFile := s.index.lookup(ref.ID)
		if c == nil && !hasFile {
			return nil, nil
		}
		if c == nil {
			var err error
			if c, err = s.open(ref, s.volumes.get(vol)); err != nil {
				return nil, err
			}
		}
		c.touch()
		c.mu.RLock()
		if c.gone {
			c.mu.RUnlock()
			continue
		}
		if err := c.checkOwner(ref, vol); err != nil {
			c.mu.RUnlock()
			return nil, err
		}
		return c, nil
	}
}

func (s *Store) writeWorker(queue <-chan *backend.Op) {
	defer s.writeDone.Done()
	for op := range queue {
		slot := &s.pending[hashChunk(op.Chunk.ID)%pendingSlots]
		err := s.doChange(op)
		s.countDamage(err)
		slot.Add(-1)
		s.finish(op, err)
	}
}

func (s *Store) doChange(op *backend.Op) error {
	if op.Len == 0 {
		return s.volumes.get(op.Volume).admit(op.Epoch)
	}
	var c *chunk
	var err error
	switch keep := op.Flags.Has(backend.FlagNoHole); {
	case op.Kind == backend.OpWrite:
		if c, err = s.lockForChange(op); err == nil {
			err = s.write(c, op.Data, op.Off, mayWait)
			c.mu.Unlock()
		}
	case op.Kind == backend.OpZero && keep:
		if c, err = s.lockForChange(op); err == nil {
			err = s.zero(c, op.Off, op.Len, true)
			c.mu.Unlock()
		}
	case op.Len == op.Chunk.Size:
		c, err = s.freeChunk(op)
	default:
		c, err = s.freeRange(op)
	}
	if err == nil && c != nil && op.Flags.Has(backend.FlagFUA) {
		err = s.flushNow(c)
	}
	return err
}

// freeRange frees part of a chunk. Where there is nothing to free, nothing is
// made, marked or written.
func (s *Store) freeRange(op *backend.Op) (*chunk, error) {
	c, err := s.lockForRead(op.Chunk, op.Volume)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, s.volumes.get(op.Volume).admit(op.Epoch)
	}
	some := c.anyData(op.Off, op.Len)
	err = c.vol.admit(op.Epoch)
	c.mu.RUnlock()
	if err != nil || !some {
		return c, err
	}
	if c, err = s.lockForChange(op); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	return c, s.zero(c, op.Off, op.Len, false)
}

// freeChunk removes the chunk's file; a damaged chunk is got rid of so too.
func (s *Store) freeChunk(op *backend.Op) (*chunk, error) {
	vol := s.volumes.get(op.Volume)
	for {
		if c, hasFile := s.index.lookup(op.Chunk.ID); c == nil && !hasFile {
			return nil, vol.admit(op.Epoch)
		}
		c, err := s.open(op.Chunk, vol)
		if isDamage(err) {
			if err := vol.admit(op.Epoch); err != nil {
				return nil, err
			}
			return nil, s.removeFiles([]backend.ChunkRef{op.Chunk})
		}
		if err != nil {
			return nil, err
		}
		c.sync.Lock()
		c.mu.Lock()
		if c.gone {
			c.mu.Unlock()
			c.sync.Unlock()
			continue
		}
		if err = c.checkOwner(op.Chunk, op.Volume); err == nil {
			err = c.vol.admit(op.Epoch)
		}
		if err == nil {
			err = s.erase(c)
		}
		c.mu.Unlock()
		c.sync.Unlock()
		return c, err
	}
}
