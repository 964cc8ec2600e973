package chunkstore

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// reconcileStep is how much data is read at once while reconciling.
const reconcileStep = 1 << 20

// open returns the chunk's object in memory, loading it if need be. It is not
// locked: the caller locks it and, when it is gone, opens again.
func (s *Store) open(ref backend.ChunkRef, vol *volume) (*chunk, error) {
	c, _ := s.index.lookup(ref.ID)
	if c != nil {
		return c, nil
	}
	c = s.newChunk(ref, vol)
	c.sync.Lock()
	defer c.sync.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	in, hasFile := s.index.insert(c)
	if in != c {
		return in, nil
	}
	c.used.Store(true)
	s.counters.open.Add(1)
	s.counters.opens.Add(1)
	s.makeRoom()
	if !hasFile {
		return c, nil
	}
	if err := s.load(c); err != nil {
		s.forget(c)
		return nil, err
	}
	return c, nil
}

// forget puts c out of memory. Caller holds both locks.
func (s *Store) forget(c *chunk) {
	if c.queued {
		c.vol.drop(c)
	}
	c.gone = true
	c.table = nil
	s.index.remove(c)
	s.counters.open.Add(-1)
	if c.file != nil {
		if err := c.file.Close(); err != nil {
			s.log.Warn("closing a chunk file", "chunk", c.id, "err", err)
		}
		c.file = nil
	}
}

// load reads header and table, and reconciles a chunk left dirty by a crash.
// Caller holds both locks, and forgets c on error.
func (s *Store) load(c *chunk) error {
	f, err := s.fs.Open(c.path)
	if disk.NotExist(err) {
		return fmt.Errorf("%w: file of %v vanished while the store was open: %w", backend.ErrChecksum, c.id, err)
	}
	if err != nil {
		return disk.Error("open "+c.id.String(), err)
	}
	c.file = f
	var sector [sectorSize]byte
	if err := c.readFile(sector[:], 0); err != nil {
		return err
	}
	if isZero(sector[:]) {
		return s.discardLostCreation(c)
	}
	h, err := decodeHeader(&sector, headerMagic)
	if err != nil {
		return fmt.Errorf("%v: %w", c.id, err)
	}
	if h.chunk != c.id {
		return fmt.Errorf("%w: file of %v holds %v", backend.ErrChecksum, c.id, h.chunk)
	}
	if h.size != c.lay.size {
		return fmt.Errorf("%w: %v is of %d bytes, the operation says %d", backend.ErrInvalid, c.id, h.size, c.lay.size)
	}
	c.vol = s.volumes.get(h.volume)
	raw := make([]byte, c.lay.tableBytes)
	if err := c.readFile(raw, tableOff); err != nil {
		return err
	}
	c.table = make([]uint32, c.lay.blocks)
	decodeTable(c.table, raw)
	c.synced = true // by Open's sync of the whole file system, if not before
	if h.mark == markDirty {
		return s.reconcile(c)
	}
	if sum := crc32.Checksum(raw, castagnoli); sum != h.tableSum {
		return fmt.Errorf("%w: table of %v has sum %#x, its header says %#x", backend.ErrChecksum, c.id, sum, h.tableSum)
	}
	c.state, c.sealed = stateClean, true
	return nil
}

// discardLostCreation handles a file with a blank header. Without a seal the
// file was made shortly before a crash and never flushed. It is removed. Should
// the removal be lost in another crash, the header is still blank.
func (s *Store) discardLostCreation(c *chunk) error {
	var seal [sectorSize]byte
	if err := c.readFile(seal[:], c.lay.sealOff); err != nil {
		return err
	}
	if !isZero(seal[:]) {
		return fmt.Errorf("%w: header of %v is blank, but its seal says that it was written", backend.ErrChecksum, c.id)
	}
	if err := s.fs.Remove(c.path); err != nil && !disk.NotExist(err) {
		return disk.Error("remove the unfinished file of "+c.id.String(), err)
	}
	if err := c.file.Close(); err != nil {
		s.log.Warn("closing a chunk file", "chunk", c.id, "err", err)
	}
	c.clearAbsent()
	if s.index.setFile(c.id, false) {
		s.counters.chunks.Add(-1)
	}
	s.counters.lost.Add(1)
	s.log.Info("removed a chunk whose creation a crash had undone", "chunk", c.id, "volume", c.vol.id)
	return nil
}

// reconcile makes the table agree with the data after a crash. The data is on
// the disk already; should the new table be lost in another crash, the mark is
// still set and it is computed again.
func (s *Store) reconcile(c *chunk) error {
	c.state = stateDirty
	c.touched.Store(s.tick.Load())
	var seal [sectorSize]byte
	if err := c.readFile(seal[:], c.lay.sealOff); err != nil {
		return err
	}
	c.sealed = !isZero(seal[:])
	if s.opts.planted.skipReconcile {
		return nil
	}
	buf := make([]byte, min(reconcileStep, c.lay.size))
	adopted := 0
	for off := int64(0); off < c.lay.size; off += int64(len(buf)) {
		if err := c.readFile(buf, c.lay.dataOff+off); err != nil {
			return err
		}
		for i := 0; i < len(buf); i += blockSize {
			block := int((off + int64(i)) / blockSize)
			if sum := adoptedSum(c.table[block], buf[i:i+blockSize]); sum != c.table[block] {
				c.setEntry(block, sum)
				adopted++
			}
		}
	}
	if adopted > 0 {
		c.gen++
	}
	s.counters.reconciled.Add(1)
	s.counters.adopted.Add(int64(adopted))
	s.log.Info("reconciled a chunk after a crash", "chunk", c.id, "volume", c.vol.id, "adopted_blocks", adopted)
	return nil
}

// adoptedSum is the entry for a block whose content is to be believed. Zeros
// become a hole, unless the entry says that they are zeros with space.
func adoptedSum(entry uint32, block []byte) uint32 {
	if isZero(block) && entry != zeroBlockSum {
		return 0
	}
	return blockSum(block)
}

// readFile fills p from the file; what lies past its end reads as zeros.
func (c *chunk) readFile(p []byte, off int64) error {
	n, err := c.file.ReadAt(p, off)
	if err != nil && err != io.EOF {
		return disk.Error("read "+c.id.String(), err)
	}
	clear(p[n:])
	return nil
}
