package scsi

import "encoding/binary"

// maxParameter bounds parameter data, in bytes, whatever the allocation length.
const maxParameter = 64 << 10

type decoder func(*Unit, *Command, uint64) *Sense

// decodeAllocation8 takes the allocation length from one byte of the CDB, the
// others below from two and four.
func decodeAllocation8(at int) decoder {
	return func(_ *Unit, c *Command, _ uint64) *Sense {
		c.allocate(uint32(c.cdb[at]))
		return nil
	}
}

func decodeAllocation16(at int) decoder {
	return func(_ *Unit, c *Command, _ uint64) *Sense {
		c.allocate(uint32(binary.BigEndian.Uint16(c.cdb[at:])))
		return nil
	}
}

func decodeAllocation32(at int) decoder {
	return func(_ *Unit, c *Command, _ uint64) *Sense {
		c.allocate(binary.BigEndian.Uint32(c.cdb[at:]))
		return nil
	}
}

// fixed pads or cuts a string to the width of its field.
func fixed(s string, width int) []byte {
	b := make([]byte, width)
	for i := copy(b, s); i < width; i++ {
		b[i] = ' '
	}
	return b
}
