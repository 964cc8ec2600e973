package copyset

import (
	"errors"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// call is an operation that is waited for.
type call struct {
	backend.Op
	done chan struct{}
}

func (c *call) OpDone(*backend.Op) { close(c.done) }

func newCall(op backend.Op) *call {
	c := &call{Op: op, done: make(chan struct{})}
	c.Op.Done = c
	return c
}

func chunkRef(id backend.ChunkID) backend.ChunkRef {
	return backend.ChunkRef{ID: id, Copyset: 5, Size: testChunkSize}
}

// client numbers changes as package volume does.
type client struct {
	g       *rig
	epoch   backend.Epoch
	session backend.SessionID
	seq     uint64
}

func (g *rig) client(epoch backend.Epoch) *client {
	return &client{g: g, epoch: epoch, session: backend.SessionID(epoch)}
}

func (c *client) change(kind backend.OpKind, chunk backend.ChunkID, off int64, data []byte, length int64) backend.Op {
	c.seq++
	op := backend.Op{
		Kind: kind, Volume: testVolume, Epoch: c.epoch, Session: c.session, Seq: c.seq, Low: 1,
		Chunk: chunkRef(chunk), Off: off, Len: length, Data: data,
	}
	if c.seq >= backend.FenceWindow {
		op.Low = c.seq - backend.FenceWindow + 1
	}
	return op
}

// once sends op to a member and waits for the outcome.
func (c *client) once(m *member, op backend.Op) error {
	call := newCall(op)
	m.replica.Load().Submit(&call.Op)
	select {
	case <-call.done:
		return call.Err
	case <-time.After(testTimeout):
		c.g.t.Fatalf("%v never completed", op.Kind)
		return nil
	}
}

func retriable(err error) bool {
	return errors.Is(err, backend.ErrNotLeader) || errors.Is(err, backend.ErrOutcomeUnknown) || errors.Is(err, backend.ErrOverload)
}

// do sends op until it has an outcome, with the same number each time.
func (c *client) do(op backend.Op) error {
	c.g.t.Helper()
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(time.Millisecond) {
		err := c.once(c.g.leader(), op)
		if !retriable(err) || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *client) write(chunk backend.ChunkID, off int64, data []byte) {
	c.g.t.Helper()
	if err := c.do(c.change(backend.OpWrite, chunk, off, data, int64(len(data)))); err != nil {
		c.g.t.Fatalf("write: %v", err)
	}
}

func (c *client) readOp(chunk backend.ChunkID, off int64, p []byte) backend.Op {
	return backend.Op{Kind: backend.OpRead, Volume: testVolume, Epoch: c.epoch, Chunk: chunkRef(chunk), Off: off, Len: int64(len(p)), Data: p}
}

func (c *client) read(chunk backend.ChunkID, off, length int64) []byte {
	c.g.t.Helper()
	p := make([]byte, length)
	if err := c.do(c.readOp(chunk, off, p)); err != nil {
		c.g.t.Fatalf("read: %v", err)
	}
	return p
}

func (c *client) want(chunk backend.ChunkID, off int64, data []byte) {
	c.g.t.Helper()
	got := c.read(chunk, off, int64(len(data)))
	for i := range got {
		if got[i] != data[i] {
			c.g.t.Fatalf("chunk %d: byte %d is %#x, expected %#x", chunk, off+int64(i), got[i], data[i])
		}
	}
}

// pattern is content that tells where it belongs.
func pattern(seed byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = seed + byte(i/512)*7
		if p[i] == 0 {
			p[i] = 1
		}
	}
	return p
}
