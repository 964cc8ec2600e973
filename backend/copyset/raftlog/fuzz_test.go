package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

const fuzzSalt = 0x5a17

// fuzzSegment is a segment with raw in it. With fix, checksums, and what says where
// a batch lies, are made right, so that the fuzzer gets past them.
func fuzzSegment(raw []byte, fix bool) []byte {
	content := make([]byte, minSegmentBytes)
	copy(content[dataStart:], raw)
	if !fix {
		return content
	}
	le := binary.LittleEndian
	for off := int64(dataStart); off <= int64(len(content))-sectorBytes; {
		b := content[off:]
		if le.Uint32(b) != batchMagic {
			break
		}
		le.PutUint64(b[8:], fuzzSalt)
		le.PutUint64(b[16:], uint64(at(1, off)))
		le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
		length := int64(le.Uint32(b[40:]))
		rest := b[batchHeadLen:]
		for pos := at(1, off+batchHeadLen); int64(len(rest)) >= recordHeadLen; {
			size := int64(le.Uint32(rest[4:]))
			if size < recordHeadLen || size > int64(len(rest)) {
				break
			}
			le.PutUint32(rest, crc32.Checksum(rest[recordHeadLen:size], castagnoli))
			le.PutUint32(rest[52:], crc32.Update(seed(fuzzSalt, pos), castagnoli, rest[:52]))
			rest, pos = rest[size:], pos+position(size)
		}
		next := off + roundUp(batchHeadLen+length)
		if next <= off || next > int64(len(content)) {
			break
		}
		off = next
	}
	return content
}

// FuzzSegment replays arbitrary bytes as the last segment of a log. Whatever they
// are, every group that is not called damaged can be read, entry by entry, and
// what lives is accounted for.
func FuzzSegment(f *testing.F) {
	f.Add(sampleSegment()[dataStart:dataStart+4096], true, uint64(0))
	f.Add(sampleSegment()[dataStart:dataStart+4096], false, uint64(at(1, dataStart+1024)))
	f.Fuzz(func(t *testing.T, raw []byte, fix bool, durable uint64) {
		content := fuzzSegment(raw, fix)
		r := newFuzzRecovery()
		r.durable = position(durable)
		s := &segment{seq: 1, salt: fuzzSalt, size: minSegmentBytes}
		end := r.segment(s, content, true)
		if end < dataStart || end > int64(len(content)) {
			t.Fatalf("log ends at %#x of a segment of %#x", end, len(content))
		}
		r.conclude()
		var live int64
		for id, g := range r.l.groups {
			if g.damage != nil && (g.slots.n > 0 || len(g.stable) > 0) {
				t.Errorf("damaged %v still holds something", id)
			}
			for i := range g.slots.n {
				sl := g.slots.at(i)
				rec, _, ok := decodeRecord(content[sl.off:sl.off+sl.size], fuzzSalt, at(1, int64(sl.off)))
				if !ok || rec.index != g.first+uint64(i) || rec.copyset != id {
					t.Errorf("entry %d of %v cannot be read again", g.first+uint64(i), id)
				}
				live += int64(sl.size)
			}
			for _, v := range g.stable {
				live += v.size
			}
			if int(g.last+1-g.first) != g.slots.n {
				t.Errorf("%v holds entries %d to %d in %d slots", id, g.first, g.last, g.slots.n)
			}
		}
		if live != s.live {
			t.Errorf("%d bytes live, %d accounted for", live, s.live)
		}
	})
}

func newFuzzRecovery() *recovery {
	l := &Log{
		opts:   Options{Logger: slog.New(slog.DiscardHandler), SegmentBytes: minSegmentBytes},
		groups: make(map[backend.CopysetID]*Group), round: 1,
	}
	return &recovery{l: l, fresh: true, tracks: make(map[backend.CopysetID]*track)}
}

// sampleSegment is a small segment with records of every type.
func sampleSegment() []byte {
	content := make([]byte, minSegmentBytes)
	segmentHeader{seq: 1, salt: fuzzSalt, size: minSegmentBytes, first: 1}.encode(content)
	segmentHeader{seq: 1, salt: fuzzSalt, size: minSegmentBytes, first: 1}.encode(content[blockBytes:])
	off, last := int64(dataStart), position(0)
	batch := func(flags uint8, records ...record) {
		buf := make([]byte, batchHeadLen)
		for _, r := range records {
			buf = r.appendTo(buf, fuzzSalt, at(1, off+int64(len(buf))))
		}
		h := batchHeader{
			flags: flags, salt: fuzzSalt, pos: at(1, off), prev: last, durable: at(1, off),
			length: int64(len(buf)) - batchHeadLen, count: uint32(len(records)),
		}
		h.encode(buf)
		copy(content[off:], buf)
		off, last = off+h.bytes(), h.pos
	}
	entry := func(group backend.CopysetID, num, index uint64) record {
		return record{kind: recordEntry, logType: uint8(raft.LogNoop), copyset: group, num: num, index: index, term: 3, appended: 12345, head: []byte("ext"), data: []byte("some data")}
	}
	batch(flagRoster, record{kind: recordRoster, appended: never, data: appendRoster(nil, []member{{id: 1, num: 10}, {id: 3, num: 4, damaged: true}})})
	batch(0, entry(1, 11, 5), entry(1, 12, 6), record{kind: recordSet, copyset: 2, num: 1, appended: never, head: []byte("CurrentTerm"), data: []byte{3, 0, 0, 0, 0, 0, 0, 0}})
	batch(0, record{kind: recordSuffix, copyset: 1, num: 13, index: 6, appended: never}, entry(1, 14, 6), entry(1, 15, 7),
		record{kind: recordPrefix, copyset: 1, num: 16, index: 5, appended: never})
	batch(0, record{kind: recordDelete, copyset: 3, num: 5, appended: never}, entry(3, 1, 100))
	batch(0, record{kind: recordReset, copyset: 1, num: 17, appended: never}, entry(1, 18, 6), entry(1, 19, 7))
	return content
}

// FuzzMark: bytes decode to what encodes to the same bytes, or to an error of the
// contract.
func FuzzMark(f *testing.F) {
	f.Add(mark{count: 3, head: 9, durable: at(9, 8192), roster: []member{{id: 1, num: 2}, {id: 7, damaged: true}}}.encode(nil), true)
	f.Fuzz(func(t *testing.T, raw []byte, fix bool) {
		raw = bytes.Clone(raw)
		if fix && len(raw) >= markHeadLen {
			copy(raw, markMagic)
			n := min(int(binary.LittleEndian.Uint32(raw[32:])), (len(raw)-markHeadLen)/memberLen)
			sum := crc32.Update(crc32.Checksum(raw[:36], castagnoli), castagnoli, raw[markHeadLen:markHeadLen+n*memberLen])
			binary.LittleEndian.PutUint32(raw[36:], sum)
		}
		m, err := decodeMark(raw)
		if err != nil {
			if !errors.Is(err, backend.ErrChecksum) && !errors.Is(err, backend.ErrNotSupported) {
				t.Errorf("error %v is none of the contract's", err)
			}
			return
		}
		again := m.encode(nil)
		if n := markHeadLen + len(m.roster)*memberLen; !bytes.Equal(raw[:n], again[:n]) {
			t.Errorf("%+v encodes to other bytes", m)
		}
	})
}

// FuzzSegmentHeader: as FuzzMark.
func FuzzSegmentHeader(f *testing.F) {
	f.Add(sampleSegment()[:sectorBytes], true)
	f.Fuzz(func(t *testing.T, raw []byte, fix bool) {
		raw = bytes.Clone(raw)
		if fix && len(raw) >= segmentHeadLen {
			copy(raw, segmentMagic)
			binary.LittleEndian.PutUint32(raw[48:], crc32.Checksum(raw[:48], castagnoli))
		}
		h, err := decodeSegmentHeader(raw)
		if err != nil {
			if !errors.Is(err, backend.ErrChecksum) && !errors.Is(err, backend.ErrNotSupported) {
				t.Errorf("error %v is none of the contract's", err)
			}
			return
		}
		var again [sectorBytes]byte
		h.encode(again[:])
		if !bytes.Equal(raw[:44], again[:44]) {
			t.Errorf("%+v encodes to other bytes", h)
		}
	})
}

// TestFormatIsWhatItWas holds every kind of record against bytes written down
// when format version 1 was made.
func TestFormatIsWhatItWas(t *testing.T) {
	content := sampleSegment()
	const want = 0x15bcd6b1
	if got := crc32.Checksum(content, castagnoli); got != want {
		t.Errorf("the sample segment's checksum is %#x, expected %#x: the format changed; raise formatVersion", got, want)
	}
	r := newFuzzRecovery()
	r.segment(&segment{seq: 1, salt: fuzzSalt, size: minSegmentBytes}, content, true)
	r.conclude()
	if len(r.l.Damaged()) > 0 || r.lost != 0 {
		t.Fatalf("damaged: %v", r.l.Damaged())
	}
	for id, want := range map[backend.CopysetID][2]uint64{1: {6, 7}, 3: {100, 100}} {
		if g := r.l.groups[id]; g.first != want[0] || g.last != want[1] {
			t.Errorf("%v holds %d to %d, expected %d to %d", id, g.first, g.last, want[0], want[1])
		}
	}
	if term, err := r.l.groups[2].GetUint64([]byte("CurrentTerm")); err != nil || term != 3 {
		t.Errorf("copyset 2 has term %d, %v", term, err)
	}
}
