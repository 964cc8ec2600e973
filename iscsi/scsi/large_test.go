package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// A unit whose blocks take more than 32 bits to count.
func TestLargeUnit(t *testing.T) {
	const size = 3 << 40
	const blocks = size / testBlock
	r := newRig(t, rigOptions{spec: backend.VolumeSpec{Name: "v", Size: size, Geometry: backend.Geometry{BlockSize: testBlock}}})
	if b := r.good(r.a, []byte{opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 8); !bytes.Equal(b[:4], []byte{255, 255, 255, 255}) {
		t.Errorf("READ CAPACITY(10) % x", b)
	}
	if b := r.good(r.a, span16(opServiceActionIn16, saReadCapacity16, 0, 32), nil, 32); binary.BigEndian.Uint64(b) != blocks-1 {
		t.Errorf("READ CAPACITY(16) % x", b)
	}
	sense := fmt.Sprintf("%x", r.good(r.a, []byte{opModeSense6, 0, 0x0a, 0, 12, 0}, nil, 12)[4:])
	if want := "ffffffff00000200"; sense != want {
		t.Errorf("block descriptor %s, want %s", sense, want)
	}
	data := filled(2, 7)
	const far = 1<<32 - 1 // of two blocks, one needs 33 bits
	r.good(r.a, spanOf(10, opWrite10, 0, far, 2), data, 0)
	r.write(blocks-2, data)
	if !bytes.Equal(r.read(far, 2), data) || !bytes.Equal(r.read(blocks-2, 2), data) || !allZero(r.read(0, 2)) {
		t.Error("blocks are where they do not belong")
	}
	r.good(r.a, compareCDB(1<<32, 1), append(filled(1, 7), filled(1, 8)...), 0)
	r.fails(r.a, span16(opRead16, 0, blocks-1, 2), nil, 1024, IllegalRequest, LBAOutOfRange)
	if got := r.lbaStatus(1<<32-16, 2); fmt.Sprint(got) != fmt.Sprint([]status{{1<<32 - 16, 8, false}, {1<<32 - 8, 16, true}}) {
		t.Errorf("status %v", got)
	}
	list := copyOrder{units: [][]byte{nameOf(r.unit)}, segments: [][]byte{segmentOf(0, 0, 1<<32, blocks-1, 1)}}.list()
	r.good(r.a, copyCDB(len(list)), list, 0)
	if !bytes.Equal(r.read(blocks-2, 2), append(filled(1, 7), filled(1, 8)...)) {
		t.Error("not what was copied")
	}
	r.good(r.a, unmapCDB(2), unmapData(0, 1<<32-1, 1<<32-1, blocks-(1<<32-1)), 0)
	if !allZero(r.read(far, 2)) || !allZero(r.read(blocks-2, 2)) {
		t.Error("an UNMAP of everything left something")
	}
}
