package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
)

func TestVerify(t *testing.T) {
	for _, c := range []struct {
		size  int
		code  byte
		wcode byte
	}{{10, opVerify10, opWriteVerify10}, {12, opVerify12, opWriteVerify12}, {16, opVerify16, opWriteVerify16}} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			data := filled(1000, 0x77) // more than the scratch memory holds
			r.good(r.a, spanOf(c.size, c.wcode, 0x02, 8, 1000), data, 0)
			r.good(r.a, spanOf(c.size, c.wcode, 0, 8, 1000), data, 0)
			r.good(r.a, spanOf(c.size, c.code, 0, 8, 1000), nil, 0)
			r.good(r.a, spanOf(c.size, c.code, 0x10|0x02, 8, 1000), data, 0)
			r.good(r.a, spanOf(c.size, c.code, 0x06, 8, 1000), data[:testBlock], 0)
			r.good(r.a, spanOf(c.size, c.code, 0x02, 8, 0), nil, 0)
			wrong := bytes.Clone(data)
			wrong[300001] ^= 1
			a := r.fails(r.a, spanOf(c.size, c.code, 0x02, 8, 1000), wrong, 0, Miscompare, MiscompareDuringVerify)
			if at := binary.BigEndian.Uint32(a.Sense()[3:]); a.Sense()[0]&0x80 == 0 || at != 300001 {
				t.Errorf("miscompare at %d", at)
			}
			r.fails(r.a, spanOf(c.size, c.code, 0x06, 7, 1000), data[:testBlock], 0, Miscompare, MiscompareDuringVerify)
			r.fails(r.a, spanOf(c.size, c.code, 0x04, 8, 1), nil, 0, IllegalRequest, InvalidFieldInCDB)
			r.fails(r.a, spanOf(c.size, c.code, 0x20, 8, 1), nil, 0, IllegalRequest, InvalidFieldInCDB)
			r.fails(r.a, spanOf(c.size, c.code, 0, testCount+1, 0), nil, 0, IllegalRequest, LBAOutOfRange)
		})
	}
}

func TestWriteSame(t *testing.T) {
	pattern := filled(1, 0)
	for i := range pattern {
		pattern[i] = byte(i ^ i>>8)
	}
	zeros := filled(1, 0)
	for _, c := range []struct {
		name   string
		cdb    []byte
		out    []byte
		want   []byte
		mapped bool
	}{
		{"pattern(10)", spanOf(10, opWriteSame10, 0, 16, 3000), pattern, pattern, true},
		{"pattern(16)", span16(opWriteSame16, 0, 16, 3000), pattern, pattern, true},
		{"unmap of a pattern writes it", span16(opWriteSame16, 0x08, 16, 3000), pattern, pattern, true},
		{"zeros(10)", spanOf(10, opWriteSame10, 0, 16, 3000), zeros, zeros, true},
		{"zeros(16)", span16(opWriteSame16, 0, 16, 3000), zeros, zeros, true},
		{"no data", span16(opWriteSame16, 0x01, 16, 3000), nil, zeros, true},
		{"unmap(10)", spanOf(10, opWriteSame10, 0x08, 16, 3000), zeros, zeros, false},
		{"unmap(16)", span16(opWriteSame16, 0x08, 16, 3000), zeros, zeros, false},
		{"unmap without data", span16(opWriteSame16, 0x09, 16, 3000), nil, zeros, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.write(0, filled(3100, 0xff))
			r.good(r.a, c.cdb, c.out, 0)
			got := r.read(0, 3100)
			want := filled(3100, 0xff)
			copy(want[16*testBlock:], bytes.Repeat(c.want, 3000))
			if !bytes.Equal(got, want) {
				t.Error("the blocks do not hold the pattern, or others were changed")
			}
			first := r.lbaStatus(16, 1)[0]
			if first.mapped != c.mapped {
				t.Errorf("mapped %v, want %v", first.mapped, c.mapped)
			}
		})
	}
	r := newRig(t, rigOptions{})
	r.fails(r.a, span16(opWriteSame16, 0x10, 0, 1), zeros, 0, IllegalRequest, InvalidFieldInCDB) // ANCHOR
	r.fails(r.a, span16(opWriteSame16, 0, 0, 0), zeros, 0, IllegalRequest, InvalidFieldInCDB)
	r.fails(r.a, span16(opWriteSame16, 0, testCount-1, 2), zeros, 0, IllegalRequest, LBAOutOfRange)
	r.fails(r.a, spanOf(10, opWriteSame10, 0x80, 0, 1), zeros, 0, IllegalRequest, InvalidFieldInCDB)
}

type status struct {
	lba    uint64
	blocks uint32
	mapped bool
}

func (r *rig) lbaStatus(lba uint64, most int) (all []status) {
	r.t.Helper()
	cdb := span16(opServiceActionIn16, saGetLBAStatus, lba, uint32(8+16*most))
	b := r.good(r.a, cdb, nil, 8+16*most)
	if n := int(binary.BigEndian.Uint32(b)); n != len(b)-4 {
		r.t.Errorf("parameter data length %d in %d bytes", n, len(b))
	}
	for b = b[8:]; len(b) >= 16; b = b[16:] {
		all = append(all, status{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), b[12] == statusMapped})
	}
	return all
}

func TestUnmapAndLBAStatus(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(64, 0xaa))
	r.good(r.a, unmapCDB(3), unmapData(8, 16, 40, 0, 48, 8), 0)
	want := filled(64, 0xaa)
	clear(want[8*testBlock : 24*testBlock])
	clear(want[48*testBlock : 56*testBlock])
	if !bytes.Equal(r.read(0, 64), want) {
		t.Error("unmapped blocks do not read as zeros, or others do")
	}
	got := r.lbaStatus(0, 100)
	expect := []status{{0, 8, true}, {8, 16, false}, {24, 24, true}, {48, 8, false}, {56, 8, true}}
	if fmt.Sprint(got[:5]) != fmt.Sprint(expect) {
		t.Errorf("status %v, want %v", got, expect)
	}
	if last := got[len(got)-1]; last.mapped || last.lba+uint64(last.blocks) != testCount {
		t.Errorf("the last status is %v, want a hole to the end", last)
	}
	if got := r.lbaStatus(10, 1); got[0] != (status{10, 14, false}) {
		t.Errorf("status from the middle of a hole %v", got)
	}
	r.fails(r.a, span16(opServiceActionIn16, saGetLBAStatus, testCount+1, 24), nil, 24, IllegalRequest, LBAOutOfRange)
	if a := r.do(r.a, span16(opServiceActionIn16, saGetLBAStatus, 0, 0), nil, 0); a.Status != Good {
		t.Errorf("GET LBA STATUS without room: status %#x", a.Status)
	}
}

func TestUnmapParameterLists(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(16, 0xaa))
	r.good(r.a, []byte{opUnmap, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0)
	r.good(r.a, unmapCDB(0), unmapData(), 0)
	r.good(r.a, unmapCDB(1), unmapData(testCount, 0), 0)
	truncated := unmapData(0, 8, 8, 8)
	r.good(r.a, []byte{opUnmap, 0, 0, 0, 0, 0, 0, 0, 8 + 15, 0}, truncated[:23], 0)
	if !bytes.Equal(r.read(0, 16), filled(16, 0xaa)) {
		t.Error("half a descriptor was carried out")
	}
	r.fails(r.a, []byte{opUnmap, 0, 0, 0, 0, 0, 0, 0, 4, 0}, make([]byte, 4), 0, IllegalRequest, ParameterListLength)
	r.fails(r.a, unmapCDB(2), unmapData(0, 8, testCount-1, 2), 0, IllegalRequest, LBAOutOfRange)
	r.fails(r.a, unmapCDB(1), unmapData(1<<63, 0xffffffff), 0, IllegalRequest, LBAOutOfRange)
	if !bytes.Equal(r.read(0, 16), filled(16, 0xaa)) {
		t.Error("a list with a bad descriptor was carried out in part")
	}
	r.fails(r.a, []byte{opUnmap, 1, 0, 0, 0, 0, 0, 0, 24, 0}, unmapData(0, 8), 0, IllegalRequest, InvalidFieldInCDB) // ANCHOR
	many := unmapData(make([]uint64, 2*257)...)
	r.fails(r.a, unmapCDB(257), many, 0, IllegalRequest, InvalidFieldInParameter)
	binary.BigEndian.PutUint16(many[2:], 256*16) // what follows the descriptors does not count
	r.good(r.a, unmapCDB(257), many, 0)
	r.good(r.a, unmapCDB(1), unmapData(0, testCount), 0)
	if !bytes.Equal(r.read(0, 16), filled(16, 0)) {
		t.Error("an UNMAP of everything left something")
	}
}

func TestCompareAndWrite(t *testing.T) {
	r := newRig(t, rigOptions{})
	most := int(r.unit.maxCompare())
	for _, n := range []int{0, 1, 2, most} {
		r.write(4, filled(most, 'A'))
		payload := append(filled(n, 'A'), filled(n, 'B')...)
		if n > 1 { // in slices that do not end where the halves do
			c := &Command{CDB: compareCDB(4, byte(n)), Nexus: r.a, ExpectedOut: int64(len(payload))}
			r.run(c, func() { c.Out = [][]byte{payload[:testBlock], payload[testBlock:]} })
			if c.Status != Good {
				t.Fatalf("%d blocks: status %#x", n, c.Status)
			}
		} else {
			r.good(r.a, compareCDB(4, byte(n)), payload, 0)
		}
		if !bytes.Equal(r.read(4, n), filled(n, 'B')) {
			t.Errorf("%d blocks were not written", n)
		}
		if n == 0 {
			continue
		}
		at := n*testBlock - 27
		payload = append(filled(n, 'B'), filled(n, 'C')...)
		payload[at] = 'Z'
		a := r.fails(r.a, compareCDB(4, byte(n)), payload, 0, Miscompare, MiscompareDuringVerify)
		if got := binary.BigEndian.Uint32(a.Sense()[3:]); got != uint32(at) {
			t.Errorf("miscompare at %d, want %d", got, at)
		}
		if !bytes.Equal(r.read(4, n), filled(n, 'B')) {
			t.Errorf("%d blocks were written in spite of a miscompare", n)
		}
	}
	big := newRig(t, rigOptions{blockSize: 4096})
	big.fails(big.a, compareCDB(0, 65), make([]byte, 130*4096), 0, IllegalRequest, InvalidFieldInCDB)
	big.good(big.a, compareCDB(0, 64), make([]byte, 128*4096), 0)
	r.fails(r.a, compareCDB(testCount, 1), filled(2, 0), 0, IllegalRequest, LBAOutOfRange)
	// 256 blocks, of which the one byte of the CDB says 0.
	r.fails(r.a, compareCDB(0, 0), filled(2, 0), 0, IllegalRequest, InvalidFieldInCDB)
	r.good(r.a, compareCDB(0, 0), nil, 0)
}

func TestOrWrite(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(2, filled(1200, 0x0f))
	r.good(r.a, span16(opOrWrite16, 0, 2, 1200), filled(1200, 0x30), 0)
	r.good(r.a, span16(opOrWrite16, dpoFUA, 2, 0), nil, 0)
	if !bytes.Equal(r.read(2, 1200), filled(1200, 0x3f)) {
		t.Error("the blocks do not hold the OR of both")
	}
}

// Every COMPARE AND WRITE adds one to a counter that spans blocks; none may be
// lost, and no reader may see a half-written one.
func TestCompareAndWriteIsAtomic(t *testing.T) {
	// Reads of one chunk are done by Try, those of two are not.
	t.Run("on one chunk", func(t *testing.T) { compareCounts(t, 509) })
	t.Run("on two chunks", func(t *testing.T) { compareCounts(t, 510) })
}

func compareCounts(t *testing.T, lba uint64) {
	r := newRig(t, rigOptions{})
	r.tries = true
	const workers, rounds, blocks = 4, 60, 3
	block := func(v uint64) []byte {
		b := make([]byte, blocks*testBlock)
		for i := 0; i < len(b); i += 8 {
			binary.BigEndian.PutUint64(b[i:], v)
		}
		return b
	}
	r.write(lba, block(0))
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			n := []*Nexus{r.a, r.b}[w%2]
			for done := 0; done < rounds; {
				now := r.good(n, span16(opRead16, 0, lba, blocks), nil, blocks*testBlock)
				v := binary.BigEndian.Uint64(now)
				if !bytes.Equal(now, block(v)) {
					t.Error("a read saw half a COMPARE AND WRITE")
					return
				}
				a := r.do(n, compareCDB(lba, blocks), append(block(v), block(v+1)...), 0)
				if key, _ := a.parseSense(); a.Status == Good {
					done++
				} else if key != Miscompare {
					t.Errorf("status %#x, sense % x", a.Status, a.Sense())
					return
				}
			}
		})
	}
	all.Wait()
	if got := binary.BigEndian.Uint64(r.read(lba, 1)); got != workers*rounds {
		t.Errorf("counter %d, want %d", got, workers*rounds)
	}
}

// ORWRITEs of different bits to the same blocks, with writers elsewhere.
func TestOrWritesDoNotLoseEachOther(t *testing.T) {
	r := newRig(t, rigOptions{})
	var all sync.WaitGroup
	for bit := range 8 {
		all.Go(func() {
			for i := range 40 {
				r.good(r.a, span16(opOrWrite16, 0, uint64(i), 600), filled(600, 1<<bit), 0)
				r.good(r.b, span16(opWrite16, 0, uint64(2000+bit*8), 8), filled(8, byte(bit)), 0)
			}
		})
	}
	all.Wait()
	if !bytes.Equal(r.read(0, 639), filled(639, 0xff)) {
		t.Error("an ORWRITE was lost")
	}
}
