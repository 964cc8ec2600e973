package backend

import "fmt"

// VolumeID names a volume for its whole life, through renames and the recycle
// bin. Never reused.
type VolumeID uint64

// SegmentIndex is the position of a segment in a volume, from 0.
type SegmentIndex uint32

// ChunkID names a chunk in the whole cluster. Never reused, so that a late
// message about a deleted chunk cannot touch a new one.
type ChunkID uint64

// CopysetID names the replica group that holds a chunk.
type CopysetID uint32

// Epoch counts the opens of a volume. A larger epoch owns the volume.
type Epoch uint64

// ServerID names a chunkserver for its whole life, from 1; 0 is none.
type ServerID uint32

// SessionID names one open of a volume. Unlike the epoch, which sharers have in
// common, it is each opener's own. Never reused.
type SessionID uint64

// Copyset is a replica group: the chunkservers that hold the same chunks.
type Copyset struct {
	ID CopysetID
	// Peers in the order of placement.
	Peers []ServerID
}

func (id VolumeID) String() string  { return fmt.Sprintf("volume %d", uint64(id)) }
func (id ChunkID) String() string   { return fmt.Sprintf("chunk %#x", uint64(id)) }
func (id CopysetID) String() string { return fmt.Sprintf("copyset %d", uint32(id)) }
func (id ServerID) String() string  { return fmt.Sprintf("chunkserver %d", uint32(id)) }

// ChunkRef says which chunk, which copyset holds it, and how large it may grow.
// Size is Geometry.ChunkSize of the volume, in bytes, the same for the chunk's
// whole life; it travels with every operation because the first write to a
// chunk is what makes it.
type ChunkRef struct {
	ID      ChunkID
	Copyset CopysetID
	Size    int64
}

// Segment is the unit of allocation: the chunks that hold one stretch of
// Geometry.SegmentSize bytes of a volume, in order of their offset (before
// striping). Immutable once allocated.
type Segment struct {
	Index  SegmentIndex
	Chunks []ChunkRef
}

// Extent is a run of Length bytes that all have, or all lack, space behind
// them. Where Hole is set the run reads as zeros.
type Extent struct {
	Length int64
	Hole   bool
}

// AppendExtent appends a run to exts and joins it with the last one when both
// are of a kind. Runs of no length are dropped.
func AppendExtent(exts []Extent, length int64, hole bool) []Extent {
	if length <= 0 {
		return exts
	}
	if n := len(exts); n > 0 && exts[n-1].Hole == hole {
		exts[n-1].Length += length
		return exts
	}
	return append(exts, Extent{Length: length, Hole: hole})
}
