package scsi

import (
	"encoding/binary"

	"github.com/opencurve/curve-nbd/backend"
)

// Vital product data pages.
const (
	vpdSupported       = 0x00
	vpdSerial          = 0x80
	vpdIdentification  = 0x83
	vpdExtended        = 0x86
	vpdLimits          = 0xb0
	vpdCharacteristics = 0xb1
	vpdProvisioning    = 0xb2
)

// versions are the standards that we claim (SPC-4, 6.6.2): SAM-5, SPC-4, SBC-3,
// iSCSI.
var versions = []uint16{0x00a0, 0x0460, 0x04c0, 0x0960}

func decodeInquiry(_ *Unit, c *Command, _ uint64) *Sense {
	if c.cdb[1]&1 == 0 && c.cdb[2] != 0 {
		return badCDB(2, noBit)
	}
	c.allocate(uint32(binary.BigEndian.Uint16(c.cdb[3:])))
	return nil
}

func executeInquiry(u *Unit, c *Command) verdict {
	if c.cdb[1]&1 == 0 {
		return c.reply(u.inquiry())
	}
	if u.absent {
		return c.fail(badCDB(2, noBit))
	}
	page, ok := u.vitalPage(c.Nexus, c.cdb[2])
	if !ok {
		return c.fail(badCDB(2, noBit))
	}
	b := append([]byte{0, c.cdb[2], byte(len(page) >> 8), byte(len(page))}, page...)
	return c.reply(b)
}

// inquiry is the standard INQUIRY data.
func (u *Unit) inquiry() []byte {
	b := make([]byte, 96)
	if u.absent {
		b[0] = absentType
	}
	if u.removable {
		b[1] = 0x80 // RMB
	}
	b[2] = 6        // SPC-4
	b[3] = 0x10 | 2 // HISUP, response data format
	b[4] = 96 - 5   // additional length
	b[7] = 0x02     // CMDQUE
	groups := u.allGroups()
	if len(groups) > 0 {
		b[5] = 0x10 // TPGS: implicit changes only
		if portsOf(groups) > 1 {
			b[6] = 0x10 // MULTIP
		}
	}
	b[5] |= 0x08 // 3PC: EXTENDED COPY
	copy(b[8:], fixed(vendor, 8))
	copy(b[16:], fixed(product, 16))
	copy(b[32:], fixed(revision, 4))
	for i, v := range versions {
		binary.BigEndian.PutUint16(b[58+2*i:], v)
	}
	return b
}

func (u *Unit) vitalPage(n *Nexus, page byte) ([]byte, bool) {
	switch page {
	case vpdSupported:
		return []byte{vpdSupported, vpdSerial, vpdIdentification, vpdExtended, vpdLimits, vpdCharacteristics, vpdProvisioning}, true
	case vpdSerial:
		return []byte(u.names.serial), true
	case vpdIdentification:
		return u.identification(n), true
	case vpdExtended:
		b := make([]byte, 60)
		b[1] = 0x07 // head of queue, ordered and simple attributes
		b[2] = 0x01 // V_SUP: there is a volatile cache
		b[3] = 0x01 // LUICLR
		return b, true
	case vpdLimits:
		return u.limitsPage(), true
	case vpdCharacteristics:
		b := make([]byte, 60)
		b[1] = 1    // does not rotate
		b[3] = 0x40 // WABEREQ: what SANITIZE has erased can be read
		return b, true
	case vpdProvisioning:
		const unmapAndSame, zeros, thin = 0xe0, 0x04, 2
		return []byte{0, unmapAndSame | zeros, thin, 0}, true
	}
	return nil, false
}

// limitsPage is the block limits page, without its first 4 bytes. Its granularities
// are what is best, whatever physical block the unit speaks of.
func (u *Unit) limitsPage() []byte {
	b := make([]byte, 60)
	put := func(at int, v uint32) { binary.BigEndian.PutUint32(b[at-4:], v) }
	grain := uint32(backend.ChecksumBlock / u.blockSize)
	b[0] = 0x01 // WSNZ
	b[1] = byte(u.maxCompare())
	binary.BigEndian.PutUint16(b[2:], uint16(grain))
	put(8, uint32(u.maxTransfer()))
	put(12, uint32(optimalTransferBytes/u.blockSize))
	put(20, 0xffffffff) // blocks of an UNMAP: any number
	put(24, maxUnmaps)
	// A grain of one block goes unsaid: QEMU 7.2 would keep a map of them, and abort as
	// it asks for the status of 2^31-512 bytes, which is no multiple of such a block.
	if grain > 1 {
		put(28, grain)
	}
	put(32, 1<<31) // unmap alignment 0 is valid
	binary.BigEndian.PutUint64(b[32:], u.maxSame())
	return b
}

// optimalTransferBytes is what one gateway buffer holds.
const optimalTransferBytes = 1 << 20

func decodeReadCapacity10(_ *Unit, c *Command, _ uint64) *Sense {
	c.allocate(8)
	return nil
}

func executeReadCapacity10(u *Unit, c *Command) verdict {
	var b [8]byte
	last := uint64(u.size.Load()/u.blockSize) - 1
	binary.BigEndian.PutUint32(b[:], uint32(min(last, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], uint32(u.blockSize))
	return c.reply(b[:])
}

func executeReadCapacity16(u *Unit, c *Command) verdict {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], uint64(u.size.Load()/u.blockSize)-1)
	binary.BigEndian.PutUint32(b[8:], uint32(u.blockSize))
	for n := u.physical / u.blockSize; n > 1; n /= 2 {
		b[13]++ // logical blocks per physical block, as an exponent
	}
	b[14] = 0xc0 // LBPME, LBPRZ
	return c.reply(b[:])
}

// executeDefects answers READ DEFECT DATA with an empty list.
func executeDefects(_ *Unit, c *Command) verdict {
	if c.op.size == 10 {
		return c.reply([]byte{0, c.cdb[2], 0, 0})
	}
	return c.reply([]byte{0, c.cdb[1], 0, 0, 0, 0, 0, 0})
}

func executeRequestSense(u *Unit, c *Command) verdict {
	s := &Sense{}
	if u.absent {
		s = notSupported()
	} else if code, pending := c.Nexus.attentions.take(); pending {
		c.attention = code
		s = sense(UnitAttention, code)
	} else if t := notReady(AccessState(c.Nexus.state.Load())); t != nil {
		s = t
	} else if t := u.noMedium(); t != nil {
		s = t
	} else if t := u.sanitize.sense(); t != nil {
		s = t
	}
	var b [maxSense]byte
	n := s.encode(&b, c.cdb[1]&1 != 0)
	return c.reply(b[:n])
}

func decodeReportLUNs(_ *Unit, c *Command, _ uint64) *Sense {
	switch c.cdb[2] {
	case 0x00, 0x01, 0x02, 0x10, 0x11, 0x12:
	default:
		return badCDB(2, noBit)
	}
	c.allocate(binary.BigEndian.Uint32(c.cdb[6:]))
	return nil
}

func executeReportLUNs(u *Unit, c *Command) verdict {
	c.Nexus.attentions.drop(LUNsChanged)
	var luns []uint64
	if c.cdb[2] == 0x00 || c.cdb[2] == 0x02 { // the others ask for well known or administrative units
		luns = u.luns(c.Nexus)
	}
	b := make([]byte, 8, 8+8*len(luns))
	binary.BigEndian.PutUint32(b, uint32(8*len(luns)))
	for _, lun := range luns {
		b = binary.BigEndian.AppendUint64(b, lun)
	}
	return c.reply(b)
}
