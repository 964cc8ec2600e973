package scsi

import (
	"github.com/opencurve/curve-nbd/backend"
)

// BYTCHK of VERIFY and WRITE AND VERIFY.
const (
	checkMedium  = 0 // the blocks can be read
	checkPayload = 1 // the blocks are equal to the payload
	checkPattern = 3 // each block is equal to the one block of payload
)

func (c *Command) byteCheck() byte { return c.cdb[1] >> 1 & 3 }

func decodeVerify(u *Unit, c *Command, blocks uint64) *Sense {
	switch c.byteCheck() {
	case checkMedium:
		// It may be of any length, and nothing is compared: nobody waits for it.
		c.unlocked = true
		return c.takeSpan(blocks, 0)
	case checkPayload:
		if s := c.takeSpan(blocks, u.maxTransfer()); s != nil {
			return s
		}
		c.Transfer = int64(c.count) * u.blockSize
	case checkPattern:
		if s := c.takeSpan(blocks, u.maxSame()); s != nil {
			return s
		}
		c.Transfer = min(int64(c.count), 1) * u.blockSize
	default:
		return badCDB(1, 2)
	}
	c.Direction = DataOut
	return nil
}

func decodeWriteVerify(u *Unit, c *Command, blocks uint64) *Sense {
	if c.byteCheck() > checkPayload {
		return badCDB(1, 2)
	}
	return decodeWriteData(u, c, blocks)
}

// decodeWriteData is decodeWrite for CDBs that have no FUA there.
func decodeWriteData(u *Unit, c *Command, blocks uint64) *Sense {
	if s := decodeWrite(u, c, blocks); s != nil {
		return s
	}
	c.flags = u.writeFlags(false)
	return nil
}

func executeWriteVerify(u *Unit, c *Command) verdict {
	v := executeWrite(u, c)
	c.final, c.next = false, writtenThenVerify
	return v
}

func writtenThenVerify(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	return executeVerify(u, c)
}

var executeVerify = withBulk(verifyNext)

// verifyNext reads the next piece, until there is none.
func verifyNext(u *Unit, c *Command) verdict {
	n := min(int64(c.count)*u.blockSize-c.cursor, scratchSize)
	if n == 0 {
		return done
	}
	return c.want(backend.OpRead, int64(c.lba)*u.blockSize+c.cursor, n, c.scratch[:n], verifyRead)
}

func verifyRead(u *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	piece := c.request.Data
	differs := int64(-1)
	switch c.byteCheck() {
	case checkPayload:
		differs = c.compareOut(c.cursor, piece)
	case checkPattern:
		pattern := c.parameters()
		for at := 0; at < len(piece) && differs < 0; at += len(pattern) {
			differs = firstDifference(pattern, piece[at:])
		}
	}
	if differs >= 0 {
		return c.fail(miscompare(differs))
	}
	c.cursor += int64(len(piece))
	c.next = verifyNext
	if c.unlocked && u.bulk.pass(c) { // it may be a whole disk, and others wait with blocks in hand
		return wait
	}
	return verifyNext(u, c)
}

// compareOut returns where in the payload the first byte is that differs from
// data, which belongs at off of it, or -1.
func (c *Command) compareOut(off int64, data []byte) int64 {
	differs := int64(-1)
	c.outAt(off, int64(len(data)), func(at int64, b []byte) bool {
		if i := firstDifference(b, data[at:]); i >= 0 {
			differs = off + at + i
		}
		return differs < 0
	})
	return differs
}
