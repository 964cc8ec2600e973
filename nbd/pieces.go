package nbd

import (
	"context"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// Requests larger than gateway.MaxBuffer are served here, by the reader, a piece
// after the other through one buffer: a client that stops half-way through a
// request of 32 MiB then holds 1 MiB. The price is that such a request is not
// overlapped with others of its connection, which few clients send.

// cacheBytes bounds what one CACHE command reads ahead.
const cacheBytes = 32 << 20

// arrived is a volume.Completer to wait for.
type arrived chan struct{}

// RequestDone implements volume.Completer.
func (a arrived) RequestDone(*volume.Request) { a <- struct{}{} }

// await runs r to its end.
func await(h *gateway.Handle, r *volume.Request) error {
	if h.Try(r) {
		return r.Err
	}
	done := make(arrived, 1)
	r.Done = done
	h.Submit(r)
	<-done
	return r.Err
}

// piece runs the part of cmd that begins at from and fits data.
func (c *conn) piece(cmd *command, from int64, data []byte) error {
	c.prepareInline(cmd, data)
	c.inline.Off, c.inline.Len = cmd.offset()+from, int64(len(data))
	return await(c.handle, &c.inline)
}

// checkWhole refuses what the volume would refuse, before a piece of it is
// done.
func (c *conn) checkWhole(cmd *command) error {
	c.prepareInline(cmd, nil)
	return c.handle.Check(&c.inline)
}

func (c *conn) writePieces(cmd *command) error {
	if err := c.checkWhole(cmd); err != nil {
		return c.refuse(cmd, err)
	}
	if err := c.send(); err != nil {
		return err
	}
	buf, err := c.buffer(gateway.MaxBuffer)
	if err != nil {
		return err
	}
	var failed error
	for from, n := int64(0), cmd.length(); from < n; from += gateway.MaxBuffer {
		data := buf.Data[:min(n-from, gateway.MaxBuffer)]
		if err := c.in.ReadFull(data); err != nil {
			buf.Release()
			return err
		}
		if failed == nil { // else the payload is only skipped
			failed = c.piece(cmd, from, data)
		}
	}
	buf.Release()
	return c.answer(cmd, failed)
}

// readPieces answers a large read: with a chunk per piece where the client takes
// chunks and did not ask for one only; else with one header, after which an
// error can only be told by hanging up.
func (c *conn) readPieces(cmd *command) error {
	if err := c.checkWhole(cmd); err != nil {
		return c.answer(cmd, err)
	}
	if err := c.send(); err != nil {
		return err
	}
	buf, err := c.buffer(gateway.MaxBuffer)
	if err != nil {
		return err
	}
	defer buf.Release()
	if (c.format.structured || c.format.extended) && cmd.Flags&cmdFlagDF == 0 {
		err = c.readChunks(cmd, buf)
	} else {
		err = c.readWhole(cmd, buf)
	}
	c.served.add(backend.OpRead, cmd.length(), err)
	return err
}

func (c *conn) readChunks(cmd *command, buf *gateway.Buffer) error {
	for from, n := int64(0), cmd.length(); from < n; from += gateway.MaxBuffer {
		data := buf.Data[:min(n-from, gateway.MaxBuffer)]
		if err := c.piece(cmd, from, data); err != nil {
			return c.out.Write([][]byte{c.format.status(make([]byte, 0, replyMargin), cmd, err)})
		}
		last := from+int64(len(data)) == n
		offset := cmd.Offset + uint64(from)
		vecs := [][]byte{nil, data}
		if c.inline.Hole {
			vecs = [][]byte{c.format.hole(buf.Head[:0], cmd, offset, len(data), last)}
		} else {
			vecs[0] = c.format.dataHeader(buf.Head[:0], cmd, offset, len(data), last)
		}
		if err := c.out.Write(vecs); err != nil {
			return err
		}
	}
	return nil
}

// readWhole answers with one chunk, or a simple reply.
func (c *conn) readWhole(cmd *command, buf *gateway.Buffer) error {
	if c.format.structured || c.format.extended {
		n := cmd.length()
		extents, err := c.handle.Extents(c.ctx, cmd.offset(), n, 1, nil)
		if err == nil && extents[0] == (backend.Extent{Length: n, Hole: true}) {
			return c.out.Write([][]byte{c.format.hole(buf.Head[:0], cmd, cmd.Offset, int(n), true)})
		}
	}
	return c.readStream(cmd, buf)
}

// readStream holds the output from the header to the last byte, since nothing
// may come in between.
func (c *conn) readStream(cmd *command, buf *gateway.Buffer) error {
	c.out.Lock()
	defer c.out.Unlock()
	for from, n := int64(0), cmd.length(); from < n; from += gateway.MaxBuffer {
		data := buf.Data[:min(n-from, gateway.MaxBuffer)]
		err := c.piece(cmd, from, data)
		switch {
		case err != nil && from == 0:
			return c.out.WriteLocked([][]byte{c.format.status(make([]byte, 0, replyMargin), cmd, err)})
		case err != nil:
			return err
		case from == 0:
			err = c.out.WriteLocked([][]byte{c.format.readHeader(buf.Head[:0], cmd), data})
		default:
			err = c.out.WriteLocked([][]byte{data})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cache reads the range ahead and drops it: what the backend cached on the way
// is the gain. At most cacheBytes, since the command is a hint.
func (c *conn) cache(cmd *command) error {
	if err := c.checkWhole(cmd); err != nil || cmd.Length == 0 {
		return c.answer(cmd, err)
	}
	n := min(cmd.length(), cacheBytes)
	buf, err := c.buffer(min(n, gateway.MaxBuffer))
	if err != nil {
		return err
	}
	t := c.newTask(cmd, buf)
	go func() {
		var r volume.Request
		var err error
		for from := int64(0); from < n && err == nil && context.Cause(c.ctx) == nil; from += gateway.MaxBuffer {
			r.Reset()
			r.Op, r.Off, r.Len = backend.OpRead, t.command.offset()+from, min(n-from, gateway.MaxBuffer)
			r.Data = buf.Data[:r.Len]
			err = await(c.handle, &r)
		}
		t.request.Err = err
		c.writer.Finish(t)
	}()
	return nil
}
