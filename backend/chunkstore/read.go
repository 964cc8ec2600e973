package chunkstore

import (
	"fmt"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// blockBuf holds one block while part of it is read or merged.
type blockBuf [blockSize]byte

var blockBufs = sync.Pool{New: func() any { return new(blockBuf) }}

// access says how an operation may use the disk.
type access bool

const (
	// mayWait: the goroutine may wait for the disk.
	mayWait access = false
	// noWait: reads come from the page cache or fail with disk.ErrWouldBlock.
	noWait access = true
)

// read fills p from the chunk, every block verified before it counts, and
// reports whether no block of the range has space. Caller holds mu.
func (c *chunk) read(p []byte, off int64, how access) (hole bool, err error) {
	if c.state == stateAbsent {
		clear(p)
		return true, nil
	}
	hole = true
	for len(p) > 0 {
		block, in := int(off/blockSize), off%blockSize
		n := min(blockSize-in, int64(len(p)))
		switch {
		case n < blockSize && c.table[block] == 0:
			clear(p[:n])
		case n < blockSize:
			hole = false
			err = c.readPart(p[:n], block, in, how)
		default:
			blocks, data := c.runOf(block, len(p)/blockSize)
			n = int64(blocks) * blockSize
			if !data {
				clear(p[:n])
				break
			}
			hole = false
			err = c.readBlocks(p[:n], block, how)
		}
		if err != nil {
			return false, err
		}
		p, off = p[n:], off+n
	}
	return hole, nil
}

// runOf counts the blocks from block on, at most limit, that all have or all
// lack space.
func (c *chunk) runOf(block, limit int) (blocks int, data bool) {
	data = c.table[block] != 0
	blocks = 1
	for blocks < limit && (c.table[block+blocks] != 0) == data {
		blocks++
	}
	return blocks, data
}

func (c *chunk) readPart(p []byte, block int, in int64, how access) error {
	buf := blockBufs.Get().(*blockBuf)
	defer blockBufs.Put(buf)
	if err := c.readBlocks(buf[:], block, how); err != nil {
		return err
	}
	copy(p, buf[in:])
	return nil
}

// readBlocks fills p with whole blocks that have space and verifies each.
func (c *chunk) readBlocks(p []byte, block int, how access) error {
	off := c.lay.dataOff + int64(block)*blockSize
	if how == noWait {
		if _, err := c.file.TryReadAt(p, off); err != nil {
			return disk.ErrWouldBlock
		}
	} else if err := c.readFile(p, off); err != nil {
		return err
	}
	for i := 0; i < len(p); i += blockSize {
		if sum, want := blockSum(p[i:i+blockSize]), c.table[block+i/blockSize]; sum != want {
			clear(p)
			return fmt.Errorf("%w: %v of %v: block %d has sum %#x, expected %#x",
				backend.ErrChecksum, c.id, c.vol.id, block+i/blockSize, sum, want)
		}
	}
	return nil
}

// extents appends the runs of [off, off+length). Caller holds mu.
func (c *chunk) extents(off, length int64, dst []backend.Extent) []backend.Extent {
	if c.state == stateAbsent {
		return backend.AppendExtent(dst, length, true)
	}
	for end := off + length; off < end; {
		block := int(off / blockSize)
		last := int((end - 1) / blockSize)
		blocks, data := c.runOf(block, last-block+1)
		next := min(int64(block+blocks)*blockSize, end)
		dst = backend.AppendExtent(dst, next-off, !data)
		off = next
	}
	return dst
}
