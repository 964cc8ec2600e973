package scsi

import (
	"errors"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// maxTransferBytes bounds the payload of one command: half of what one client may
// hold, so that there is always room for one more.
const maxTransferBytes = gateway.ClientMaxBytes / 2

// errFailed stands for any failure where only that counts.
var errFailed = errors.New("command failed")

func (u *Unit) maxTransfer() uint64 { return uint64(maxTransferBytes / u.blockSize) }

// fua is bit 3 of byte 1 in the CDBs that have it.
const fua = 0x08

// writable refuses changes where the medium takes none.
func (u *Unit) writable() *Sense {
	switch {
	case u.softProtect.Load():
		return sense(DataProtect, SoftwareWriteProtected)
	case u.readOnly():
		return sense(DataProtect, WriteProtected)
	}
	return nil
}

// writeFlags are the flags of a change: without a write cache each is durable
// before it is acknowledged.
func (u *Unit) writeFlags(forced bool) backend.Flags {
	if forced || u.writeThrough.Load() {
		return backend.FlagFUA
	}
	return 0
}

func decodeRead(u *Unit, c *Command, blocks uint64) *Sense {
	if s := c.takeSpan(blocks, u.maxTransfer()); s != nil {
		return s
	}
	c.Direction, c.Transfer = DataIn, int64(c.count)*u.blockSize
	return nil
}

func decodeWrite(u *Unit, c *Command, blocks uint64) *Sense {
	if s := u.writable(); s != nil {
		return s
	}
	if s := c.takeSpan(blocks, u.maxTransfer()); s != nil {
		return s
	}
	c.Direction, c.Transfer = DataOut, int64(c.count)*u.blockSize
	c.flags = u.writeFlags(c.op.size > 6 && c.cdb[1]&fua != 0)
	return nil
}

func decodeRange(_ *Unit, c *Command, blocks uint64) *Sense { return c.takeSpan(blocks, 0) }

func executeNothing(*Unit, *Command) verdict { return done }

func executeRead(u *Unit, c *Command) verdict {
	c.InLen = c.Transfer
	n := min(c.Transfer, lengthOf(c.In))
	if n == 0 {
		return done
	}
	c.next, c.final = readDone, true
	off := int64(c.lba) * u.blockSize
	if n == c.Transfer && int64(len(c.In[0])) >= n {
		return c.want(backend.OpRead, off, n, c.In[0][:n], readDone)
	}
	return u.spread(c, backend.OpRead, off, n)
}

func readDone(_ *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	if c.tail != nil {
		last := c.In[len(c.In)-1]
		copy(last[len(last)-c.tailLen():], c.tail)
	}
	return done
}

// tailLen is how much of the last block the initiator takes.
func (c *Command) tailLen() int { return int(lengthOf(c.In) % int64(len(c.tail))) }

func executeWrite(u *Unit, c *Command) verdict {
	if c.Transfer == 0 {
		return done
	}
	c.next, c.final = changeDone, true
	off := int64(c.lba) * u.blockSize
	if int64(len(c.Out[0])) >= c.Transfer {
		return c.want(backend.OpWrite, off, c.Transfer, c.Out[0][:c.Transfer], changeDone)
	}
	return u.spread(c, backend.OpWrite, off, c.Transfer)
}

func changeDone(_ *Unit, c *Command) verdict {
	if s := c.outcome(); s != nil {
		return c.fail(s)
	}
	return done
}

// spread makes one request per slice, which are in flight together. A read that
// ends inside a block gets it through tail.
func (u *Unit) spread(c *Command, op backend.OpKind, off, n int64) verdict {
	slices := c.Out
	if op == backend.OpRead {
		slices = c.In
	}
	if cap(c.parts) < len(slices)+1 {
		c.parts = make([]volume.Request, 0, len(slices)+1)
	}
	c.parts, c.multi = c.parts[:0], true
	add := func(data []byte) {
		c.parts = c.parts[:len(c.parts)+1]
		c.prepare(&c.parts[len(c.parts)-1], op, off, int64(len(data)), data)
		off += int64(len(data))
	}
	for i, b := range slices {
		b = b[:min(int64(len(b)), n)]
		n -= int64(len(b))
		whole := int64(len(b)) / u.blockSize * u.blockSize
		if whole > 0 {
			add(b[:whole])
		}
		switch {
		case whole == int64(len(b)):
		case op == backend.OpRead && i == len(slices)-1:
			c.tail = make([]byte, u.blockSize)
			add(c.tail)
		default:
			return c.fail(sense(AbortedCommand, InternalTargetFailure))
		}
	}
	return io
}

func executeFlush(_ *Unit, c *Command) verdict {
	c.final = true
	return c.want(backend.OpFlush, 0, 0, nil, changeDone)
}
