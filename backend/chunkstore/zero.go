package chunkstore

import (
	"errors"
)

// zeros is what is written where zeros must take space.
var zeros [256 << 10]byte

// anyData says whether a block of the range has space. Caller holds mu.
func (c *chunk) anyData(off, length int64) bool {
	if c.state == stateAbsent {
		return false
	}
	for block := off / blockSize; block*blockSize < off+length; block++ {
		if c.table[block] != 0 {
			return true
		}
	}
	return false
}

// zero makes the range read as zeros: whole blocks are freed, or with keep
// written; blocks covered in part are merged. Caller holds mu exclusively,
// state dirty.
func (s *Store) zero(c *chunk, off, length int64, keep bool) error {
	end := off + length
	if in := off % blockSize; in != 0 {
		to := min(blockSize, in+length)
		if err := s.zeroPart(c, int(off/blockSize), in, to, keep); err != nil {
			return err
		}
		off += to - in
	}
	if whole := (end - off) / blockSize; whole > 0 {
		do := s.freeBlocks
		if keep {
			do = s.writeZeros
		}
		if err := do(c, int(off/blockSize), int(whole)); err != nil {
			return err
		}
		off += whole * blockSize
	}
	if off < end {
		return s.zeroPart(c, int(off/blockSize), 0, end-off, keep)
	}
	return nil
}

// zeroPart zeros [from, to) of a block.
func (s *Store) zeroPart(c *chunk, block int, from, to int64, keep bool) error {
	if c.table[block] == 0 {
		if keep {
			return s.writeZeros(c, block, 1)
		}
		return nil
	}
	buf := blockBufs.Get().(*blockBuf)
	defer blockBufs.Put(buf)
	if err := c.readBlocks(buf[:], block, mayWait); err != nil {
		return err
	}
	clear(buf[from:to])
	if !keep && isZero(buf[:]) {
		return s.freeBlocks(c, block, 1)
	}
	off := c.lay.dataOff + int64(block)*blockSize
	if _, err := c.file.WriteAt(buf[from:to], off+from); err != nil {
		return s.adoptAfter(c, block, block, "zero", err)
	}
	c.setEntry(block, blockSum(buf[:]))
	s.changed(c)
	return nil
}

// freeBlocks gives the space of whole blocks back.
func (s *Store) freeBlocks(c *chunk, first, count int) error {
	for count > 0 {
		blocks, data := c.runOf(first, count)
		if data {
			off := c.lay.dataOff + int64(first)*blockSize
			err := c.file.PunchHole(off, int64(blocks)*blockSize)
			if errors.Is(err, errors.ErrUnsupported) {
				err = s.writeZeros(c, first, blocks)
				if err != nil {
					return err
				}
			} else if err != nil {
				return s.adoptAfter(c, first, first+blocks-1, "free blocks of", err)
			} else {
				for block := first; block < first+blocks; block++ {
					c.setEntry(block, 0)
				}
				s.changed(c)
			}
		}
		first, count = first+blocks, count-blocks
	}
	return nil
}

// writeZeros zeros whole blocks and keeps space for them.
func (s *Store) writeZeros(c *chunk, first, count int) error {
	for count > 0 {
		blocks := min(count, len(zeros)/blockSize)
		off := c.lay.dataOff + int64(first)*blockSize
		if _, err := c.file.WriteAt(zeros[:blocks*blockSize], off); err != nil {
			return s.adoptAfter(c, first, first+blocks-1, "zero", err)
		}
		for block := first; block < first+blocks; block++ {
			c.setEntry(block, zeroBlockSum)
		}
		s.changed(c)
		first, count = first+blocks, count-blocks
	}
	return nil
}
