package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxExtents bounds one BLOCK_STATUS reply.
const maxExtents = 4096

// status serves BLOCK_STATUS, on a goroutine of its own since it may wait for
// metadata: rare, and bounded by its permit.
func (c *conn) status(cmd *command) error {
	if cmd.Payload {
		if err := c.statusFilter(cmd); err != nil {
			var wire *wireError
			if errors.As(err, &wire) {
				return c.answer(cmd, err)
			}
			return err
		}
	}
	buf, err := c.buffer(0)
	if err != nil {
		return err
	}
	limit := maxExtents
	if cmd.Flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	t := c.newTask(cmd, buf)
	go func() {
		exts, err := c.handle.Extents(c.ctx, t.command.offset(), t.command.length(), limit, nil)
		t.extents = exts
		t.request.Err = err
		c.writer.Finish(t)
	}()
	return nil
}

// statusFilter reads the payload form of BLOCK_STATUS (extension-ext-header):
// the effect length, then the context ids that the client wants answered.
func (c *conn) statusFilter(cmd *command) error {
	if cmd.Length < 12 || cmd.Length%4 != 0 || cmd.Length > bufferedWrite {
		n := int64(cmd.Length)
		if err := c.in.Discard(n); err != nil {
			return err
		}
		return &wireError{errnoInval, fmt.Sprintf("block status payload of %d bytes", n)}
	}
	payload := c.in.Bytes()[:cmd.Length]
	c.in.Skip(len(payload))
	cmd.Length = binary.BigEndian.Uint64(payload)
	if len(payload) != 12 || binary.BigEndian.Uint32(payload[8:]) != allocationContextID {
		return &wireError{errnoInval, "block status for a context that was not negotiated"}
	}
	if cmd.Length == 0 {
		return &wireError{errnoInval, "block status of no bytes"}
	}
	return nil
}

// blockStatus encodes the extents (proto.md, NBD_REPLY_TYPE_BLOCK_STATUS and
// its _EXT): a context id, then length and state of each.
func (t *task) blockStatus() []byte {
	f := t.conn.format
	size := 4 + 8*len(t.extents)
	kind := replyBlockStatus
	if f.extended {
		size = 8 + 16*len(t.extents)
		kind = replyBlockStatusExt
	}
	b, p := f.chunk(make([]byte, 0, extendedReplySize+size), &t.command, kind, size, size, true)
	binary.BigEndian.PutUint32(p, allocationContextID)
	p = p[4:]
	if f.extended {
		binary.BigEndian.PutUint32(p, uint32(len(t.extents)))
		p = p[4:]
	}
	for _, e := range t.extents {
		state := uint32(0)
		if e.Hole {
			state = stateHole | stateZero
		}
		if f.extended {
			binary.BigEndian.PutUint64(p, uint64(e.Length))
			binary.BigEndian.PutUint64(p[8:], uint64(state))
			p = p[16:]
		} else {
			binary.BigEndian.PutUint32(p, uint32(e.Length))
			binary.BigEndian.PutUint32(p[4:], state)
			p = p[8:]
		}
	}
	return b
}
