package backend

import (
	"fmt"
	"math/bits"
)

// Sizes in bytes.
const (
	DefaultBlockSize   = 4096
	DefaultChunkSize   = 16 << 20
	DefaultSegmentSize = 1 << 30

	// ChecksumBlock is the unit that a chunk store checksums, allocates and
	// frees. Smaller logical blocks are read, merged and written as one.
	ChecksumBlock = 4096

	MinChunkSize   = 64 << 10
	MaxChunkSize   = 64 << 20
	MaxSegmentSize = 1 << 40
	// MaxVolumeSize keeps every volume offset and offset+length far inside an
	// int64.
	MaxVolumeSize = 1 << 60
	// MaxChunksPerSegment bounds one allocation record.
	MaxChunksPerSegment = 4096
)

// Geometry says how a volume is cut. All sizes are bytes and powers of two.
//
// Without striping (StripeCount 0 or 1) chunk i of a segment holds bytes
// [i*ChunkSize, (i+1)*ChunkSize) of it. With striping, StripeCount neighbouring
// chunks form a group, and the group's bytes go round its chunks StripeUnit at
// a time, so that a sequential stream keeps several chunks busy.
type Geometry struct {
	BlockSize   int64 `json:"block_size"`
	ChunkSize   int64 `json:"chunk_size"`
	SegmentSize int64 `json:"segment_size"`
	StripeUnit  int64 `json:"stripe_unit,omitempty"`
	StripeCount int64 `json:"stripe_count,omitempty"`
}

// DefaultGeometry is what a volume gets that asks for nothing else.
func DefaultGeometry() Geometry {
	return Geometry{BlockSize: DefaultBlockSize, ChunkSize: DefaultChunkSize, SegmentSize: DefaultSegmentSize}
}

// WithDefaults fills the sizes that are zero.
func (g Geometry) WithDefaults() Geometry {
	d := DefaultGeometry()
	if g.BlockSize == 0 {
		g.BlockSize = d.BlockSize
	}
	if g.ChunkSize == 0 {
		g.ChunkSize = d.ChunkSize
	}
	if g.SegmentSize == 0 {
		g.SegmentSize = d.SegmentSize
	}
	return g
}

// Striped says whether a group of chunks shares a stretch of the volume.
func (g Geometry) Striped() bool { return g.StripeCount > 1 }

// ChunksPerSegment is the number of chunks in one segment.
func (g Geometry) ChunksPerSegment() int { return int(g.SegmentSize / g.ChunkSize) }

// Validate reports, as ErrInvalid, the first rule that g breaks.
func (g Geometry) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case g.BlockSize != 512 && g.BlockSize != 4096:
		return bad("block size %d: use 512 or 4096", g.BlockSize)
	case !ValidChunkSize(g.ChunkSize):
		return bad("chunk size %d: use a power of two from %d to %d", g.ChunkSize, MinChunkSize, MaxChunkSize)
	case !powerOfTwo(g.SegmentSize) || g.SegmentSize < g.ChunkSize || g.SegmentSize > MaxSegmentSize:
		return bad("segment size %d: use a power of two from the chunk size (%d) to %d", g.SegmentSize, g.ChunkSize, int64(MaxSegmentSize))
	case g.ChunksPerSegment() > MaxChunksPerSegment:
		return bad("segment of %d chunks: at most %d", g.ChunksPerSegment(), MaxChunksPerSegment)
	case g.StripeCount < 0 || g.StripeUnit < 0:
		return bad("stripe unit %d and count %d: must not be negative", g.StripeUnit, g.StripeCount)
	case g.StripeCount <= 1 && g.StripeUnit != 0:
		return bad("stripe unit %d without a stripe count above 1", g.StripeUnit)
	case !g.Striped():
		return nil
	case !powerOfTwo(g.StripeCount) || int(g.StripeCount) > g.ChunksPerSegment():
		return bad("stripe count %d: use a power of two up to the %d chunks of a segment", g.StripeCount, g.ChunksPerSegment())
	case !powerOfTwo(g.StripeUnit) || g.StripeUnit < ChecksumBlock || g.StripeUnit > g.ChunkSize:
		return bad("stripe unit %d: use a power of two from %d to the chunk size (%d)", g.StripeUnit, ChecksumBlock, g.ChunkSize)
	}
	return nil
}

func powerOfTwo(n int64) bool { return n > 0 && bits.OnesCount64(uint64(n)) == 1 }
