package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// A position in the log is a segment's sequence number and a byte offset in it.
// Positions grow with time; both parts fit 32 bits.
type position uint64

func at(seq uint32, off int64) position { return position(seq)<<32 | position(off) }

func (p position) seq() uint32 { return uint32(p >> 32) }
func (p position) off() int64  { return int64(uint32(p)) }

func (p position) String() string { return fmt.Sprintf("%d:%#x", p.seq(), p.off()) }

// All integers are little endian, checksums CRC-32C.
//
// Segment file, SegmentBytes long from the start:
//
//	0        segment header
//	4096     the same again
//	8192     batches, each aligned to 512 bytes
//
// Segment header, 512 bytes, the rest of it zero:
//
//	 0  8  magic "CNBDRLOG"
//	 8  4  version
//	12  4  sequence number of this use of the file, never repeated
//	16  8  salt, random for this use: no bytes of another use or of a
//	       client pass for a batch
//	24  8  size of the file
//	32  8  position where the log ended when this segment was begun; everything
//	       before it was durable. 0 for the very first
//	40  4  sequence number of the oldest segment that is needed from now on
//	44  4  zero
//	48  4  checksum of the bytes before
const (
	segmentMagic   = "CNBDRLOG"
	formatVersion  = 1
	sectorBytes    = 512
	blockBytes     = 4096
	dataStart      = 2 * blockBytes
	segmentHeadLen = 52
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type segmentHeader struct {
	seq   uint32
	salt  uint64
	size  int64
	prev  position
	first uint32
}

func (h segmentHeader) encode(b []byte) {
	clear(b[:sectorBytes])
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], h.seq)
	le.PutUint64(b[16:], h.salt)
	le.PutUint64(b[24:], uint64(h.size))
	le.PutUint64(b[32:], uint64(h.prev))
	le.PutUint32(b[40:], h.first)
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
}

// decodeSegmentHeader returns ErrChecksum for what is no header, and
// ErrNotSupported for one of another version.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	le := binary.LittleEndian
	if len(b) < sectorBytes || string(b[:8]) != segmentMagic || crc32.Checksum(b[:48], castagnoli) != le.Uint32(b[48:]) {
		return segmentHeader{}, fmt.Errorf("%w: raft log segment header", backend.ErrChecksum)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return segmentHeader{}, fmt.Errorf("%w: raft log segment of format version %d, this program knows %d", backend.ErrNotSupported, v, formatVersion)
	}
	h := segmentHeader{
		seq: le.Uint32(b[12:]), salt: le.Uint64(b[16:]), size: int64(le.Uint64(b[24:])),
		prev: position(le.Uint64(b[32:])), first: le.Uint32(b[40:]),
	}
	if h.seq == 0 || h.first > h.seq || h.first == 0 || h.prev.seq() >= h.seq ||
		h.size < minSegmentBytes || h.size > maxSegmentBytes || h.size%blockBytes != 0 {
		return segmentHeader{}, fmt.Errorf("%w: raft log segment header with impossible values %+v", backend.ErrChecksum, h)
	}
	return h, nil
}

// Batch: a header, records one after the other, zeros up to a multiple of 512.
//
//	 0  4  magic
//	 4  1  flags: 1 = the roster that a segment starts with, and nothing else
//	 5  3  zero
//	 8  8  salt of the segment
//	16  8  position of this batch
//	24  8  position of the batch before it in the segment, 0 for the first
//	32  8  durable: everything before this position was durable when this batch
//	       was written
//	40  4  bytes of records
//	44  4  number of records
//	48  4  checksum of the bytes before
//	52     records, each with its own checksums: the batch is whole if all are
const (
	batchMagic   = 0x4c425243 // "CRBL"
	batchHeadLen = 52
	flagRoster   = 1
)

type batchHeader struct {
	flags   uint8
	salt    uint64
	pos     position
	prev    position
	durable position
	length  int64
	count   uint32
}

// bytes on disk, padding included.
func (h batchHeader) bytes() int64 { return roundUp(batchHeadLen + h.length) }

func roundUp(n int64) int64 { return (n + sectorBytes - 1) &^ (sectorBytes - 1) }

func (h batchHeader) encode(b []byte) {
	le := binary.LittleEndian
	clear(b[:batchHeadLen])
	le.PutUint32(b, batchMagic)
	b[4] = h.flags
	le.PutUint64(b[8:], h.salt)
	le.PutUint64(b[16:], uint64(h.pos))
	le.PutUint64(b[24:], uint64(h.prev))
	le.PutUint64(b[32:], uint64(h.durable))
	le.PutUint32(b[40:], uint32(h.length))
	le.PutUint32(b[44:], h.count)
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
}

// decodeBatchHeader reads the header at off of a segment's content, false if
// there is none that belongs there.
func decodeBatchHeader(seg []byte, off int64, own segmentHeader) (batchHeader, bool) {
	if off < dataStart || off > int64(len(seg))-sectorBytes {
		return batchHeader{}, false
	}
	b := seg[off:]
	le := binary.LittleEndian
	if le.Uint32(b) != batchMagic || crc32.Checksum(b[:48], castagnoli) != le.Uint32(b[48:]) {
		return batchHeader{}, false
	}
	h := batchHeader{
		flags: b[4], salt: le.Uint64(b[8:]), pos: position(le.Uint64(b[16:])), prev: position(le.Uint64(b[24:])),
		durable: position(le.Uint64(b[32:])), length: int64(le.Uint32(b[40:])), count: le.Uint32(b[44:]),
	}
	ok := h.salt == own.salt && h.pos == at(own.seq, off) && h.prev < h.pos && h.durable <= h.pos &&
		h.length > 0 && h.bytes() <= int64(len(seg))-off && int64(h.count)*recordHeadLen <= h.length
	return h, ok
}

// Record: a header, a stable key or an entry's extensions, a value or data.
//
//	 0  4  checksum of everything after the header
//	 4  4  length of the record, header included
//	 8  1  type
//	 9  1  raft's type of the entry
//	10  2  zero
//	12  4  copyset
//	16  8  number of the record among those of its copyset, without gaps
//	24  8  index: of the entry; the last one gone; the first one gone
//	32  8  term of the entry
//	40  8  when the entry was appended, ns since 1970; the least int64 for never
//	48  4  length of the key or the extensions
//	52  4  checksum of the header, begun with the salt and the record's position
const (
	recordHeadLen = 56
	never         = math.MinInt64
)

type recordType uint8

const (
	recordEntry recordType = iota + 1
	// recordPrefix: entries up to index are gone.
	recordPrefix
	// recordSuffix: entries from index on are gone.
	recordSuffix
	// recordSet is a stable value.
	recordSet
	// recordReset: all that came before of the group does not count; what does
	// follows in the same batch.
	recordReset
	// recordDelete: the group is gone, its numbering starts again.
	recordDelete
	// recordRoster has as data every group and its numbering at this point.
	recordRoster
	recordTypes
)

type record struct {
	kind     recordType
	logType  uint8
	copyset  backend.CopysetID
	num      uint64
	index    uint64
	term     uint64
	appended int64
	// head is the key or the extensions, data the value or the entry's data;
	// both point into the bytes that the record was decoded from.
	head, data []byte
	size       int64
}

func recordBytes(head, data int) int64 { return recordHeadLen + int64(head) + int64(data) }

// seed begins the header's checksum, so that a record counts only where it was
// written, in that use of the segment.
func seed(salt uint64, pos position) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	binary.LittleEndian.PutUint64(b[8:], uint64(pos))
	return crc32.Checksum(b[:], castagnoli)
}

// appendTo appends the encoded record, which will be at pos.
func (r *record) appendTo(buf []byte, salt uint64, pos position) []byte {
	start := len(buf)
	var head [recordHeadLen]byte
	buf = append(buf, head[:]...)
	buf = append(buf, r.head...)
	buf = append(buf, r.data...)
	b := buf[start:]
	le := binary.LittleEndian
	le.PutUint32(b, crc32.Checksum(b[recordHeadLen:], castagnoli))
	le.PutUint32(b[4:], uint32(len(b)))
	b[8], b[9] = byte(r.kind), r.logType
	le.PutUint32(b[12:], uint32(r.copyset))
	le.PutUint64(b[16:], r.num)
	le.PutUint64(b[24:], r.index)
	le.PutUint64(b[32:], r.term)
	le.PutUint64(b[40:], uint64(r.appended))
	le.PutUint32(b[48:], uint32(len(r.head)))
	le.PutUint32(b[52:], crc32.Update(seed(salt, pos), castagnoli, b[:52]))
	return buf
}

// decodeRecord reads the record that b starts with. headOK says that at least
// its header is sound, so that it is known whose it is and how long.
func decodeRecord(b []byte, salt uint64, pos position) (r record, headOK, ok bool) {
	le := binary.LittleEndian
	if len(b) < recordHeadLen || crc32.Update(seed(salt, pos), castagnoli, b[:52]) != le.Uint32(b[52:]) {
		return record{}, false, false
	}
	r = record{
		kind: recordType(b[8]), logType: b[9], copyset: backend.CopysetID(le.Uint32(b[12:])),
		num: le.Uint64(b[16:]), index: le.Uint64(b[24:]), term: le.Uint64(b[32:]),
		appended: int64(le.Uint64(b[40:])), size: int64(le.Uint32(b[4:])),
	}
	headLen := int64(le.Uint32(b[48:]))
	if r.kind == 0 || r.kind >= recordTypes || r.size < recordHeadLen+headLen || r.size > int64(len(b)) {
		return record{}, false, false
	}
	body := b[recordHeadLen:r.size]
	r.head, r.data = body[:headLen:headLen], body[headLen:]
	return r, true, crc32.Checksum(body, castagnoli) == le.Uint32(b)
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixNano()
}

func timeOf(ns int64) time.Time {
	if ns == never {
		return time.Time{}
	}
	return time.Unix(0, ns)
}
