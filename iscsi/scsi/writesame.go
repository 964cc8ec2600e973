package scsi

import (
	"bytes"
	"encoding/binary"

	"github.com/opencurve/curve-nbd/backend"
)

// maxSameBytes bounds one WRITE SAME: with a pattern it is all written, within
// the time that initiators give it.
const maxSameBytes = 256 << 20

func (u *Unit) maxSame() uint64 { return min(maxSameBlocks, uint64(maxSameBytes/u.blockSize)) }

// maxSameBlocks is what initiators that keep the count in 16 bits can say.
const maxSameBlocks = 1 << 15

const (
	sameUnmap  = 0x08
	sameNoData = 0x01 // NDOB
)

func decodeWriteSame(u *Unit, c *Command, blocks uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	if s := c.takeSpan(blocks, u.maxSame()); s != nil {
		return s
	}
	if c.count == 0 { // WSNZ: "to the end" may be more than is meant
		return badCDB(c.op.countField(), noBit)
	}
	c.flags = u.writeFlags(false)
	if c.cdb[1]&sameNoData == 0 {
		c.Direction, c.Transfer, c.exact = DataOut, u.blockSize, true
	}
	return nil
}

func executeWriteSame(u *Unit, c *Command) verdict {
	pattern := c.parameters()
	off, n := int64(c.lba)*u.blockSize, int64(c.count)*u.blockSize
	if !allZero(pattern) {
		c.next = samePattern
		return samePattern(u, c)
	}
	c.final = true
	if c.cdb[1]&sameUnmap != 0 {
		return c.want(backend.OpTrim, off, n, nil, changeDone)
	}
	// Without UNMAP the blocks stay mapped.
	c.flags |= backend.FlagNoHole
	return c.want(backend.OpZero, off, n, nil, changeDone)
}

var samePattern = withBulk(func(u *Unit, c *Command) verdict {
	pattern := c.parameters()
	n := min(int64(c.count)*u.blockSize, scratchSize)
	for at := int64(0); at < n; at += int64(len(pattern)) {
		copy(c.scratch[at:], pattern)
	}
	return sameNext(u, c)
})

func sameNext(u *Unit, c *Command) verdict {
	n := min(int64(c.count)*u.blockSize-c.cursor, scratchSize)
	if n == 0 {
		return done
	}
	return c.want(backend.OpWrite, int64(c.lba)*u.blockSize+c.cursor, n, c.scratch[:n], sameWritten)
}

func sameWritten(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	c.cursor += c.request.Len
	return sameNext(u, c)
}

func allZero(b []byte) bool {
	var zero [512]byte
	for len(b) > 0 {
		n := min(len(b), len(zero))
		if !bytes.Equal(b[:n], zero[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// maxUnmaps bounds the descriptors of one UNMAP.
const maxUnmaps = 256

// The parameter list of UNMAP (SBC-3, 5.28.2): the bytes that follow, the bytes
// of descriptors, 4 reserved; then descriptors of block (8), count (4), 4
// reserved.
const (
	unmapHeader     = 8
	unmapDescriptor = 16
)

func decodeUnmap(u *Unit, c *Command, _ uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	c.flags = u.writeFlags(false)
	if n := binary.BigEndian.Uint16(c.cdb[7:]); n > 0 {
		c.Direction, c.Transfer = DataOut, int64(n)
	}
	return nil
}

// executeUnmap holds all descriptors against the medium before it frees
// anything.
func executeUnmap(u *Unit, c *Command) verdict {
	if c.Transfer == 0 {
		return done
	}
	list, s := unmapList(c.parameters())
	if s != nil {
		return c.fail(s)
	}
	blocks := uint64(u.size.Load() / u.blockSize)
	from, to := blocks, uint64(0)
	for at := 0; at < len(list); at += unmapDescriptor {
		lba, count := unmapRange(list[at:])
		if lba > blocks || count > blocks-lba {
			return c.fail(outOfRange())
		}
		if count > 0 {
			from, to = min(from, lba), max(to, lba+count)
			c.count += count
		}
	}
	c.tail = list
	c.next = unmapNext
	if from < to && !u.lock(c, from, to, false) {
		return wait
	}
	return unmapNext(u, c)
}

// unmapNext frees the range of the next descriptor.
func unmapNext(u *Unit, c *Command) verdict {
	for len(c.tail) > 0 {
		lba, count := unmapRange(c.tail)
		c.tail = c.tail[unmapDescriptor:]
		if count > 0 {
			return c.want(backend.OpTrim, int64(lba)*u.blockSize, int64(count)*u.blockSize, nil, unmapped)
		}
	}
	return done
}

func unmapped(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	return unmapNext(u, c)
}

// unmapList returns the descriptors of a parameter list, whole ones.
func unmapList(b []byte) ([]byte, *Sense) {
	if len(b) < unmapHeader {
		return nil, sense(IllegalRequest, ParameterListLength)
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	n = min(n, len(b)-unmapHeader) / unmapDescriptor * unmapDescriptor
	if n > maxUnmaps*unmapDescriptor {
		return nil, badData(2, noBit)
	}
	return b[unmapHeader:][:n], nil
}

func unmapRange(b []byte) (lba, count uint64) {
	return binary.BigEndian.Uint64(b), uint64(binary.BigEndian.Uint32(b[8:]))
}
