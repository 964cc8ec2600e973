package nbd

import (
	"sync"
	"sync/atomic"
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
	// stage is where the task is between its Submit and its completion.
	stage atomic.Int32
	// extents is the answer to BLOCK_STATUS.
	extents []backend.Extent
	header  [extendedReplySize + 16]byte
}

var tasks = sync.Pool{New: func() any { return new(task) }}

func (c *conn) newTask(cmd *command, buffer *gateway.Buffer) *task {
	t := tasks.Get().(*task)
	t.conn, t.command, t.buffer, t.began = c, *cmd, buffer, c.served.arrived()
	t.stage.Store(taskSubmitting)
	c.writer.Begin()
	return t
}

// Stages of a task. Who comes second, the completion or the reader that returns
// from Submit, sees that by a failed exchange.
const (
	taskSubmitting int32 = iota
	taskAway             // the reader went on: the writer answers
	taskDone             // complete before Submit returned: the reader answers
)

// RequestDone implements volume.Completer.
func (t *task) RequestDone(*volume.Request) {
	if !t.stage.CompareAndSwap(taskSubmitting, taskDone) {
		t.conn.writer.Finish(t)
	}
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
		return append(vecs, f.hole(header, cmd, cmd.Offset, int(cmd.Length), true))
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
	ended := t.request.Ended
	if ended.IsZero() {
		ended = volume.Now()
	}
	h.Observe(op, ended.Sub(t.began))
	t.buffer.Release()
	t.request.Reset()
	t.conn, t.buffer, t.extents = nil, nil, nil
	tasks.Put(t)
}
