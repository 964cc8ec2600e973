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

// writeWorker does changes in the order they come. Those with FUA that wait
// behind one another are made together, so that a chunk is synced once for all.
func (s *Store) writeWorker(queue <-chan *backend.Op) {
	defer s.writeDone.Done()
	var due fuaBatch
	for op := range queue {
		for taken := 1; op != nil; taken++ {
			s.change(op, &due)
			if taken == len(due.ops) {
				break
			}
			op = waiting(queue)
		}
		s.syncDue(&due)
	}
}

// waiting is the next operation of the queue, or nil when none waits.
func waiting(queue <-chan *backend.Op) *backend.Op {
	select {
	case op := <-queue:
		return op // nil once the queue is closed
	default:
		return nil
	}
}

// change does one change, and completes it or puts it into due.
func (s *Store) change(op *backend.Op, due *fuaBatch) {
	c, err := s.doChange(op)
	s.countDamage(err)
	if err == nil && c != nil && op.Flags.Has(backend.FlagFUA) {
		due.add(op, c)
		return
	}
	s.changeDone(op, err)
}

func (s *Store) changeDone(op *backend.Op, err error) {
	s.pending[hashChunk(op.Chunk.ID)%pendingSlots].Add(-1)
	s.finish(op, err)
}

// fuaBatch is changes that are made and not durable yet.
type fuaBatch struct {
	n      int
	ops    [32]*backend.Op
	chunks [32]*chunk
}

func (b *fuaBatch) add(op *backend.Op, c *chunk) {
	b.ops[b.n], b.chunks[b.n] = op, c
	b.n++
}

// syncDue makes the changes of a batch durable and completes them.
func (s *Store) syncDue(b *fuaBatch) {
	for i, c := range b.chunks[:b.n] {
		if c == nil {
			continue // went with another
		}
		err := s.flushNow(c)
		s.countDamage(err)
		for j := i; j < b.n; j++ {
			if b.chunks[j] == c {
				op := b.ops[j]
				b.ops[j], b.chunks[j] = nil, nil
				s.changeDone(op, err)
			}
		}
	}
	b.n = 0
}

// doChange makes a change and returns the chunk that it was of, if any.
func (s *Store) doChange(op *backend.Op) (c *chunk, err error) {
	if op.Len == 0 {
		return nil, s.volumes.get(op.Volume).admit(op.Epoch)
	}
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
	return c, err
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
