package nbd

import (
	"encoding/binary"

	"github.com/opencurve/curve-nbd/gateway"
)

const (
	// arenaSize holds the headers, and the data of small reads, of one batch.
	arenaSize = 256 << 10
	// arenaRead is the largest read that is served straight into the arena,
	// right behind its reply header.
	arenaRead = 64 << 10
	// batchBytes is when a batch is sent though more requests are at hand: the
	// client should not wait longer for its first reply.
	batchBytes = 256 << 10
	// replyMargin is room for any reply header with an error message.
	replyMargin = 512
)

// format is what the client negotiated: how replies look.
type format struct {
	structured, extended bool
}

// readPrefix is the number of bytes before the data in a successful read reply.
func (f format) readPrefix() int {
	switch {
	case f.extended:
		return extendedReplySize + offsetDataPrefixSize
	case f.structured:
		return structuredReplySize + offsetDataPrefixSize
	default:
		return simpleReplySize
	}
}

// chunk appends the header of a reply chunk with length bytes of payload, and
// room for the first inline ones of them, which the caller writes. Only for
// structured and extended formats.
func (f format) chunk(dst []byte, c *command, kind uint16, length, inline int, last bool) (hdr, payload []byte) {
	flags := uint16(0)
	if last {
		flags = replyFlagDone
	}
	if f.extended {
		n := len(dst)
		dst = dst[:n+extendedReplySize+inline]
		putExtendedReply(dst[n:], flags, kind, c.Cookie, c.Offset, uint64(length))
		return dst, dst[n+extendedReplySize:]
	}
	n := len(dst)
	dst = dst[:n+structuredReplySize+inline]
	putStructuredReply(dst[n:], flags, kind, c.Cookie, uint32(length))
	return dst, dst[n+structuredReplySize:]
}

// readHeader appends what precedes the data of a successful read.
func (f format) readHeader(dst []byte, c *command) []byte {
	if !f.structured && !f.extended {
		dst = dst[:len(dst)+simpleReplySize]
		putSimpleReply(dst[len(dst)-simpleReplySize:], 0, c.Cookie)
		return dst
	}
	return f.dataHeader(dst, c, c.Offset, int(c.Length), true)
}

// dataHeader appends what precedes the data of a chunk of a read, of length
// bytes at offset.
func (f format) dataHeader(dst []byte, c *command, offset uint64, length int, last bool) []byte {
	dst, payload := f.chunk(dst, c, replyOffsetData, offsetDataPrefixSize+length, offsetDataPrefixSize, last)
	binary.BigEndian.PutUint64(payload, offset)
	return dst
}

// hole appends a chunk of a read that is nothing but unallocated space.
func (f format) hole(dst []byte, c *command, offset uint64, length int, last bool) []byte {
	dst, payload := f.chunk(dst, c, replyOffsetHole, offsetHoleSize, offsetHoleSize, last)
	binary.BigEndian.PutUint64(payload, offset)
	binary.BigEndian.PutUint32(payload[8:], uint32(length))
	return dst
}

// status appends the reply to a command without data in its reply, or the
// error reply to any command.
func (f format) status(dst []byte, c *command, err error) []byte {
	errno := errnoOf(c.Type, err)
	switch {
	case err != nil && (f.extended || (f.structured && (c.Type == cmdRead || c.Type == cmdBlockStatus))):
		text := cutString(err.Error(), replyMargin-extendedReplySize-6)
		dst, payload := f.chunk(dst, c, replyError, 6+len(text), 6+len(text), true)
		binary.BigEndian.PutUint32(payload, errno)
		binary.BigEndian.PutUint16(payload[4:], uint16(len(text)))
		copy(payload[6:], text)
		return dst
	case f.extended, f.structured && c.Type == cmdRead:
		dst, _ := f.chunk(dst, c, replyNone, 0, 0, true)
		return dst
	default:
		dst = dst[:len(dst)+simpleReplySize]
		putSimpleReply(dst[len(dst)-simpleReplySize:], errno, c.Cookie)
		return dst
	}
}

// batch is the replies that a connection's reader has made and not sent yet:
// runs of the arena and, between them, the buffers of large reads.
type batch struct {
	arena *gateway.Buffer
	// arena.Data[run:used] is not in vecs yet.
	run, used int
	vecs      [][]byte
	held      []*gateway.Buffer
	tasks     []*task
	bytes     int
}

func (b *batch) empty() bool { return b.bytes == 0 }

// room says whether n more bytes fit into the arena.
func (b *batch) room(n int) bool { return b.arena != nil && b.used+n <= len(b.arena.Data) }

// tail is the unused arena, as an empty slice to append to.
func (b *batch) tail() []byte { return b.arena.Data[b.used:b.used] }

// commit takes n bytes that were written to tail into the batch.
func (b *batch) commit(n int) {
	b.used += n
	b.bytes += n
}

// attach adds a header and a buffer's data after what was committed, and keeps
// the buffer until the batch is sent. It needs no arena: a request that holds a
// large buffer must not wait for another one.
func (b *batch) attach(buf *gateway.Buffer, header, data []byte) {
	b.closeRun()
	b.vecs = append(b.vecs, header, data)
	b.held = append(b.held, buf)
	b.bytes += len(header) + len(data)
}

// attachTask adds the reply of a complete task, and keeps the task until the
// batch is sent.
func (b *batch) attachTask(t *task) {
	b.closeRun()
	first := len(b.vecs)
	b.vecs = t.appendReply(b.vecs)
	for _, v := range b.vecs[first:] {
		b.bytes += len(v)
	}
	b.tasks = append(b.tasks, t)
}

func (b *batch) closeRun() {
	if b.used > b.run {
		b.vecs = append(b.vecs, b.arena.Data[b.run:b.used])
		b.run = b.used
	}
}

// reset gives the memory back.
func (b *batch) reset() {
	for i, buf := range b.held {
		buf.Release()
		b.held[i] = nil
	}
	for i, t := range b.tasks {
		t.release()
		b.tasks[i] = nil
	}
	clear(b.vecs)
	b.held, b.tasks, b.vecs = b.held[:0], b.tasks[:0], b.vecs[:0]
	if b.arena != nil {
		b.arena.Release()
		b.arena = nil
	}
	b.run, b.used, b.bytes = 0, 0, 0
}
