package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/opencurve/curve-nbd/backend"
)

// member is a group in a roster: how far its records are numbered, and whether
// it is known to be damaged. A roster entry is 16 bytes: copyset (4), flags (4,
// 1 = damaged), number (8).
type member struct {
	id      backend.CopysetID
	damaged bool
	num     uint64
}

const memberLen = 16

func appendRoster(buf []byte, roster []member) []byte {
	le := binary.LittleEndian
	for _, m := range roster {
		var flags uint32
		if m.damaged {
			flags = 1
		}
		buf = le.AppendUint32(buf, uint32(m.id))
		buf = le.AppendUint32(buf, flags)
		buf = le.AppendUint64(buf, m.num)
	}
	return buf
}

func decodeRoster(b []byte) ([]member, bool) {
	if len(b)%memberLen != 0 || len(b) > maxGroups*memberLen {
		return nil, false
	}
	le := binary.LittleEndian
	roster := make([]member, 0, len(b)/memberLen)
	for ; len(b) > 0; b = b[memberLen:] {
		flags := le.Uint32(b[4:])
		if flags > 1 {
			return nil, false
		}
		roster = append(roster, member{backend.CopysetID(le.Uint32(b)), flags == 1, le.Uint64(b[8:])})
	}
	return roster, true
}

// mark says how far the log was durable at some time, and which groups it held
// then. It lies in a file of its own, so that damage to the end of the log does
// not pass for a write that the power cut. The file has two slots, written in
// turn:
//
//	 0  8  magic "CNBDRMRK"
//	 8  4  version
//	12  4  sequence number of the newest segment
//	16  8  count of marks written
//	24  8  durable: everything before this position was durable
//	32  4  number of roster entries
//	36  4  checksum of the bytes before and of the roster
//	40     roster
type mark struct {
	count   uint64
	head    uint32
	durable position
	roster  []member
}

const (
	markName    = "mark"
	markMagic   = "CNBDRMRK"
	markHeadLen = 40
	markSlot    = blockBytes + maxGroups*memberLen
)

// encode returns a whole number of sectors.
func (m mark) encode(buf []byte) []byte {
	buf = append(buf[:0], make([]byte, markHeadLen)...)
	buf = appendRoster(buf, m.roster)
	le := binary.LittleEndian
	copy(buf, markMagic)
	le.PutUint32(buf[8:], formatVersion)
	le.PutUint32(buf[12:], m.head)
	le.PutUint64(buf[16:], m.count)
	le.PutUint64(buf[24:], uint64(m.durable))
	le.PutUint32(buf[32:], uint32(len(m.roster)))
	sum := crc32.Update(crc32.Checksum(buf[:36], castagnoli), castagnoli, buf[markHeadLen:])
	le.PutUint32(buf[36:], sum)
	return append(buf, make([]byte, roundUp(int64(len(buf)))-int64(len(buf)))...)
}

func decodeMark(b []byte) (mark, error) {
	le := binary.LittleEndian
	if len(b) < markHeadLen || string(b[:8]) != markMagic {
		return mark{}, fmt.Errorf("%w: raft log mark", backend.ErrChecksum)
	}
	n := int64(le.Uint32(b[32:]))
	if n > maxGroups || int64(len(b)) < markHeadLen+n*memberLen {
		return mark{}, fmt.Errorf("%w: raft log mark of %d groups in %d bytes", backend.ErrChecksum, n, len(b))
	}
	raw := b[markHeadLen : markHeadLen+n*memberLen]
	if crc32.Update(crc32.Checksum(b[:36], castagnoli), castagnoli, raw) != le.Uint32(b[36:]) {
		return mark{}, fmt.Errorf("%w: raft log mark", backend.ErrChecksum)
	}
	if v := le.Uint32(b[8:]); v != formatVersion {
		return mark{}, fmt.Errorf("%w: raft log mark of format version %d, this program knows %d", backend.ErrNotSupported, v, formatVersion)
	}
	roster, ok := decodeRoster(raw)
	if !ok {
		return mark{}, fmt.Errorf("%w: raft log mark with an impossible roster", backend.ErrChecksum)
	}
	return mark{count: le.Uint64(b[16:]), head: le.Uint32(b[12:]), durable: position(le.Uint64(b[24:])), roster: roster}, nil
}
