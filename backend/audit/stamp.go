package audit

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/opencurve/curve-nbd/backend"
)

// BlockBytes is the size of a stamped block.
const BlockBytes = 4096

// A stamped block, little-endian:
//
//	 0  8  magic "CrvAudit"
//	 8  4  CRC-32C of bytes 12 to 4095
//	12  2  version of this layout, 1
//	14  2  zero
//	16  8  volume
//	24  8  block number in the volume
//	32  8  version of the block, from 1
//	40  4  writer
//	44  4  zero
//	48  8  seed of the run
//	56     filler, drawn from seed, block and version
const (
	stampMagic   = "CrvAudit"
	stampLayout  = 1
	offSum       = 8
	offLayout    = 12
	offReserved1 = 14
	offVolume    = 16
	offBlock     = 24
	offVersion   = 32
	offWriter    = 40
	offReserved2 = 44
	offSeed      = 48
	stampHeader  = 56
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Stamp says what a block is. The zero Stamp is that of a block of zeros: never
// written, trimmed or zeroed.
type Stamp struct {
	Volume  backend.VolumeID
	Block   int64
	Version uint64
	Writer  uint32
	Seed    uint64
}

// Zero says whether s is that of a block of zeros.
func (s Stamp) Zero() bool { return s == Stamp{} }

func (s Stamp) String() string {
	if s.Zero() {
		return "zeros"
	}
	return fmt.Sprintf("version %d of block %d of %v by writer %d", s.Version, s.Block, s.Volume, s.Writer)
}

// Fill makes a block of BlockBytes that carries s. Every byte depends on it.
func (s Stamp) Fill(b []byte) {
	b = b[:BlockBytes]
	le := binary.LittleEndian
	copy(b, stampMagic)
	le.PutUint16(b[offLayout:], stampLayout)
	le.PutUint16(b[offReserved1:], 0)
	le.PutUint64(b[offVolume:], uint64(s.Volume))
	le.PutUint64(b[offBlock:], uint64(s.Block))
	le.PutUint64(b[offVersion:], s.Version)
	le.PutUint32(b[offWriter:], s.Writer)
	le.PutUint32(b[offReserved2:], 0)
	le.PutUint64(b[offSeed:], s.Seed)
	x := s.filler()
	for i := stampHeader; i < BlockBytes; i += 8 {
		x = next(x)
		le.PutUint64(b[i:], x)
	}
	le.PutUint32(b[offSum:], crc32.Checksum(b[offLayout:], castagnoli))
}

// filler starts the sequence of 8-byte words behind the header. The constants
// are those of splitmix64 and Knuth's LCG: they keep neighbours apart.
func (s Stamp) filler() uint64 {
	return (s.Seed ^ uint64(s.Block)*0x9e3779b97f4a7c15 ^ s.Version*0xbf58476d1ce4e5b9) | 1
}

func next(x uint64) uint64 { return x*6364136223846793005 + 1442695040888963407 }

// ReadStamp says what a block of BlockBytes carries. ok is false for content
// that no Fill made as a whole: torn, damaged, or not ours at all; the Stamp is
// then what the header claims, if there is a header.
func ReadStamp(b []byte) (s Stamp, ok bool) {
	if len(b) != BlockBytes {
		return Stamp{}, false
	}
	if allZero(b) {
		return Stamp{}, true
	}
	le := binary.LittleEndian
	if string(b[:offSum]) != stampMagic || le.Uint16(b[offLayout:]) != stampLayout {
		return Stamp{}, false
	}
	s = Stamp{
		Volume: backend.VolumeID(le.Uint64(b[offVolume:])), Block: int64(le.Uint64(b[offBlock:])),
		Version: le.Uint64(b[offVersion:]), Writer: le.Uint32(b[offWriter:]), Seed: le.Uint64(b[offSeed:]),
	}
	ok = le.Uint16(b[offReserved1:]) == 0 && le.Uint32(b[offReserved2:]) == 0 && !s.Zero() &&
		le.Uint32(b[offSum:]) == crc32.Checksum(b[offLayout:], castagnoli)
	return s, ok
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
