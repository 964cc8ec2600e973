package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// model is what the medium holds: commands are done on it in the plainest way.
type model struct {
	r      *rig
	random *rand.Rand
	block  int
	data   []byte
}

// at returns the bytes of blocks.
func (m *model) at(lba uint64, n int) []byte {
	return m.data[int(lba)*m.block:][:n*m.block]
}

// span picks blocks, often few and often those that others pick too.
func (m *model) span(most int) (lba uint64, n int) {
	n = m.random.IntN(most) + 1
	switch m.random.IntN(16) {
	case 0: // as large as it may be
	case 1, 2, 3, 4, 5, 6, 7: // over more than one chunk, and piece
		n = min(n, (1+m.random.IntN(640<<10))/m.block+1)
	default:
		n = min(n, 1+m.random.IntN(20))
	}
	count := len(m.data) / m.block
	n = min(n, count)
	switch m.random.IntN(4) {
	case 0:
		return uint64(count - n), n // up to the end
	case 1:
		return uint64(m.random.IntN(count - n + 1)), n
	}
	return uint64(m.random.IntN(min(200, count-n+1))), n
}

func (m *model) bytes(n int) []byte {
	b := make([]byte, n*m.block)
	switch m.random.IntN(4) {
	case 0: // zeros
	case 1:
		for i := range b {
			b[i] = byte(m.random.Uint32())
		}
	default:
		for i := range b {
			b[i] = byte(1 + i/m.block)
		}
	}
	return b
}

// run gives the unit a command with its data in pieces, tried first or not.
func (m *model) run(cdb, out []byte, room int) (status Status, data []byte) {
	c := &Command{CDB: cdb, Nexus: m.r.a, ExpectedOut: int64(len(out)), ExpectedIn: int64(room)}
	if !m.r.unit.Plan(c) {
		m.r.t.Fatalf("%s % x: status %#x, sense % x", c.Name(), cdb, c.Status, c.Sense())
	}
	if c.Direction == DataIn {
		data = make([]byte, min(c.Transfer, c.ExpectedIn))
	}
	c.In, c.Out = [][]byte{data}, [][]byte{out}
	if m.random.IntN(2) == 0 {
		if m.r.unit.Try(c) {
			return c.Status, data
		}
		piece := m.block * (1 + m.random.IntN(40))
		c.In, c.Out = pieces(data, piece), pieces(out, piece)
	}
	done := make(finished, 1)
	c.Done = done
	if !m.r.unit.Execute(c) {
		<-done
	}
	return c.Status, data
}

func (m *model) good(what string, cdb, out []byte, room int) []byte {
	m.r.t.Helper()
	status, data := m.run(cdb, out, room)
	if status != Good {
		m.r.t.Fatalf("%s % x: status %#x", what, cdb, status)
	}
	return data
}

// sized picks the form of a command that its count goes into.
func (m *model) sized(codes [4]byte, flags byte, lba uint64, n int) []byte {
	switch form := m.random.IntN(4); {
	case form == 0 && codes[0] != 0 && n <= 256:
		return spanOf(6, codes[0], 0, lba, uint32(n&0xff))
	case form == 1 && codes[1] != 0:
		return spanOf(10, codes[1], flags, lba, uint32(n))
	case form == 2 && codes[2] != 0:
		return spanOf(12, codes[2], flags, lba, uint32(n))
	}
	return span16(codes[3], flags, lba, uint32(n))
}

func (m *model) step() {
	most := int(m.r.unit.maxTransfer())
	switch m.random.IntN(9) {
	case 0, 1:
		lba, n := m.span(most)
		room := n * m.block
		if m.random.IntN(3) == 0 {
			room = m.random.IntN(room + 1)
		}
		got := m.good("read", m.sized([4]byte{opRead6, opRead10, opRead12, opRead16}, 0, lba, n), nil, room)
		if !bytes.Equal(got, m.at(lba, n)[:room]) {
			m.r.t.Fatalf("%d blocks at %d are not what was written", n, lba)
		}
	case 2:
		lba, n := m.span(most)
		b := m.bytes(n)
		m.good("write", m.sized([4]byte{opWrite6, opWrite10, opWrite12, opWrite16}, 0, lba, n), b, 0)
		copy(m.at(lba, n), b)
	case 3:
		lba, n := m.span(most)
		b, check := m.bytes(n), byte(m.random.IntN(2)<<1)
		m.good("write and verify", m.sized([4]byte{0, opWriteVerify10, opWriteVerify12, opWriteVerify16}, check, lba, n), b, 0)
		copy(m.at(lba, n), b)
	case 4:
		lba, n := m.span(int(m.r.unit.maxSame()))
		n = min(n, 4096)
		b := m.bytes(1)
		m.good("write same", m.sized([4]byte{0, opWriteSame10, 0, opWriteSame16}, byte(m.random.IntN(2)*sameUnmap), lba, n), b, 0)
		copy(m.at(lba, n), bytes.Repeat(b, n))
	case 5:
		lba, n := m.span(most)
		other, k := m.span(300)
		m.good("unmap", unmapCDB(2), unmapData(lba, uint64(n), other, uint64(k)), 0)
		clear(m.at(lba, n))
		clear(m.at(other, k))
	case 6:
		lba, n := m.span(int(m.r.unit.maxCompare()))
		want, b := bytes.Clone(m.at(lba, n)), m.bytes(n)
		wrong := m.random.IntN(3) == 0
		if wrong {
			want[m.random.IntN(len(want))] ^= 0x10
		}
		status, _ := m.run(compareCDB(lba, byte(n)), append(want, b...), 0)
		switch {
		case wrong != (status == CheckCondition):
			m.r.t.Fatalf("compare and write: status %#x", status)
		case !wrong:
			copy(m.at(lba, n), b)
		}
	case 7:
		lba, n := m.span(most)
		b := m.bytes(n)
		m.good("orwrite", span16(opOrWrite16, 0, lba, uint32(n)), b, 0)
		for i, v := range b {
			m.at(lba, n)[i] |= v
		}
	case 8:
		lba, n := m.span(2000)
		to, _ := m.span(2000)
		to = min(to, uint64(len(m.data)/m.block-n))
		list := copyOrder{units: [][]byte{nameOf(m.r.unit)}, segments: [][]byte{segmentOf(0, 0, lba, to, uint16(n))}}.list()
		m.good("copy", copyCDB(len(list)), list, 0)
		copy(m.at(to, n), bytes.Clone(m.at(lba, n)))
	}
}

// Whatever is done in whatever order, the medium holds what the plainest way of doing
// it would leave, and what is said to be unmapped reads as zeros.
func TestCommandsDoWhatAModelDoes(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		t.Run(fmt.Sprintf("blocks of %d", block), func(t *testing.T) {
			seed := rand.Uint64()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			})
			r := newRig(t, rigOptions{blockSize: block})
			m := &model{r: r, random: rand.New(rand.NewPCG(seed, 0)), block: int(block), data: make([]byte, testSize)}
			for range 80 {
				m.step()
			}
			m.checkUnmapped()
		})
	}
}

// checkUnmapped goes over the whole medium.
func (m *model) checkUnmapped() {
	m.r.t.Helper()
	count := uint64(len(m.data) / m.block)
	for lba := uint64(0); lba < count; {
		b := m.good("GET LBA STATUS", span16(opServiceActionIn16, saGetLBAStatus, lba, 8+16), nil, 24)
		n := int(binary.BigEndian.Uint32(b[16:]))
		if n == 0 || lba+uint64(n) > count || binary.BigEndian.Uint64(b[8:]) != lba {
			m.r.t.Fatalf("status of block %d: % x", lba, b)
		}
		if b[20] == statusDeallocated && !allZero(m.at(lba, n)) {
			m.r.t.Errorf("%d blocks at %d hold something, and are said to be unmapped", n, lba)
		}
		lba += uint64(n)
	}
}
