package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/stream"
)

const (
	// bufferedWrite is the largest write whose payload is served from the read
	// buffer; a larger one goes into a buffer of its own without passing there.
	bufferedWrite = 16 << 10
)

// errDisconnect: the client said goodbye.
var errDisconnect = errors.New("client disconnected")

// transmit serves commands until the client leaves or Shutdown says stop.
//
// Everything that is there is served before the replies go out together, and
// nothing is held back while the reader waits for anything.
func (c *conn) transmit() error {
	for {
		if err := c.fence(); err != nil {
			return err
		}
		served, err := c.serveBuffered()
		if err == nil && served > 1 {
			// A client with a pipeline has probably sent more meanwhile: one
			// larger batch is cheaper, for both sides, than two.
			if err = c.in.More(); err == nil {
				continue
			}
			if err == stream.ErrNothingYet || c.handing.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
		}
		if sendErr := c.send(); err == nil {
			err = sendErr
		}
		c.in.NoteBatch(served, c.writer.Busy())
		if err == nil && c.mayHandOver() {
			return errHandedOver
		}
		if err == nil {
			err = c.in.Fill(len(c.in.Bytes()) > 0)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && c.mayHandOver():
			return errHandedOver
		case err == errDisconnect, c.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return err
		}
	}
}

// serveBuffered serves the complete commands in the read buffer.
func (c *conn) serveBuffered() (served int, err error) {
	c.served.nextRead()
	for {
		cmd, complete, err := c.next()
		if err != nil || !complete {
			return served, err
		}
		if err := c.serve(&cmd); err != nil {
			return served, err
		}
		served++
	}
}

// next decodes the next command and takes its header off the input. It is not
// complete while its header, or the payload of a small write, is still under
// way; then nothing is taken.
func (c *conn) next() (cmd command, complete bool, err error) {
	b := c.in.Bytes()
	size, ok := requestSize, false
	if c.format.extended {
		size = extendedRequestSize
	}
	if len(b) < size {
		return cmd, false, nil
	}
	if c.format.extended {
		cmd, ok = decodeExtendedRequest(b)
	} else {
		cmd, ok = decodeRequest(b)
	}
	if !ok {
		return cmd, false, fmt.Errorf("request magic %#x", binary.BigEndian.Uint32(b))
	}
	if cmd.Payload && cmd.Length <= bufferedWrite && len(b) < size+int(cmd.Length) {
		return cmd, false, nil
	}
	c.in.Skip(size)
	return cmd, true, nil
}

// serve answers one command, or starts it. The error ends the connection.
func (c *conn) serve(cmd *command) error {
	if cmd.Type == cmdDisconnect {
		return errDisconnect
	}
	c.served.begin()
	if err := c.validate(cmd); err != nil {
		return c.refuse(cmd, err)
	}
	switch cmd.Type {
	case cmdRead:
		return c.read(cmd)
	case cmdWrite:
		return c.write(cmd)
	case cmdBlockStatus:
		return c.status(cmd)
	case cmdCache:
		return c.cache(cmd)
	default:
		return c.change(cmd)
	}
}

// refuse answers with an error and drops the payload that follows.
func (c *conn) refuse(cmd *command, err error) error {
	if cmd.Payload {
		if cmd.Length > maxDrain {
			return fmt.Errorf("%w, and too much to skip", err)
		}
		if cmd.Length > uint64(len(c.in.Bytes())) {
			if err := c.send(); err != nil {
				return err
			}
		}
		if err := c.in.Discard(int64(cmd.Length)); err != nil {
			return err
		}
	}
	return c.answer(cmd, err)
}

// prepareInline sets the reader's own request up for cmd.
func (c *conn) prepareInline(cmd *command, data []byte) {
	r := &c.inline
	r.Reset()
	r.Op, r.Flags = opOf(cmd.Type), flagsOf(cmd.Flags)
	r.Off, r.Len, r.Data = cmd.offset(), cmd.length(), data
}

// submit sends cmd through the volume's queues. Its reply comes from the
// writer, or joins the batch if it is complete at once. The reader's inline
// request must have been prepared for it.
func (c *conn) submit(cmd *command, buffer *gateway.Buffer, data []byte) error {
	t := c.newTask(cmd, buffer)
	r := &t.request
	r.Op, r.Flags, r.Off, r.Len, r.Data = c.inline.Op, c.inline.Flags, c.inline.Off, c.inline.Len, data
	r.Paid(&c.inline)
	r.Arrived = t.began
	r.Done = t
	c.handle.Submit(r)
	if t.stage.CompareAndSwap(taskSubmitting, taskAway) {
		return nil
	}
	c.writer.Drop()
	c.batch.attachTask(t)
	return c.sendIfFull()
}

// buffer lends room for n bytes. While it has to wait, no reply is held back.
// It fails once the client is gone: what was asked is not worth doing any more.
func (c *conn) buffer(n int64) (*gateway.Buffer, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	if b := c.handle.TryBuffer(n); b != nil {
		return b, nil
	}
	if err := c.send(); err != nil {
		return nil, err
	}
	return c.handle.Buffer(c.ctx, n)
}

// arena makes sure that the batch has room for n more bytes of replies.
func (c *conn) arena(n int) error {
	if c.batch.room(n) {
		return nil
	}
	if !c.batch.empty() {
		if err := c.send(); err != nil {
			return err
		}
	}
	b, err := c.handle.Buffer(c.ctx, arenaSize)
	c.batch.arena = b
	return err
}

// answer adds the reply of a command without data to the batch.
func (c *conn) answer(cmd *command, err error) error {
	if err := c.arena(replyMargin); err != nil {
		return err
	}
	c.batch.commit(len(c.format.status(c.batch.tail(), cmd, err)))
	c.served.add(opOf(cmd.Type), cmd.length(), err)
	return nil
}

// read serves a read inline, straight into the batch or into a buffer that
// joins it, or submits it.
func (c *conn) read(cmd *command) error {
	n := int(cmd.Length)
	switch {
	case n > gateway.MaxBuffer:
		return c.readPieces(cmd)
	case n > arenaRead:
		return c.readLarge(cmd)
	}
	prefix := c.format.readPrefix()
	if err := c.arena(prefix + max(n, replyMargin)); err != nil {
		return err
	}
	tail := c.batch.tail()
	c.prepareInline(cmd, tail[prefix:prefix+n])
	if !c.handle.Try(&c.inline) {
		buf, err := c.buffer(int64(n))
		if err != nil {
			return err
		}
		return c.submit(cmd, buf, buf.Data[:n])
	}
	switch {
	case c.inline.Err != nil || n == 0:
		return c.answer(cmd, c.inline.Err)
	case c.inline.Hole && prefix > simpleReplySize:
		c.batch.commit(len(c.format.hole(tail, cmd, cmd.Offset, n, true)))
	default:
		c.format.readHeader(tail, cmd)
		c.batch.commit(prefix + n)
	}
	c.served.add(backend.OpRead, int64(n), nil)
	return c.sendIfFull()
}

func (c *conn) readLarge(cmd *command) error {
	n := int(cmd.Length)
	buf, err := c.buffer(int64(n))
	if err != nil {
		return err
	}
	c.prepareInline(cmd, buf.Data[:n])
	if !c.handle.Try(&c.inline) {
		return c.submit(cmd, buf, buf.Data[:n])
	}
	if c.inline.Err != nil {
		buf.Release()
		return c.answer(cmd, c.inline.Err)
	}
	if c.inline.Hole && (c.format.structured || c.format.extended) {
		c.batch.attach(buf, c.format.hole(buf.Head[:0], cmd, cmd.Offset, n, true), nil)
	} else {
		c.batch.attach(buf, c.format.readHeader(buf.Head[:0], cmd), buf.Data[:n])
	}
	c.served.add(backend.OpRead, int64(n), nil)
	return c.sendIfFull()
}

// write serves a small write from the read buffer, or brings the payload into a
// buffer first; then inline or submitted.
func (c *conn) write(cmd *command) error {
	n := int(cmd.Length)
	c.in.Bulk = n > bufferedWrite
	switch {
	case n > gateway.MaxBuffer:
		return c.writePieces(cmd)
	case c.in.Bulk:
		return c.writeLarge(cmd)
	}
	payload := c.in.Bytes()[:n]
	c.prepareInline(cmd, payload)
	if c.handle.Try(&c.inline) {
		c.in.Skip(n)
		return c.answer(cmd, c.inline.Err)
	}
	buf, err := c.buffer(int64(n))
	if err != nil {
		return err
	}
	copy(buf.Data, payload)
	c.in.Skip(n)
	return c.submit(cmd, buf, buf.Data[:n])
}

func (c *conn) writeLarge(cmd *command) error {
	n := int(cmd.Length)
	buf, err := c.buffer(int64(n))
	if err != nil {
		return err
	}
	if n > len(c.in.Bytes()) {
		err = c.send()
	}
	if err == nil {
		err = c.in.ReadFull(buf.Data[:n])
	}
	if err != nil {
		buf.Release()
		return err
	}
	c.prepareInline(cmd, buf.Data[:n])
	// When the client has sent more already, the store copies this payload while
	// we fetch the next.
	pipelined := len(c.in.Bytes()) > 0 || c.in.More() == nil
	if pipelined || !c.handle.Try(&c.inline) {
		return c.submit(cmd, buf, buf.Data[:n])
	}
	buf.Release()
	return c.answer(cmd, c.inline.Err)
}

// change serves flush, trim and write zeroes.
func (c *conn) change(cmd *command) error {
	c.prepareInline(cmd, nil)
	if c.handle.Try(&c.inline) {
		return c.answer(cmd, c.inline.Err)
	}
	buf, err := c.buffer(0)
	if err != nil {
		return err
	}
	return c.submit(cmd, buf, nil)
}

// sendIfFull keeps the client from waiting for its first reply until the last
// one of a long batch is ready.
func (c *conn) sendIfFull() error {
	if c.batch.bytes < batchBytes {
		return nil
	}
	return c.send()
}

// send writes the batch and gives its memory back.
func (c *conn) send() error {
	var err error
	if !c.batch.empty() {
		c.batch.closeRun()
		err = c.out.Write(c.batch.vecs)
	}
	c.batch.reset()
	c.served.report(c.handle)
	return err
}
