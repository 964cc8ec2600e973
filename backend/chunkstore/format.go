package chunkstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/opencurve/curve-nbd/backend"
)

// A chunk file, in bytes from its start; integers are little endian:
//
//	0       +--------------------------------------------------------------+
//	        | header, one sector of 512; see below. Rest of the page is 0.  |
//	4096    +--------------------------------------------------------------+
//	        | table: a u32 per 4 KiB block of the chunk.                    |
//	        |   0      the block has no space and reads as zeros            |
//	        |   other  crc32c of its content (a crc of 0 is stored as 1)    |
//	        | padded with zeros to a multiple of 4096                       |
//	sealOff +--------------------------------------------------------------+
//	        | seal, one sector, written once after the first full sync.     |
//	        | Rest of the page is 0.                                        |
//	        +--------------------------------------------------------------+
//	        | zeros up to a multiple of 64 KiB                              |
//	dataOff +--------------------------------------------------------------+
//	        | data, chunk size bytes, sparse                                |
//	        +--------------------------------------------------------------+
//
// For the default chunk of 16 MiB the table takes 16 KiB and data starts at
// 64 KiB, so that data keeps the alignment of the file's start.
//
// Header and seal share one shape:
//
//	 0  magic      8 bytes  "CurveChk" or "CurveSea"
//	 8  version    u32      1
//	12  state      u32      1 dirty, 2 clean; 0 in a seal
//	16  chunk id   u64
//	24  volume id  u64
//	32  chunk size u64
//	40  table sum  u32      crc32c of the table when clean, else 0
//	44  reserved   464      zeros
//	508 sum        u32      crc32c of bytes 0 to 507
//
// Both fit into a sector because a disk writes a sector whole or not at all:
// the state changes atomically, and a header that is neither valid nor blank is
// damage, never the trace of a crash.
//
// The seal tells a blank header that was never written (its creation was lost
// in a crash, nothing of it was ever flushed) from one that was wiped. It is
// written only after a sync has made the header durable, and lies in another
// page than the header.
const (
	blockSize  = backend.ChecksumBlock
	sectorSize = 512
	pageSize   = 4096

	tableOff        = pageSize
	entrySize       = 4
	entriesPerPage  = pageSize / entrySize
	maxBlocks       = backend.MaxChunkSize / blockSize
	maxTablePages   = maxBlocks / entriesPerPage
	dataAlign       = 64 << 10
	formatVersion   = 1
	headerSumOff    = 508
	headerReserved  = 44
	headerMagic     = "CurveChk"
	sealMagic       = "CurveSea"
	markNone        = 0
	markDirty       = 1
	markClean       = 2
	chunkNameDigits = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	zeroBlock    [blockSize]byte
	zeroBlockSum = blockSum(zeroBlock[:])
)

// blockSum is the table entry of a block with space; never 0.
func blockSum(b []byte) uint32 {
	if sum := crc32.Checksum(b, castagnoli); sum != 0 {
		return sum
	}
	return 1
}

func isZero(b []byte) bool {
	for len(b) > blockSize {
		if !bytes.Equal(b[:blockSize], zeroBlock[:]) {
			return false
		}
		b = b[blockSize:]
	}
	return bytes.Equal(b, zeroBlock[:len(b)])
}

// layout is where the parts of a chunk file of one chunk size are.
type layout struct {
	size       int64
	blocks     int
	tableBytes int64
	sealOff    int64
	dataOff    int64
}

func layoutOf(chunkSize int64) layout {
	l := layout{size: chunkSize, blocks: int(chunkSize / blockSize)}
	l.tableBytes = int64(l.blocks) * entrySize
	l.sealOff = tableOff + alignUp(l.tableBytes, pageSize)
	l.dataOff = alignUp(l.sealOff+pageSize, dataAlign)
	return l
}

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }

// header is the decoded form of a header or a seal.
type header struct {
	mark     uint32
	chunk    backend.ChunkID
	volume   backend.VolumeID
	size     int64
	tableSum uint32
}

func (h header) encode(dst *[sectorSize]byte, magic string) {
	clear(dst[:])
	copy(dst[:8], magic)
	le := binary.LittleEndian
	le.PutUint32(dst[8:], formatVersion)
	le.PutUint32(dst[12:], h.mark)
	le.PutUint64(dst[16:], uint64(h.chunk))
	le.PutUint64(dst[24:], uint64(h.volume))
	le.PutUint64(dst[32:], uint64(h.size))
	le.PutUint32(dst[40:], h.tableSum)
	le.PutUint32(dst[headerSumOff:], crc32.Checksum(dst[:headerSumOff], castagnoli))
}

// decodeHeader checks a sector from outside. The caller has ruled a blank one
// out.
func decodeHeader(src *[sectorSize]byte, magic string) (header, error) {
	le := binary.LittleEndian
	if found := string(src[:8]); found != magic {
		return header{}, fmt.Errorf("%w: chunk header starts with %q, expected %q", backend.ErrChecksum, found, magic)
	}
	found, want := le.Uint32(src[headerSumOff:]), crc32.Checksum(src[:headerSumOff], castagnoli)
	if found != want {
		return header{}, fmt.Errorf("%w: chunk header has sum %#x, its content %#x", backend.ErrChecksum, found, want)
	}
	if v := le.Uint32(src[8:]); v != formatVersion {
		return header{}, fmt.Errorf("%w: chunk format version %d, this program knows %d: use the program that wrote it", backend.ErrNotSupported, v, formatVersion)
	}
	h := header{
		mark:     le.Uint32(src[12:]),
		chunk:    backend.ChunkID(le.Uint64(src[16:])),
		volume:   backend.VolumeID(le.Uint64(src[24:])),
		size:     int64(le.Uint64(src[32:])),
		tableSum: le.Uint32(src[40:]),
	}
	switch {
	case !isZero(src[headerReserved:headerSumOff]):
		return header{}, fmt.Errorf("%w: chunk header has data in its reserved bytes", backend.ErrChecksum)
	case !backend.ValidChunkSize(h.size):
		return header{}, fmt.Errorf("%w: chunk header gives a chunk size of %d", backend.ErrChecksum, h.size)
	case magic == headerMagic && h.mark != markDirty && h.mark != markClean,
		magic == sealMagic && h.mark != markNone:
		return header{}, fmt.Errorf("%w: chunk header gives state %d", backend.ErrChecksum, h.mark)
	case h.mark != markClean && h.tableSum != 0:
		return header{}, fmt.Errorf("%w: chunk header gives a table sum though it is not clean", backend.ErrChecksum)
	}
	return h, nil
}

// encodeTable writes entries to dst, which has room for exactly as many.
func encodeTable(dst []byte, entries []uint32) {
	for i, e := range entries {
		binary.LittleEndian.PutUint32(dst[i*entrySize:], e)
	}
}

func decodeTable(entries []uint32, src []byte) {
	for i := range entries {
		entries[i] = binary.LittleEndian.Uint32(src[i*entrySize:])
	}
}

// chunkName and parseChunkName turn an id into its path below the store's
// directory and back.
func chunkName(id backend.ChunkID) (dir, name string) {
	return fmt.Sprintf("%02x", uint8(id)), fmt.Sprintf("%016x", uint64(id))
}

func parseChunkName(dir, name string) (backend.ChunkID, bool) {
	if len(name) != chunkNameDigits {
		return 0, false
	}
	var id uint64
	for _, c := range []byte(name) {
		switch {
		case c >= '0' && c <= '9':
			id = id<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			id = id<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	wantDir, _ := chunkName(backend.ChunkID(id))
	return backend.ChunkID(id), dir == wantDir
}
