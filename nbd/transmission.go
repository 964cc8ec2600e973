package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
)

const (
	// bufferedWrite is the largest write whose payload is served from the read
	// buffer; a larger one goes into a buffer of its own without passing there.
	bufferedWrite = 16 << 10
	// maxExtents bounds one BLOCK_STATUS reply.
	maxExtents = 4096
	// cacheBytes bounds what one CACHE command reads ahead.
	cacheBytes = 32 << 20
)

// errDisconnect: the client said goodbye.
var errDisconnect = errors.New("client disconnected")

// transmit serves commands until the client leaves or Shutdown says stop.
//
// Everything that one read brought is served before the replies go out
// together, and nothing is held back while the reader waits for anything.
func (c *conn) transmit() error {
	for {
		for {
			cmd, complete, err := c.next()
			if err != nil {
				_ = c.send()
				return err
			}
			if !complete {
				break
			}
			if err := c.serve(&cmd); err != nil {
				_ = c.send()
				if err == errDisconnect {
					return nil
				}
				return err
			}
		}
		if err := c.send(); err != nil {
			return err
		}
		err := c.in.fill(len(c.in.bytes()) > 0)
		if err != nil {
			if c.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
}

// next decodes the next command and takes its header off the input. It is not
// complete while its header, or the payload of a small write, is still under
// way; then nothing is taken.
func (c *conn) next() (cmd command, complete bool, err error) {
	b := c.in.bytes()
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
	c.in.skip(size)
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

// allowedFlags of each command, besides FUA, which is harmless everywhere.
var allowedFlags = [...]uint16{
	cmdRead:        cmdFlagDF,
	cmdWrite:       0,
	cmdFlush:       0,
	cmdTrim:        0,
	cmdCache:       0,
	cmdDisconnect:  0,
	cmdWriteZeroes: cmdFlagNoHole | cmdFlagFastZero,
	cmdBlockStatus: cmdFlagReqOne,
}

// validate holds a command against what was negotiated. What depends on the
// volume (bounds, alignment) the volume checks.
func (c *conn) validate(cmd *command) error {
	if int(cmd.Type) >= len(allowedFlags) {
		return &wireError{errnoInval, fmt.Sprintf("unknown command %d", cmd.Type)}
	}
	allowed := allowedFlags[cmd.Type] | cmdFlagFUA
	if c.format.extended && (cmd.Type == cmdWrite || cmd.Type == cmdBlockStatus) {
		allowed |= cmdFlagPayloadLen
	}
	if !c.format.structured && !c.format.extended {
		allowed &^= cmdFlagDF
	}
	switch {
	case cmd.Flags&^allowed != 0:
		return &wireError{errnoInval, fmt.Sprintf("flags %#x not allowed on command %d", cmd.Flags&^allowed, cmd.Type)}
	case cmd.Type == cmdWrite && !cmd.Payload:
		return &wireError{errnoInval, "write without the payload flag"}
	case cmd.Type == cmdFlush && (cmd.Offset != 0 || cmd.Length != 0):
		return &wireError{errnoInval, "flush takes neither offset nor length"}
	case cmd.Type == cmdBlockStatus && !c.blockStatus:
		return &wireError{errnoInval, "block status without a negotiated meta context"}
	case cmd.Type == cmdBlockStatus && !cmd.Payload && cmd.Length == 0:
		return &wireError{errnoInval, "block status of no bytes"}
	case cmd.Type == cmdRead && cmd.Length > maxPayload:
		return &wireError{c.tooLong(), fmt.Sprintf("read of %d bytes: at most %d", cmd.Length, maxPayload)}
	case cmd.Payload && cmd.Length > maxPayload:
		return &wireError{errnoInval, fmt.Sprintf("payload of %d bytes: at most %d", cmd.Length, maxPayload)}
	}
	return nil
}

// tooLong is the error for a read past the maximum: EOVERFLOW is for those who
// negotiated what knows it.
func (c *conn) tooLong() uint32 {
	if c.format.structured || c.format.extended {
		return errnoOverflow
	}
	return errnoInval
}

// refuse answers with an error and drops the payload that follows.
func (c *conn) refuse(cmd *command, err error) error {
	if cmd.Payload {
		if cmd.Length > maxDrain {
			return fmt.Errorf("%w, and too much to skip", err)
		}
		if cmd.Length > uint64(len(c.in.bytes())) {
			if err := c.send(); err != nil {
				return err
			}
		}
		if err := c.in.discard(int64(cmd.Length)); err != nil {
			return err
		}
	}
	return c.answer(cmd, err)
}

// offset is the command's as the volume counts; past the end of anything when
// it does not fit.
func (cmd *command) offset() int64 {
	if cmd.Offset > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(cmd.Offset)
}

func (cmd *command) length() int64 {
	if cmd.Length > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(cmd.Length)
}

// opOf is what a command is to the volume.
func opOf(command uint16) backend.OpKind {
	switch command {
	case cmdRead, cmdCache:
		return backend.OpRead
	case cmdWrite:
		return backend.OpWrite
	case cmdWriteZeroes:
		return backend.OpZero
	case cmdTrim:
		return backend.OpTrim
	case cmdFlush:
		return backend.OpFlush
	default:
		return 0
	}
}

func flagsOf(flags uint16) (f backend.Flags) {
	if flags&cmdFlagFUA != 0 {
		f |= backend.FlagFUA
	}
	if flags&cmdFlagNoHole != 0 {
		f |= backend.FlagNoHole
	}
	if flags&cmdFlagFastZero != 0 {
		f |= backend.FlagFastZero
	}
	return f
}

// prepareInline sets the reader's own request up for cmd.
func (c *conn) prepareInline(cmd *command, data []byte) {
	r := &c.inline
	r.Reset()
	r.Op, r.Flags = opOf(cmd.Type), flagsOf(cmd.Flags)
	r.Off, r.Len, r.Data = cmd.offset(), cmd.length(), data
}

// submit sends cmd through the volume's queues; its reply comes from the
// writer. Inline must have been prepared for it.
func (c *conn) submit(cmd *command, buffer *gateway.Buffer, data []byte) {
	t := c.newTask(cmd, buffer)
	r := &t.request
	r.Op, r.Flags, r.Off, r.Len, r.Data = c.inline.Op, c.inline.Flags, c.inline.Off, c.inline.Len, data
	r.Paid(&c.inline)
	r.Done = t
	c.handle.Submit(r)
}

// buffer lends room for n bytes. While it has to wait, no reply is held back.
func (c *conn) buffer(n int64) (*gateway.Buffer, error) {
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
	if err := c.send(); err != nil {
		return err
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
	if n > arenaRead {
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
		if err == nil {
			c.submit(cmd, buf, buf.Data[:n])
		}
		return err
	}
	switch {
	case c.inline.Err != nil || n == 0:
		return c.answer(cmd, c.inline.Err)
	case c.inline.Hole && prefix > simpleReplySize:
		c.batch.commit(len(c.format.hole(tail, cmd)))
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
		c.submit(cmd, buf, buf.Data[:n])
		return nil
	}
	if c.inline.Err != nil {
		buf.Release()
		return c.answer(cmd, c.inline.Err)
	}
	if c.inline.Hole && (c.format.structured || c.format.extended) {
		c.batch.attach(buf, c.format.hole(buf.Head[:0], cmd), nil)
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
	if n > bufferedWrite {
		return c.writeLarge(cmd)
	}
	payload := c.in.bytes()[:n]
	c.prepareInline(cmd, payload)
	if c.handle.Try(&c.inline) {
		c.in.skip(n)
		return c.answer(cmd, c.inline.Err)
	}
	buf, err := c.buffer(int64(n))
	if err != nil {
		return err
	}
	copy(buf.Data, payload)
	c.in.skip(n)
	c.submit(cmd, buf, buf.Data[:n])
	return nil
}

func (c *conn) writeLarge(cmd *command) error {
	n := int(cmd.Length)
	buf, err := c.buffer(int64(n))
	if err != nil {
		return err
	}
	if n > len(c.in.bytes()) {
		err = c.send()
	}
	if err == nil {
		err = c.in.readFull(buf.Data[:n])
	}
	if err != nil {
		buf.Release()
		return err
	}
	c.prepareInline(cmd, buf.Data[:n])
	if !c.handle.Try(&c.inline) {
		c.submit(cmd, buf, buf.Data[:n])
		return nil
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
	if err == nil {
		c.submit(cmd, buf, nil)
	}
	return err
}

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
		c.writer.finish(t)
	}()
	return nil
}

// statusFilter reads the payload form of BLOCK_STATUS (extension-ext-header):
// the effect length, then the context ids that the client wants answered.
func (c *conn) statusFilter(cmd *command) error {
	if cmd.Length < 12 || cmd.Length%4 != 0 || cmd.Length > bufferedWrite {
		n := int64(cmd.Length)
		if err := c.in.discard(n); err != nil {
			return err
		}
		return &wireError{errnoInval, fmt.Sprintf("block status payload of %d bytes", n)}
	}
	payload := c.in.bytes()[:cmd.Length]
	c.in.skip(len(payload))
	cmd.Length = binary.BigEndian.Uint64(payload)
	if len(payload) != 12 || binary.BigEndian.Uint32(payload[8:]) != allocationContextID {
		return &wireError{errnoInval, "block status for a context that was not negotiated"}
	}
	if cmd.Length == 0 {
		return &wireError{errnoInval, "block status of no bytes"}
	}
	return nil
}

// cache reads the range ahead and drops it: what the backend cached on the way
// is the gain. At most cacheBytes, since the command is a hint.
func (c *conn) cache(cmd *command) error {
	if cmd.Length == 0 {
		return c.answer(cmd, nil)
	}
	n := min(cmd.length(), cacheBytes)
	buf, err := c.buffer(n)
	if err != nil {
		return err
	}
	if size := c.handle.Info().Size; cmd.offset() > size || cmd.length() > size-cmd.offset() {
		buf.Release()
		return c.answer(cmd, &wireError{errnoInval, "cache past the end of the volume"})
	}
	c.prepareInline(cmd, nil)
	c.inline.Len = n
	c.submit(cmd, buf, buf.Data[:n])
	return nil
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
		err = c.out.write(c.batch.vecs)
	}
	c.batch.reset()
	c.served.report(c.handle)
	return err
}

// tallies is what the reader served inline since its last report.
type tallies struct {
	tally gateway.Tally
	began time.Time
	count [int(backend.OpFlush) + 1]int
}

// begin notes when the first request of a batch came.
func (s *tallies) begin() {
	if s.began.IsZero() {
		s.began = time.Now()
	}
}

func (s *tallies) add(op backend.OpKind, bytes int64, err error) {
	s.count[op]++
	s.tally.Add(op, bytes, err)
}

// report hands the counts over. The latency of a request in a batch is the
// batch's: that is how long its reply took.
func (s *tallies) report(h *gateway.Handle) {
	if s.began.IsZero() {
		return
	}
	latency := time.Since(s.began)
	for op, n := range s.count {
		for range n {
			h.Observe(backend.OpKind(op), latency)
		}
	}
	h.Count(&s.tally)
	s.began, s.count = time.Time{}, [len(s.count)]int{}
}
