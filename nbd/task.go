package nbd

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// task is a command that could not be served inline. It owns its buffer from
// the moment it is made until its reply is sent.
type task struct {
	conn    *conn
	command command
	request volume.Request
	buffer  *gateway.Buffer
	began   time.Time
	// extents is the answer to BLOCK_STATUS.
	extents []backend.Extent
	header  [extendedReplySize + 16]byte
}

var tasks = sync.Pool{New: func() any { return new(task) }}

func (c *conn) newTask(cmd *command, buffer *gateway.Buffer) *task {
	t := tasks.Get().(*task)
	t.conn, t.command, t.buffer, t.began = c, *cmd, buffer, time.Now()
	c.writer.begin()
	return t
}

// RequestDone implements volume.Completer.
func (t *task) RequestDone(*volume.Request) { t.conn.writer.finish(t) }

// fail answers the task with an error without having served it.
func (t *task) fail(err error) {
	t.request.Err = err
	t.conn.writer.finish(t)
}

// appendReply appends what is to be written.
func (t *task) appendReply(vecs [][]byte) [][]byte {
	f, cmd, r := t.conn.format, &t.command, &t.request
	header := t.header[:0]
	switch {
	case r.Err != nil:
		return append(vecs, f.status(make([]byte, 0, replyMargin), cmd, r.Err))
	case cmd.Type == cmdBlockStatus:
		return append(vecs, t.blockStatus())
	case cmd.Type != cmdRead:
		return append(vecs, f.status(header, cmd, nil))
	case r.Hole && (f.structured || f.extended):
		return append(vecs, f.hole(header, cmd))
	default:
		return append(vecs, f.readHeader(header, cmd), r.Data)
	}
}

// release accounts for the task and gives everything back.
func (t *task) release() {
	h := t.conn.handle
	op := opOf(t.command.Type)
	var tally gateway.Tally
	tally.Add(op, int64(t.command.Length), t.request.Err)
	h.Count(&tally)
	h.Observe(op, time.Since(t.began))
	t.buffer.Release()
	t.request.Reset()
	t.conn, t.buffer, t.extents = nil, nil, nil
	tasks.Put(t)
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
	b, p := f.chunk(make([]byte, 0, extendedReplySize+size), &t.command, kind, size, size)
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
