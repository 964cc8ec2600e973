package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

func TestReadsAndWritesOfEverySize(t *testing.T) {
	for _, c := range []struct {
		size        int
		read, write byte
		count       uint32
	}{
		{6, opRead6, opWrite6, 7},
		{6, opRead6, opWrite6, 0}, // 256 blocks
		{10, opRead10, opWrite10, 600},
		{12, opRead12, opWrite12, 9},
		{16, opRead16, opWrite16, 4096},
	} {
		t.Run(fmt.Sprintf("%d bytes of CDB, count %d", c.size, c.count), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			n := int(c.count)
			if c.size == 6 && n == 0 {
				n = 256
			}
			data := filled(n, 0x5a)
			data[0], data[len(data)-1] = 1, 2
			r.good(r.a, spanOf(c.size, c.write, 0, 5, c.count), data, 0)
			got := r.good(r.b, spanOf(c.size, c.read, 0, 5, c.count), nil, len(data))
			if !bytes.Equal(got, data) {
				t.Error("what was read is not what was written")
			}
			r.fails(r.a, spanOf(c.size, c.read, 0, testCount-1, 2), nil, 1024, IllegalRequest, LBAOutOfRange)
			r.fails(r.a, spanOf(c.size, c.write, 0, testCount, 1), filled(1, 1), 0, IllegalRequest, LBAOutOfRange)
			if c.size > 6 {
				a := r.fails(r.a, spanOf(c.size, c.read, 0x20, 0, 1), nil, 512, IllegalRequest, InvalidFieldInCDB)
				if s := a.Sense(); !bytes.Equal(s[15:18], []byte{0xcd, 0, 1}) {
					t.Errorf("protection bits: field pointer % x, want bit 5 of byte 1 of the CDB", s[15:18])
				}
				r.good(r.a, spanOf(c.size, c.write, dpoFUA, 0, 0), nil, 0)
				r.fails(r.a, spanOf(c.size, c.read, 0, testCount+1, 0), nil, 0, IllegalRequest, LBAOutOfRange)
			}
		})
	}
}

// A transfer in several buffers is one transfer; what the initiator does not take
// is not sent, which shows in the length.
func TestTransfersInPieces(t *testing.T) {
	r := newRig(t, rigOptions{})
	data := filled(64, 0)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	c := &Command{CDB: span16(opWrite16, 0, 3, 64), Nexus: r.a, ExpectedOut: int64(len(data))}
	r.run(c, func() { c.Out = [][]byte{data[:512], data[512:9728], data[9728:]} })
	if c.Status != Good {
		t.Fatalf("write: status %#x", c.Status)
	}
	for _, take := range []int{0, 1, 511, 512, 1000, 16384, 20000, 32768} {
		c := &Command{CDB: span16(opRead16, 0, 3, 64), Nexus: r.a, ExpectedIn: int64(take)}
		got := make([]byte, take)
		c.In = [][]byte{got}
		if take > 512 {
			c.In = [][]byte{got[:512], got[512:]}
		}
		r.run(c, func() {})
		if c.Status != Good || c.InLen != int64(len(data)) || !bytes.Equal(got, data[:take]) {
			t.Errorf("read of %d of %d bytes: status %#x, length %d", take, len(data), c.Status, c.InLen)
		}
	}
}

// A write whose initiator means to read gets no data: that must not look like success.
func TestWriteOfAnInitiatorThatReads(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.fails(r.a, span16(opWrite16, 0, 0, 1), nil, 512, IllegalRequest, InvalidFieldInIU)
}

func TestPayloadThatDoesNotMatchTheCDB(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(4, 0xee))
	for _, c := range []struct {
		name string
		cdb  []byte
		out  int
		ok   bool
	}{
		{"write with nothing", span16(opWrite16, 0, 0, 2), 0, true},
		{"write with a part of a block", span16(opWrite16, 0, 0, 1), 200, false},
		{"write with one of two blocks", span16(opWrite16, 0, 12, 2), 512, true},
		{"write with more than it says", span16(opWrite16, 0, 9, 1), 10000, true},
		{"write same with half a block", span16(opWriteSame16, 8, 0, 1), 256, false},
		{"write same with two blocks", span16(opWriteSame16, 8, 0, 1), 1024, false},
		{"compare and write with too little", compareCDB(0, 3), 4 * 512, false},
		{"compare and write with too much", compareCDB(0, 1), 4 * 512, false},
		{"unmap without data", []byte{opUnmap, 0, 0, 0, 0, 0, 0, 0, 24, 0}, 0, false},
		{"PR OUT without data", []byte{opPersistentOut, 0, 0, 0, 0, 0, 0, 0, 24, 0}, 0, false},
		{"mode select without data", []byte{opModeSelect6, 0x10, 0, 0, 24, 0}, 0, false},
		{"orwrite without data", span16(opOrWrite16, 0, 0, 2), 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ok {
				r.good(r.a, c.cdb, make([]byte, c.out), 0)
				return
			}
			r.fails(r.a, c.cdb, make([]byte, c.out), 0, IllegalRequest, InvalidFieldInIU)
			// A transport that plans with one length and brings another.
			cmd := &Command{CDB: c.cdb, Nexus: r.a, ExpectedOut: 1 << 20}
			if r.unit.Plan(cmd) {
				cmd.Out = [][]byte{make([]byte, min(c.out, int(cmd.Transfer)-1))}
				cmd.Done = make(finished, 1)
				if !r.unit.Execute(cmd) || cmd.Status != CheckCondition {
					t.Errorf("status %#x", cmd.Status)
				}
			}
		})
	}
	if got := r.read(0, 4); !bytes.Equal(got, filled(4, 0xee)) {
		t.Error("a refused command changed data")
	}
}

func TestForceUnitAccessReachesTheMedium(t *testing.T) {
	var flags []backend.Flags
	medium := &faulty{fail: func(r *volume.Request) error {
		if r.Op == backend.OpWrite {
			flags = append(flags, r.Flags)
		}
		return nil
	}}
	r := newRig(t, rigOptions{wrap: func(m Medium) Medium { medium.Medium = m; return medium }})
	r.good(r.a, span16(opWrite16, 0x08, 0, 1), filled(1, 1), 0)
	r.good(r.a, span16(opWrite16, 0x10, 0, 1), filled(1, 1), 0)
	r.good(r.a, []byte{opModeSelect6, 0x10, 0, 0, 24, 0}, modeList(pageCaching, 18, 0), 0) // no write cache
	r.good(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0)
	want := []backend.Flags{backend.FlagFUA, 0, backend.FlagFUA}
	if fmt.Sprint(flags) != fmt.Sprint(want) {
		t.Errorf("flags of the writes %v, want %v", flags, want)
	}
}

func TestErrorsOfTheMediumBecomeSense(t *testing.T) {
	for _, c := range []struct {
		err         error
		read, write Sense
	}{
		{backend.ErrIO, Sense{Key: MediumError, Code: UnrecoveredReadError}, Sense{Key: MediumError, Code: WriteError}},
		{backend.ErrChecksum, Sense{Key: MediumError, Code: UnrecoveredReadError}, Sense{Key: MediumError, Code: WriteError}},
		{backend.ErrNoSpace, Sense{Key: DataProtect, Code: SpaceAllocationFailed}, Sense{Key: DataProtect, Code: SpaceAllocationFailed}},
		{backend.ErrReadOnly, Sense{Key: DataProtect, Code: WriteProtected}, Sense{Key: DataProtect, Code: WriteProtected}},
		{backend.ErrStaleEpoch, Sense{Key: NotReady, Code: NotReadyStandby}, Sense{Key: NotReady, Code: NotReadyStandby}},
		{backend.ErrClosed, Sense{Key: NotReady, Code: NotReadyTransition}, Sense{Key: NotReady, Code: NotReadyTransition}},
		{backend.ErrInvalid, Sense{Key: AbortedCommand, Code: InternalTargetFailure}, Sense{Key: AbortedCommand, Code: InternalTargetFailure}},
		{volume.ErrOutOfRange, Sense{Key: IllegalRequest, Code: LBAOutOfRange}, Sense{Key: IllegalRequest, Code: LBAOutOfRange}},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			medium := &faulty{fail: func(*volume.Request) error { return c.err }}
			r := newRig(t, rigOptions{wrap: func(m Medium) Medium { medium.Medium = m; return medium }})
			r.fails(r.a, span16(opRead16, 0, 0, 1), nil, 512, c.read.Key, c.read.Code)
			r.fails(r.a, span16(opVerify16, 0, 0, 1), nil, 0, c.read.Key, c.read.Code)
			r.fails(r.a, span16(opWrite16, 0, 0, 1), filled(1, 1), 0, c.write.Key, c.write.Code)
			r.fails(r.a, span16(opWriteSame16, 1, 0, 9), nil, 0, c.write.Key, c.write.Code)
			r.fails(r.a, unmapCDB(1), unmapData(0, 8), 0, c.write.Key, c.write.Code)
			r.fails(r.a, compareCDB(0, 1), filled(2, 0), 0, c.read.Key, c.read.Code)
		})
	}
}

func TestReadOnlyAndSoftwareProtection(t *testing.T) {
	changes := map[string]struct{ cdb, out []byte }{
		"write":             {span16(opWrite16, 0, 0, 1), filled(1, 1)},
		"write and verify":  {span16(opWriteVerify16, 0, 0, 1), filled(1, 1)},
		"write same":        {span16(opWriteSame16, 1, 0, 1), nil},
		"unmap":             {unmapCDB(1), unmapData(0, 8)},
		"orwrite":           {span16(opOrWrite16, 0, 0, 1), filled(1, 1)},
		"compare and write": {compareCDB(0, 1), filled(2, 1)},
	}
	hard := newRig(t, rigOptions{readOnly: true})
	soft := newRig(t, rigOptions{})
	soft.good(soft.a, []byte{opModeSelect6, 0x10, 0, 0, 16, 0}, modeList(pageControl, 10, 0x02, 0x10, controlSWP, 0x40), 0)
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			hard.fails(hard.a, c.cdb, c.out, 0, DataProtect, WriteProtected)
			soft.fails(soft.a, c.cdb, c.out, 0, DataProtect, SoftwareWriteProtected)
		})
	}
	if sense := hard.good(hard.a, []byte{opModeSense6, 0, 0x3f, 0, 255, 0}, nil, 255); sense[2]&0x80 == 0 {
		t.Error("MODE SENSE does not tell of the write protection")
	}
}

// compareCDB is a COMPARE AND WRITE.
func compareCDB(lba uint64, count byte) []byte {
	b := make([]byte, 16)
	b[0], b[13] = opCompareAndWrite, count
	binary.BigEndian.PutUint64(b[2:], lba)
	return b
}

// unmapCDB is an UNMAP with so many descriptors.
func unmapCDB(n int) []byte {
	b := make([]byte, 10)
	b[0] = opUnmap
	binary.BigEndian.PutUint16(b[7:], uint16(8+16*n))
	return b
}

// unmapData is a parameter list of pairs of block and count.
func unmapData(pairs ...uint64) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, uint16(6+8*len(pairs)))
	binary.BigEndian.PutUint16(b[2:], uint16(8*len(pairs)))
	for i := 0; i < len(pairs); i += 2 {
		b = binary.BigEndian.AppendUint64(b, pairs[i])
		b = binary.BigEndian.AppendUint32(b, uint32(pairs[i+1]))
		b = append(b, 0, 0, 0, 0)
	}
	return b
}

// modeList is a parameter list of MODE SELECT(6) with one page.
func modeList(code, length byte, bytes ...byte) []byte {
	b := make([]byte, 4+2+int(length))
	b[4], b[5] = code, length
	copy(b[6:], bytes)
	return b
}
