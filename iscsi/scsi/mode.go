package scsi

import (
	"encoding/binary"
)

// Mode pages.
const (
	pageCaching    = 0x08
	pageControl    = 0x0a
	pageExceptions = 0x1c
	pageAll        = 0x3f
)

// Page control of MODE SENSE.
const (
	pcCurrent    = 0
	pcChangeable = 1
	pcDefault    = 2
	pcSaved      = 3
)

// Bits that MODE SELECT may change.
const (
	cacheWCE      = 0x04 // byte 2 of the caching page
	controlDSense = 0x04 // byte 2 of the control page
	controlSWP    = 0x08 // byte 4 of the control page
)

// modePages are in the order in which they are reported.
var modePages = []byte{pageCaching, pageControl, pageExceptions}

// modePage is one page as pc asks for it.
func (u *Unit) modePage(code byte, pc byte) []byte {
	on := func(current, initially bool) bool {
		return pc == pcChangeable || pc == pcCurrent && current || pc == pcDefault && initially
	}
	fixedPart := func(v byte) byte {
		if pc == pcChangeable {
			return 0
		}
		return v
	}
	var b []byte
	set := func(at int, bit byte, isSet bool) {
		if isSet {
			b[at] |= bit
		}
	}
	switch code {
	case pageCaching:
		b = make([]byte, 20)
		set(2, cacheWCE, on(!u.writeThrough.Load(), true))
	case pageControl:
		b = make([]byte, 12)
		b[2] = fixedPart(0x02) // GLTSD: nothing is logged
		b[3] = fixedPart(0x10) // commands are reordered as is best
		b[5] = fixedPart(0x40) // TAS: who did not end its commands is told
		set(2, controlDSense, on(u.descriptorSense.Load(), false))
		set(4, controlSWP, on(u.softProtect.Load(), false))
	case pageExceptions:
		b = make([]byte, 12)
		b[2] = fixedPart(0x08) // DEXCPT: no informational exceptions
	}
	b[0], b[1] = code, byte(len(b)-2)
	return b
}

// modeHeader is the size of the mode parameter header of the command's form.
func (c *Command) modeHeader() int {
	if c.op.size == 6 {
		return 4
	}
	return 8
}

func decodeModeSense(_ *Unit, c *Command, _ uint64) *Sense {
	page, sub := c.cdb[2]&0x3f, c.cdb[3]
	if sub != 0 && sub != 0xff {
		return badCDB(3, noBit)
	}
	if page != pageAll && page != pageCaching && page != pageControl && page != pageExceptions {
		return badCDB(2, 5)
	}
	if c.cdb[2]>>6 == pcSaved {
		return sense(IllegalRequest, SavingNotSupported)
	}
	if c.op.size == 6 {
		c.allocate(uint32(c.cdb[4]))
	} else {
		c.allocate(uint32(binary.BigEndian.Uint16(c.cdb[7:])))
	}
	return nil
}

func executeModeSense(u *Unit, c *Command) verdict {
	const noDescriptors, longBlocks = 0x08, 0x10
	header := c.modeHeader()
	b := make([]byte, header)
	var descriptor []byte
	if c.cdb[1]&noDescriptors == 0 {
		descriptor = u.blockDescriptor(c.cdb[1]&longBlocks != 0)
	}
	b = append(b, descriptor...)
	for _, code := range modePages {
		if page := c.cdb[2] & 0x3f; page == pageAll || page == code {
			b = append(b, u.modePage(code, c.cdb[2]>>6)...)
		}
	}
	device := byte(0x10) // DPOFUA
	if u.writable() != nil {
		device |= 0x80 // WP
	}
	if header == 4 {
		b[0], b[2], b[3] = byte(len(b)-1), device, byte(len(descriptor))
		return c.reply(b)
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	b[3] = device
	if len(descriptor) == 16 {
		b[4] = 0x01 // LONGLBA
	}
	binary.BigEndian.PutUint16(b[6:], uint16(len(descriptor)))
	return c.reply(b)
}

// blockDescriptor says how many blocks of what size there are.
func (u *Unit) blockDescriptor(long bool) []byte {
	blocks := uint64(u.size.Load() / u.blockSize)
	if long {
		b := make([]byte, 16)
		binary.BigEndian.PutUint64(b, blocks)
		binary.BigEndian.PutUint32(b[12:], uint32(u.blockSize))
		return b
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint32(b, uint32(min(blocks, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], uint32(u.blockSize)) // its first byte is 0
	return b
}

// maxModeList bounds the parameter list of MODE SELECT; one with every page takes
// less than 100 bytes.
const maxModeList = 1 << 10

func decodeModeSelect(_ *Unit, c *Command, _ uint64) *Sense {
	const pageFormat, savePages = 0x10, 0x01
	if c.cdb[1]&savePages != 0 {
		return badCDB(1, 0)
	}
	n := int64(c.cdb[4])
	if c.op.size == 10 {
		n = int64(binary.BigEndian.Uint16(c.cdb[7:]))
	}
	if n > maxModeList {
		return sense(IllegalRequest, ParameterListLength)
	}
	if n > 0 && c.cdb[1]&pageFormat == 0 {
		return badCDB(1, 4)
	}
	if n > 0 {
		c.Direction, c.Transfer = DataOut, n
	}
	return nil
}

// executeModeSelect changes nothing unless all of the list is right.
func executeModeSelect(u *Unit, c *Command) verdict {
	if c.Transfer == 0 {
		return done
	}
	b := c.parameters()
	at, s := u.skipBlockDescriptors(b, c.modeHeader())
	wanted := make(map[byte][]byte)
	for s == nil && at < len(b) {
		at, s = u.takePage(b, at, wanted)
	}
	if s != nil {
		return c.fail(s)
	}
	if !u.applyPages(wanted) {
		return done
	}
	u.notify(c.Nexus, ModeParametersChanged)
	if u.writeThrough.Load() && u.noMedium() == nil && u.mounted(c) {
		return executeFlush(u, c) // what the cache that is now off still holds
	}
	return done
}

// skipBlockDescriptors returns where the pages begin. A block descriptor may only
// say what is so already.
func (u *Unit) skipBlockDescriptors(b []byte, header int) (int, *Sense) {
	if len(b) < header {
		return 0, sense(IllegalRequest, ParameterListLength)
	}
	n, long, lengthAt := int(b[3]), false, 3
	if header == 8 {
		n, long, lengthAt = int(binary.BigEndian.Uint16(b[6:])), b[4]&1 != 0, 6
	}
	want := u.blockDescriptor(long)
	switch {
	case n == 0:
		return header, nil
	case n != len(want):
		return 0, badData(lengthAt, noBit)
	case len(b) < header+n:
		return 0, sense(IllegalRequest, ParameterListLength)
	}
	got := b[header:][:n]
	count := len(want) - 4 // the block size is at the end
	if long {
		count = 8
	}
	for i := count; i < n; i++ {
		if got[i] != want[i] {
			return 0, badData(header+i, noBit)
		}
	}
	if !allZero(got[:count]) && string(got[:count]) != string(want[:count]) {
		return 0, badData(header, noBit)
	}
	return header + n, nil
}

// takePage takes the page at b[at:], which may differ from the current one in
// what is changeable only, and returns where the next begins.
func (u *Unit) takePage(b []byte, at int, wanted map[byte][]byte) (int, *Sense) {
	code := b[at] & 0x3f
	if b[at]&0x40 != 0 || code != pageCaching && code != pageControl && code != pageExceptions {
		return 0, badData(at, 5)
	}
	now, changeable := u.modePage(code, pcCurrent), u.modePage(code, pcChangeable)
	switch {
	case len(b)-at < 2:
		return 0, sense(IllegalRequest, ParameterListLength)
	case b[at+1] != now[1]:
		return 0, badData(at+1, noBit)
	case len(b)-at < len(now):
		return 0, sense(IllegalRequest, ParameterListLength)
	}
	page := b[at:][:len(now)]
	for i := 2; i < len(now); i++ {
		if (page[i]^now[i])&^changeable[i] != 0 {
			return 0, badData(at+i, noBit)
		}
	}
	wanted[code] = page
	return at + len(now), nil
}

// applyPages says whether anything is different now.
func (u *Unit) applyPages(wanted map[byte][]byte) (changed bool) {
	if p := wanted[pageCaching]; p != nil {
		through := p[2]&cacheWCE == 0
		changed = u.writeThrough.Swap(through) != through || changed
	}
	if p := wanted[pageControl]; p != nil {
		descriptors, protected := p[2]&controlDSense != 0, p[4]&controlSWP != 0
		changed = u.descriptorSense.Swap(descriptors) != descriptors || changed
		changed = u.softProtect.Swap(protected) != protected || changed
	}
	return changed
}
