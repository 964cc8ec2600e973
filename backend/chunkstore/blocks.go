package chunkstore

import (
	"context"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// What replicas of a chunk need to compare and mend it, block by block. Whole
// blocks are written and freed by ordinary operations, which do not look at what
// was there.

// BlockSize is the unit of checksums, in bytes.
const BlockSize = blockSize

// exportStep is how many blocks are copied under a chunk's lock at once.
const exportStep = 64

// Sums appends the checksums of a chunk's blocks to dst, 0 for a block without
// space, and reports whether the chunk has a file. They are those of the table,
// which say what the blocks should be. ErrChecksum when that is damaged.
func (s *Store) Sums(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, dst []uint32) (sums []uint32, exists bool, err error) {
	c, err := s.lockForBlocks(ctx, ref, vol)
	if err != nil || c == nil {
		return dst, false, err
	}
	defer s.gate.RUnlock()
	defer c.mu.RUnlock()
	if c.state == stateAbsent {
		return dst, false, nil
	}
	return append(dst, c.table...), true, nil
}

// lockForBlocks returns the chunk with mu and the store's gate held shared, or nil,
// holding neither, when it has no file.
func (s *Store) lockForBlocks(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID) (*chunk, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	err := ref.CheckRange(0, 0)
	var c *chunk
	if err == nil {
		c, err = s.lockForRead(ref, vol)
	}
	if err != nil || c == nil {
		s.gate.RUnlock()
		return nil, err
	}
	return c, nil
}

// Blocks reads and verifies the blocks [first, first+count) of a chunk and gives
// emit those whose checksum differs from that in have, which is that of the
// reader's blocks from first on and may be shorter, holes for the rest. A hole comes
// as nil. data belongs to emit until it returns; no lock is held meanwhile, so that
// the blocks are of different moments. It reports whether the chunk has a file: one
// that has none is all holes.
func (s *Store) Blocks(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, first, count int, have []uint32,
	emit func(block int, data []byte) error) (exists bool, err error) {
	blocks := int(ref.Size / blockSize)
	if first < 0 || count < 0 || first > blocks || count > blocks-first {
		return false, fmt.Errorf("%w: blocks %d to %d of a chunk of %d", backend.ErrInvalid, first, first+count, blocks)
	}
	var step blockStep
	for done := 0; done < count || done == 0; done += exportStep {
		n := min(exportStep, count-done)
		was := have[min(done, len(have)):min(done+n, len(have))]
		here, err := s.copyBlocks(ctx, ref, vol, first+done, n, was, &step)
		if err != nil {
			return exists, err
		}
		exists = exists || here
		for i := range step.n {
			var data []byte
			if !step.hole[i] {
				data = step.data[i*blockSize : (i+1)*blockSize]
			}
			if err := emit(step.block[i], data); err != nil {
				return exists, err
			}
		}
	}
	return exists, nil
}

// blockStep is some blocks copied out of a chunk.
type blockStep struct {
	n     int
	block [exportStep]int
	hole  [exportStep]bool
	data  []byte
}

func (s *Store) copyBlocks(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, first, count int, have []uint32, step *blockStep) (bool, error) {
	step.n = 0
	c, err := s.lockForBlocks(ctx, ref, vol)
	if err != nil {
		return false, err
	}
	exists := c != nil
	if exists {
		defer s.gate.RUnlock()
		defer c.mu.RUnlock()
		exists = c.state != stateAbsent
	}
	if step.data == nil {
		step.data = make([]byte, exportStep*blockSize)
	}
	for i := range count {
		sum, was := uint32(0), uint32(0)
		if exists {
			sum = c.table[first+i]
		}
		if i < len(have) {
			was = have[i]
		}
		if sum == was {
			continue
		}
		at := step.n
		step.block[at], step.hole[at] = first+i, sum == 0
		if sum != 0 {
			if err := c.readBlocks(step.data[at*blockSize:(at+1)*blockSize], first+i, mayWait); err != nil {
				s.countDamage(err)
				return exists, err
			}
		}
		step.n++
	}
	return exists, nil
}

// Damaged reads all blocks of a chunk and appends to dst those that do not match
// their checksum or cannot be read. ErrChecksum when the file as a whole is damaged:
// its header or its table.
func (s *Store) Damaged(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, dst []int) ([]int, error) {
	buf := make([]byte, exportStep*blockSize)
	for first := 0; first < int(ref.Size/blockSize); first += exportStep {
		if err := s.verifyStep(ctx, ref, vol, first, buf, &dst); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func (s *Store) verifyStep(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, first int, buf []byte, dst *[]int) error {
	c, err := s.lockForBlocks(ctx, ref, vol)
	if err != nil || c == nil {
		return err
	}
	defer s.gate.RUnlock()
	defer c.mu.RUnlock()
	if c.state == stateAbsent {
		return nil
	}
	end := min(first+exportStep, int(ref.Size/blockSize))
	for block := first; block < end; {
		n, data := c.runOf(block, end-block)
		// A run is read at once; only when that fails is each block looked at.
		if data && c.readBlocks(buf[:n*blockSize], block, mayWait) != nil {
			for i := range n {
				if c.readBlocks(buf[:blockSize], block+i, mayWait) != nil {
					*dst = append(*dst, block+i)
				}
			}
		}
		block += n
	}
	return nil
}
