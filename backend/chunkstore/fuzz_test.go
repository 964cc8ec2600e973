package chunkstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// FuzzHeader: a sector decodes to what encodes to the same sector, or to an
// error that is one of the contract's.
func FuzzHeader(f *testing.F) {
	var valid [sectorSize]byte
	header{mark: markClean, chunk: 7, volume: 9, size: backend.DefaultChunkSize, tableSum: 5}.encode(&valid, headerMagic)
	f.Add(valid[:], false)
	header{chunk: 7, volume: 9, size: backend.MinChunkSize}.encode(&valid, sealMagic)
	f.Add(valid[:], true)
	f.Add([]byte(headerMagic), true)
	f.Fuzz(func(t *testing.T, raw []byte, fixSum bool) {
		var sector [sectorSize]byte
		copy(sector[:], raw)
		if fixSum { // let the fuzzer past the checksum
			binary.LittleEndian.PutUint32(sector[headerSumOff:], crc32.Checksum(sector[:headerSumOff], castagnoli))
		}
		for _, magic := range []string{headerMagic, sealMagic} {
			h, err := decodeHeader(&sector, magic)
			if err != nil {
				if !errors.Is(err, backend.ErrChecksum) && !errors.Is(err, backend.ErrNotSupported) {
					t.Errorf("error %v is none of the contract's", err)
				}
				continue
			}
			var again [sectorSize]byte
			h.encode(&again, magic)
			if again != sector {
				t.Errorf("%+v encodes to another sector", h)
			}
			if l := layoutOf(h.size); l.tableBytes > maxTablePages*pageSize || l.dataOff%dataAlign != 0 || l.sealOff+pageSize > l.dataOff {
				t.Errorf("layout of %d is %+v", h.size, l)
			}
		}
	})
}

// FuzzTable: entries survive a round trip, and reconciling any block with any
// entry gives one that reads back.
func FuzzInventory(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		inv, err := DecodeInventory(b)
		if err != nil {
			if !errors.Is(err, backend.ErrChecksum) {
				t.Errorf("error %v", err)
			}
			return
		}
		if again := inv.Encode(nil); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0}, uint32(0), []byte("block"))
	f.Add([]byte{}, zeroBlockSum, []byte{})
	f.Fuzz(func(t *testing.T, raw []byte, entry uint32, content []byte) {
		raw = raw[:min(len(raw), maxTablePages*pageSize)/entrySize*entrySize]
		entries := make([]uint32, len(raw)/entrySize)
		decodeTable(entries, raw)
		again := make([]byte, len(raw))
		encodeTable(again, entries)
		if !bytes.Equal(raw, again) {
			t.Error("table changed in a round trip")
		}
		var b [blockSize]byte
		copy(b[:], content)
		switch sum := adoptedSum(entry, b[:]); {
		case sum == 0 && b != zeroBlock:
			t.Error("a block with data became a hole")
		case sum != 0 && sum != blockSum(b[:]):
			t.Errorf("adopted sum %#x does not match the block's %#x", sum, blockSum(b[:]))
		}
	})
}

// FuzzChunkName: a name parses only if it is the one that its id has.
func FuzzChunkName(f *testing.F) {
	f.Add("34", "0000000000001234")
	f.Add("34", "000000000000123A")
	f.Add("..", "")
	f.Fuzz(func(t *testing.T, dir, name string) {
		id, ok := parseChunkName(dir, name)
		if wantDir, wantName := chunkName(id); ok != (dir == wantDir && name == wantName) {
			t.Errorf("%q/%q parses: %v, to %v of %q/%q", dir, name, ok, id, wantDir, wantName)
		}
	})
}
