package scsi

import (
	"bytes"
	"crypto/subtle"

	"github.com/opencurve/curve-nbd/backend"
)

// maxCompareBytes bounds the blocks of one COMPARE AND WRITE, which must fit the
// scratch memory.
const maxCompareBytes = scratchSize

// maxCompare is the same in blocks; the CDB has room for 255.
func (u *Unit) maxCompare() uint64 { return min(255, uint64(maxCompareBytes/u.blockSize)) }

func decodeCompareAndWrite(u *Unit, c *Command, blocks uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	c.lba, _ = c.span()
	c.count = uint64(c.cdb[13])
	if c.lba >= blocks || c.count > blocks-c.lba {
		return outOfRange()
	}
	if c.count > u.maxCompare() {
		return badCDB(13, noBit)
	}
	// The payload is what must be there and what takes its place.
	c.Direction, c.Transfer, c.exact = DataOut, 2*int64(c.count)*u.blockSize, true
	if c.count == 0 && c.ExpectedOut > 0 {
		// The count is one byte: an initiator that means 256 blocks says 0.
		return badCDB(13, noBit)
	}
	c.flags = u.writeFlags(c.cdb[1]&fua != 0)
	return nil
}

func compareRead(u *Unit, c *Command) verdict {
	n := c.Transfer / 2
	if n == 0 {
		return done
	}
	return c.want(backend.OpRead, int64(c.lba)*u.blockSize, n, c.scratch[:n], compareWrite)
}

func compareWrite(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	n := c.Transfer / 2
	if at := c.compareOut(0, c.scratch[:n]); at >= 0 {
		return c.fail(miscompare(at))
	}
	c.outAt(n, n, func(at int64, b []byte) bool { copy(c.scratch[at:], b); return true })
	return c.want(backend.OpWrite, int64(c.lba)*u.blockSize, n, c.scratch[:n], changeDone)
}

// orRead begins the next piece of an ORWRITE, until there is none.
func orRead(u *Unit, c *Command) verdict {
	n := min(c.Transfer-c.cursor, scratchSize)
	if n == 0 {
		return done
	}
	return c.want(backend.OpRead, int64(c.lba)*u.blockSize+c.cursor, n, c.scratch[:n], orWrite)
}

func orWrite(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	n := c.request.Len
	c.outAt(c.cursor, n, func(at int64, b []byte) bool {
		for i, v := range b {
			c.scratch[at+int64(i)] |= v
		}
		return true
	})
	return c.want(backend.OpWrite, int64(c.lba)*u.blockSize+c.cursor, n, c.scratch[:n], orWritten)
}

func orWritten(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	c.cursor += c.request.Len
	return orRead(u, c)
}

// firstDifference returns the index of the first byte of a that differs from b,
// which is at least as long, or -1.
func firstDifference(a, b []byte) int64 {
	b = b[:len(a)]
	if bytes.Equal(a, b) {
		return -1
	}
	var x [512]byte
	for at := 0; ; at += len(x) {
		n := min(len(x), len(a)-at)
		subtle.XORBytes(x[:n], a[at:at+n], b[at:at+n])
		for i, v := range x[:n] {
			if v != 0 {
				return int64(at + i)
			}
		}
	}
}
