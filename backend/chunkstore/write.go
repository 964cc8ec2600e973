package chunkstore

import (
	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// write stores p. The blocks at its edges may be covered in part: their rest is
// read and verified first, so that a new sum never blesses damaged bytes. On
// disk.ErrWouldBlock nothing was changed. Caller holds mu exclusively, state dirty.
func (s *Store) write(c *chunk, p []byte, off int64, how access) error {
	end := off + int64(len(p))
	first, last := int(off/blockSize), int((end-1)/blockSize)
	headFrom, tailTo := off%blockSize, (end-1)%blockSize+1
	var headSum, tailSum uint32
	var err error
	if headFrom != 0 || (first == last && tailTo != blockSize) {
		head := p[:min(blockSize-headFrom, int64(len(p)))]
		if headSum, err = c.mergedSum(first, headFrom, head, how); err != nil {
			return err
		}
	}
	if last != first && tailTo != blockSize {
		if tailSum, err = c.mergedSum(last, 0, p[int64(len(p))-tailTo:], how); err != nil {
			return err
		}
	}
	if _, err := c.file.WriteAt(p, c.lay.dataOff+off); err != nil {
		return s.adoptAfter(c, first, last, "write", err)
	}
	for block := first; block <= last; block++ {
		switch at := int64(block)*blockSize - off; {
		case block == first && headSum != 0:
			c.setEntry(block, headSum)
		case block == last && tailSum != 0:
			c.setEntry(block, tailSum)
		default:
			c.setEntry(block, blockSum(p[at:at+blockSize]))
		}
	}
	s.changed(c)
	return nil
}

// mergedSum is the sum the block will have once p is stored at from.
func (c *chunk) mergedSum(block int, from int64, p []byte, how access) (uint32, error) {
	buf := blockBufs.Get().(*blockBuf)
	defer blockBufs.Put(buf)
	if err := c.readOrZero(buf, block, how); err != nil {
		return 0, err
	}
	copy(buf[from:], p)
	return blockSum(buf[:]), nil
}

func (c *chunk) readOrZero(buf *blockBuf, block int, how access) error {
	if c.table[block] == 0 {
		clear(buf[:])
		return nil
	}
	return c.readBlocks(buf[:], block, how)
}

// adoptAfter follows a change that failed part-way: it makes the entries of the
// blocks it covered agree with what the file now holds. A block that cannot be
// read keeps its old entry, and reads of it will say that it does not match.
func (s *Store) adoptAfter(c *chunk, first, last int, what string, cause error) error {
	buf := blockBufs.Get().(*blockBuf)
	defer blockBufs.Put(buf)
	for block := first; block <= last; block++ {
		if err := c.readFile(buf[:], c.lay.dataOff+int64(block)*blockSize); err == nil {
			c.setEntry(block, adoptedSum(c.table[block], buf[:]))
		}
	}
	s.changed(c)
	return disk.Error(what+" "+c.id.String(), cause)
}

// lockForChange returns the chunk with mu held exclusively, ready to be changed
// in place by op.
func (s *Store) lockForChange(op *backend.Op) (*chunk, error) {
	vol := s.volumes.get(op.Volume)
	for {
		c, err := s.open(op.Chunk, vol)
		if err != nil {
			return nil, err
		}
		c.touch()
		c.mu.Lock()
		if !c.gone && c.state != stateDirty {
			if err := s.checkChange(c, op); err != nil {
				c.mu.Unlock()
				return nil, err
			}
			c.mu.Unlock()
			c.sync.Lock()
			err := s.makeDirty(c)
			c.mu.Lock() // before sync is let go, so that nobody cleans it first
			c.sync.Unlock()
			if err != nil {
				c.mu.Unlock()
				return nil, err
			}
		}
		if c.gone || c.state != stateDirty {
			c.mu.Unlock()
			continue
		}
		if err := s.checkChange(c, op); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		return c, nil
	}
}

// checkChange is what every change must pass under the chunk's lock: there, an
// epoch that is admitted cannot be outdated before the change has landed.
func (s *Store) checkChange(c *chunk, op *backend.Op) error {
	if err := c.checkOwner(op.Chunk, op.Volume); err != nil {
		return err
	}
	if err := c.vol.admit(op.Epoch); err != nil {
		return err
	}
	if p := c.poison.Load(); p != nil {
		return p
	}
	return nil
}
