package scsi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestInquiry(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{Groups: []PortGroup{{ID: 3, Ports: []uint16{1}}}}})
	page := func(code byte) []byte {
		b := r.good(r.a, []byte{opInquiry, 1, code, 4, 0, 0}, nil, 1024)
		if b[1] != code || int(binary.BigEndian.Uint16(b[2:])) != len(b)-4 {
			t.Errorf("page %#x: header % x of %d bytes", code, b[:4], len(b))
		}
		return b[4:]
	}
	std := r.good(r.a, []byte{opInquiry, 0, 0, 4, 0, 0}, nil, 1024)
	if len(std) != 96 || std[4] != 91 || std[2] != 6 || string(std[8:36]) != "CURVE   CURVE VOLUME    1.0 " {
		t.Errorf("standard data % x", std)
	}
	if got := page(vpdSupported); !bytes.Equal(got, []byte{0, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2}) {
		t.Errorf("pages % x", got)
	}
	for _, code := range page(vpdSupported) {
		page(code)
	}
	limits := r.good(r.a, []byte{opInquiry, 1, vpdLimits, 0, 255, 0}, nil, 255)
	for at, want := range map[int]uint32{8: 8192, 12: 2048, 20: 0xffffffff, 24: 256, 28: 8, 32: 1 << 31, 40: 32768} {
		if got := binary.BigEndian.Uint32(limits[at:]); got != want {
			t.Errorf("block limits, byte %d: %d, want %d", at, got, want)
		}
	}
	if limits[4] != 1 || limits[5] != 255 || len(limits) != 64 {
		t.Errorf("block limits % x", limits)
	}
	large := newRig(t, rigOptions{blockSize: 4096})
	limits = large.good(large.a, []byte{opInquiry, 1, vpdLimits, 0, 255, 0}, nil, 255)
	if got := binary.BigEndian.Uint32(limits[28:]); got != 0 {
		t.Errorf("a granularity of %d blocks is not worth saying", got)
	}
	if got := page(vpdProvisioning); !bytes.Equal(got, []byte{0, 0xe4, 2, 0}) {
		t.Errorf("provisioning % x", got)
	}
	r.fails(r.a, []byte{opInquiry, 1, 0x87, 0, 255, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
	r.fails(r.a, []byte{opInquiry, 0, 0x83, 0, 255, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
	r.fails(r.a, []byte{opInquiry, 2, 0, 0, 255, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
}

// Multipath software merges what has one name: a volume's must be the same
// everywhere, and nobody else's.
func TestNamesDeriveFromTheIdentity(t *testing.T) {
	one, again, other := newRig(t, rigOptions{}).unit, newRig(t, rigOptions{}).unit, namesOf("another")
	if one.names != again.names {
		t.Error("one volume has two names")
	}
	if one.names.serial == other.serial || one.names.naa == other.naa {
		t.Error("two volumes have one name")
	}
	if one.names.naa>>60 != 3 {
		t.Errorf("NAA %#x is not locally assigned", one.names.naa)
	}
	n := &Nexus{port: Port{ID: 0x102, Name: "iqn.x,t,0x0102", Device: "iqn.x"}}
	var kinds []string
	for b := one.identification(n); len(b) > 0; b = b[4+int(b[3]):] {
		kinds = append(kinds, fmt.Sprintf("%02x/%02x", b[0], b[1]))
	}
	if got := fmt.Sprint(kinds); got != "[01/03 02/01 03/08 51/94 53/98 53/a8]" {
		t.Errorf("designators %s", got)
	}
}

func TestCapacity(t *testing.T) {
	r := newRig(t, rigOptions{})
	b := r.good(r.a, []byte{opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 100)
	if !bytes.Equal(b, []byte{0, 0, 0x7f, 0xff, 0, 0, 2, 0}) {
		t.Errorf("capacity % x", b)
	}
	cdb := []byte{opServiceActionIn16, saReadCapacity16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0}
	b = r.good(r.a, cdb, nil, 255)
	if len(b) != 32 || b[13] != 3 || b[14] != 0xc0 {
		t.Errorf("capacity % x", b)
	}
	big := newRig(t, rigOptions{blockSize: 4096})
	if b = big.good(big.a, cdb, nil, 255); b[13] != 0 || binary.BigEndian.Uint32(b[8:]) != 4096 {
		t.Errorf("capacity % x", b)
	}
	r.fails(r.a, []byte{opServiceActionIn16, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
}

func TestReportLUNs(t *testing.T) {
	r := newRig(t, rigOptions{unit: Options{LUNs: func(*Nexus) []uint64 { return []uint64{0, 1 << 48} }}})
	cdb := []byte{opReportLUNs, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0}
	if b := r.good(r.a, cdb, nil, 1024); len(b) != 24 || b[3] != 16 || b[17] != 1 {
		t.Errorf("LUNs % x", b)
	}
	cdb[2] = 1
	if b := r.good(r.a, cdb, nil, 1024); len(b) != 8 {
		t.Errorf("well known LUNs % x", b)
	}
	cdb[2] = 3
	r.fails(r.a, cdb, nil, 1024, IllegalRequest, InvalidFieldInCDB)
}

func TestModeSense(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, c := range []struct {
		name string
		cdb  []byte
		want string
	}{
		{"caching", []byte{opModeSense6, 8, 0x08, 0, 255, 0}, "17001000" + "0812040000000000000000000000000000000000"},
		{"caching, changeable", []byte{opModeSense6, 8, 0x48, 0, 255, 0}, "17001000" + "0812040000000000000000000000000000000000"},
		{"control", []byte{opModeSense6, 8, 0x0a, 0, 255, 0}, "0f001000" + "0a0a02100040000000000000"},
		{"control, changeable", []byte{opModeSense6, 8, 0x4a, 0, 255, 0}, "0f001000" + "0a0a04000800000000000000"},
		{"exceptions, default", []byte{opModeSense6, 8, 0x9c, 0, 255, 0}, "0f001000" + "1c0a08000000000000000000"},
		{"with a block descriptor", []byte{opModeSense6, 0, 0x0a, 0, 16, 0}, "17001008" + "0000800000000200" + "0a0a0210"},
		{"10, long descriptor", []byte{opModeSense10, 0x10, 0x0a, 0, 0, 0, 0, 0, 28, 0}, "0022001001000010" + "00000000000080000000000000000200" + "0a0a0210"},
		{"short", []byte{opModeSense6, 0, 0x3f, 0, 3, 0}, "370010"},
		{"no room", []byte{opModeSense10, 0, 0x3f, 0, 0, 0, 0, 0, 0, 0}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fmt.Sprintf("%x", r.good(r.a, c.cdb, nil, 255)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	r.fails(r.a, []byte{opModeSense6, 0, 0xc8, 0, 255, 0}, nil, 255, IllegalRequest, SavingNotSupported)
	r.fails(r.a, []byte{opModeSense6, 0, 0x02, 0, 255, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
	r.fails(r.a, []byte{opModeSense6, 0, 0x08, 3, 255, 0}, nil, 255, IllegalRequest, InvalidFieldInCDB)
}

func TestModeSelect(t *testing.T) {
	r := newRig(t, rigOptions{})
	sense := func() string {
		return fmt.Sprintf("%x", r.good(r.a, []byte{opModeSense6, 8, 0x3f, 0, 255, 0}, nil, 255))
	}
	initial := sense()
	for name, c := range map[string]struct {
		list []byte
		code Code
	}{
		"a bit that is fixed":    {modeList(pageCaching, 18, 0x05), InvalidFieldInParameter},
		"an unknown page":        {modeList(0x02, 14), InvalidFieldInParameter},
		"a wrong page length":    {modeList(pageControl, 8, 2, 0x10), InvalidFieldInParameter},
		"half a page":            {modeList(pageCaching, 18, 4)[:10], ParameterListLength},
		"half a header":          {[]byte{0, 0, 0}, ParameterListLength},
		"one byte of a page":     {[]byte{0, 0, 0, 0, pageControl}, ParameterListLength},
		"half a descriptor":      {[]byte{0, 0, 0, 8, 0, 0}, ParameterListLength},
		"an odd descriptor":      {[]byte{0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0}, InvalidFieldInParameter},
		"another block size":     {[]byte{0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 4, 0}, InvalidFieldInParameter},
		"another capacity":       {[]byte{0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 2, 0}, InvalidFieldInParameter},
		"good, then a bad page":  {append(modeList(pageCaching, 18, 0), 0x3f, 0), InvalidFieldInParameter},
		"a page with a sub-page": {[]byte{0, 0, 0, 0, 0x40 | pageControl, 1, 0, 0}, InvalidFieldInParameter},
	} {
		t.Run(name, func(t *testing.T) {
			r.fails(r.a, []byte{opModeSelect6, 0x10, 0, 0, byte(len(c.list)), 0}, c.list, 0, IllegalRequest, c.code)
			if sense() != initial {
				t.Error("a refused list changed something")
			}
		})
	}
	r.fails(r.a, []byte{opModeSelect6, 0x11, 0, 0, 24, 0}, modeList(pageCaching, 18, 0), 0, IllegalRequest, InvalidFieldInCDB)
	r.good(r.a, []byte{opModeSelect6, 0x10, 0, 0, 24, 0}, modeList(pageCaching, 18, 4), 0) // as it is
	r.expectTold(r.b, 0)
	list := append([]byte{0, 0, 0, 0, 0, 0, 0, 8}, r.unit.blockDescriptor(false)...)
	list = append(list, modeList(pageControl, 10, 0x02|controlDSense, 0x10, 0, 0x40)[4:]...)
	r.good(r.a, []byte{opModeSelect10, 0x10, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}, list, 0)
	r.expectTold(r.b, ModeParametersChanged)
	r.expectTold(r.a, 0)
	a := r.fails(r.a, span16(opRead16, 0x20, 0, 1), nil, 512, IllegalRequest, InvalidFieldInCDB)
	if want := []byte{0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcd, 0, 1, 0}; !bytes.Equal(a.Sense(), want) {
		t.Errorf("sense % x, want % x", a.Sense(), want)
	}
	r.unit.Reset(func() {})
	r.a.attentions.take()
	if sense() != initial {
		t.Error("a reset left the mode pages changed")
	}
}

func TestReportSupportedOperationCodes(t *testing.T) {
	r := newRig(t, rigOptions{})
	cdb := func(option, code byte, action uint16) []byte {
		return []byte{opMaintenanceIn, saReportOpcodes, option, code, byte(action >> 8), byte(action), 0, 0, 0xff, 0xff, 0, 0}
	}
	for _, timeouts := range []byte{0, 0x80} {
		b := r.good(r.a, cdb(timeouts, 0, 0), nil, 0xffff)
		if int(binary.BigEndian.Uint32(b)) != len(b)-4 {
			t.Errorf("length %d", binary.BigEndian.Uint32(b))
		}
		found := 0
		for b = b[4:]; len(b) > 0; found++ {
			code, action, flags := b[0], binary.BigEndian.Uint16(b[2:]), b[5]
			with, without := byte(reportAction), byte(reportCode)
			if flags&1 == 0 {
				with, without = without, with
			}
			one := r.good(r.a, cdb(timeouts|with, code, action), nil, 0xffff)
			if one[1]&7 != 3 || one[4] != code || int(one[3]) != int(b[7]) {
				t.Errorf("%#x/%#x: % x", code, action, one)
			}
			r.fails(r.a, cdb(timeouts|without, code, action), nil, 0xffff, IllegalRequest, InvalidFieldInCDB)
			r.good(r.a, cdb(timeouts|reportEither, code, action), nil, 0xffff)
			b = b[8:]
			if timeouts != 0 {
				if b[1] != 10 || one[1]&0x80 == 0 {
					t.Errorf("%#x/%#x: timeouts % x", code, action, b[:12])
				}
				b = b[12:]
			}
		}
		if found != len(table) {
			t.Errorf("%d operations are reported, the table has %d", found, len(table))
		}
	}
	if b := r.good(r.a, cdb(reportCode, 0x04, 0), nil, 100); b[1] != 1 {
		t.Errorf("FORMAT UNIT: % x", b)
	}
	if b := r.good(r.a, cdb(reportAction, opPersistentIn, 9), nil, 100); b[1] != 1 {
		t.Errorf("an unknown service action: % x", b)
	}
	if b := r.good(r.a, cdb(reportEither, opRead16, 1), nil, 100); b[1] != 1 {
		t.Errorf("a service action of READ: % x", b)
	}
	r.fails(r.a, cdb(4, 0, 0), nil, 100, IllegalRequest, InvalidFieldInCDB)
	b := r.good(r.a, []byte{opMaintenanceIn, saReportTaskFuncs, 0x80, 0, 0, 0, 0, 0, 0, 16, 0, 0}, nil, 16)
	if len(b) != 16 || b[0] != 0xd8 || b[1] != 1 || b[3] != 12 {
		t.Errorf("task management functions % x", b)
	}
}

// What is reported as looked at is what is looked at: a bit outside of the usage
// data changes nothing, unless it is refused.
func TestUsageDataMatchesTheDecoder(t *testing.T) {
	r := newRig(t, rigOptions{})
	plan := func(cdb []byte) string {
		c := &Command{CDB: cdb, Nexus: r.a, ExpectedOut: 1 << 40, ExpectedIn: 1 << 40}
		r.unit.Plan(c)
		return fmt.Sprint(c.Status, c.Direction, c.Transfer, c.lba, c.count, c.flags, c.cdb, c.Sense())
	}
	rapid.Check(t, func(t *rapid.T) {
		op := &table[rapid.IntRange(0, len(table)-1).Draw(t, "operation")]
		cdb := rapid.SliceOfN(rapid.Byte(), op.size, op.size).Draw(t, "cdb")
		usage := op.usage()
		actionBits := byte(0)
		if op.action != noAction {
			actionBits = 0x1f
		}
		for i := range cdb {
			cdb[i] &= op.mask[i]
		}
		cdb[0] = op.code
		if op.action != noAction {
			cdb[1] = cdb[1]&^actionBits | byte(op.action)
		}
		before := plan(cdb)
		i := rapid.IntRange(1, op.size-1).Draw(t, "byte")
		bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
		if i == 1 && bit&actionBits != 0 || usage[i]&bit != 0 {
			return
		}
		cdb[i] ^= bit
		c := &Command{CDB: cdb, Nexus: r.a, ExpectedOut: 1 << 40}
		r.unit.Plan(c)
		if _, code := c.parseSense(); op.refuse[i]&bit != 0 {
			if code != InvalidFieldInCDB {
				t.Fatalf("%s: bit %#x of byte %d is not refused", op.name, bit, i)
			}
		} else if after := plan(cdb); after != before {
			t.Fatalf("%s: bit %#x of byte %d is not in the usage data, but matters:\n%s\n%s", op.name, bit, i, before, after)
		}
	})
	for i := range table { // the masks are not empty either
		op := &table[i]
		for at := range op.size {
			if op.mask[at]&op.refuse[at] != 0 {
				t.Errorf("%s: byte %d is looked at and refused", op.name, at)
			}
		}
	}
}

// The commands that crashed other targets, at the shortest and with everything
// wrong.
func TestHostileCommands(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, cdb := range map[string][]byte{
		"no CDB":                      {},
		"one byte":                    {opRead16},
		"reserved operation":          {0xff, 0, 0, 0, 0, 0},
		"service action missing":      {opMaintenanceIn},
		"orwrite":                     span16(opOrWrite16, 0, 0, 8),
		"unmap without data":          unmapCDB(1),
		"PR OUT without data":         {opPersistentOut, 0, 0, 0, 0, 0, 0, 0, 24, 0},
		"PR OUT of 4 GiB":             {opPersistentOut, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0},
		"mode sense 6, no room":       {opModeSense6, 0, 0x3f, 0, 0, 0},
		"mode sense 10, no room":      {opModeSense10, 0, 0x3f, 0, 0, 0, 0, 0, 0, 0},
		"mode sense 6, short":         {opModeSense6, 0, 0x3f, 0, 1, 0},
		"read capacity":               {opReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"inquiry":                     {opInquiry, 0, 0, 0, 96, 0},
		"request sense":               {opRequestSense, 0, 0, 0, 18, 0},
		"prevent allow":               {opPreventAllow, 0, 0, 0, 1, 0},
		"test unit ready":             turCDB,
		"write of 4 Gi blocks":        span16(opWrite16, 0, 0, 0xffffffff),
		"read at the end of 64 bits":  span16(opRead16, 0, 1<<64-1, 0xffffffff),
		"NACA":                        {opTestUnitReady, 0, 0, 0, 0, 4},
		"GET LBA STATUS without room": span16(opServiceActionIn16, saGetLBAStatus, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			for _, out := range []int{0, 1, 512, 4096} { // the W bit, whatever the command
				for _, room := range []int{0, 1, 4, 4096} {
					a := r.do(r.a, cdb, make([]byte, out), room)
					if a.Status == CheckCondition && len(a.Sense()) < 18 || a.Status != CheckCondition && a.Status != Good {
						t.Errorf("status %#x, sense % x", a.Status, a.Sense())
					}
				}
			}
		})
	}
}

func TestPlainCommands(t *testing.T) {
	r := newRig(t, rigOptions{})
	for name, cdb := range map[string][]byte{
		"flush(10)":    spanOf(10, opSynchronizeCache10, 0, 0, 0),
		"flush(16)":    span16(opSynchronizeCache16, 2, 5, 10),
		"prefetch(10)": spanOf(10, opPrefetch10, 2, 0, 8),
		"prefetch(16)": span16(opPrefetch16, 0, 0, 0),
		"start":        {opStartStopUnit, 0, 0, 0, 1, 0},
		"stop":         {opStartStopUnit, 1, 0, 0, 0, 0},
		"prevent":      {opPreventAllow, 0, 0, 0, 1, 0},
		"defects(10)":  {opReadDefectData10, 0, 0x18, 0, 0, 0, 0, 0, 32, 0},
		"defects(12)":  {opReadDefectData12, 0x18, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0},
	} {
		t.Run(name, func(t *testing.T) { r.good(r.a, cdb, nil, 64) })
	}
	r.fails(r.a, []byte{opStartStopUnit, 0, 0, 0, 2, 0}, nil, 0, IllegalRequest, InvalidFieldInCDB) // nothing to eject
	r.fails(r.a, span16(opSynchronizeCache16, 0, testCount-1, 2), nil, 0, IllegalRequest, LBAOutOfRange)
	r.fails(r.a, spanOf(10, opPrefetch10, 0, testCount+1, 0), nil, 0, IllegalRequest, LBAOutOfRange)
}

// Reads and writes that need not wait cost no memory.
func TestReadsAndWritesDoNotAllocate(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.write(0, filled(64, 1))
	data := filled(8, 2)
	for name, cdb := range map[string][]byte{
		"READ(10)":  spanOf(10, opRead10, 0, 8, 8),
		"READ(16)":  span16(opRead16, 0, 8, 8),
		"WRITE(10)": spanOf(10, opWrite10, 0, 8, 8),
		"WRITE(16)": span16(opWrite16, 0, 8, 8),
	} {
		c := &Command{In: make([][]byte, 0, 1), Out: make([][]byte, 0, 1)}
		if n := testing.AllocsPerRun(200, func() {
			c.Reset()
			c.CDB, c.Nexus = cdb, r.a
			c.ExpectedIn, c.ExpectedOut = int64(len(data)), int64(len(data))
			if !r.unit.Plan(c) {
				t.Fatal("not planned")
			}
			if c.Direction == DataIn {
				c.In = append(c.In, data)
			} else {
				c.Out = append(c.Out, data)
			}
			if !r.unit.Execute(c) || c.Status != Good {
				t.Fatal("not done at once")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
