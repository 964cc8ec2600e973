package client

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// ReplyHeader is a reply, or one chunk of it, as it stands on the wire.
type ReplyHeader struct {
	Magic       uint32
	Flags, Type uint16 // of chunks
	Errno       Errno  // of simple replies
	Cookie      uint64
	Offset      uint64 // of extended replies
	Length      uint64 // of the payload; a simple reply does not say
}

// Done says whether the reply ends with this message.
func (h ReplyHeader) Done() bool { return h.Magic == MagicSimpleReply || h.Flags&ChunkDone != 0 }

// readReplyHeader reads a header of whatever kind:
//
//	0        4       6      8        16       24
//	| magic  | error        | cookie |                   simple
//	| magic  | flags | type | cookie | length(4) |       structured
//	| magic  | flags | type | cookie | offset | length   extended
func readReplyHeader(r io.Reader, b *[extendedReplySize]byte) (h ReplyHeader, err error) {
	if _, err := io.ReadFull(r, b[:simpleReplySize]); err != nil {
		return h, err
	}
	h.Magic = binary.BigEndian.Uint32(b[:])
	h.Cookie = binary.BigEndian.Uint64(b[8:])
	size := simpleReplySize
	switch h.Magic {
	case MagicSimpleReply:
		h.Errno = Errno(binary.BigEndian.Uint32(b[4:]))
		return h, nil
	case MagicStructuredReply:
		size = structuredReplySize
	case MagicExtendedReply:
		size = extendedReplySize
	default:
		return h, broken("reply starts with %#x, which no reply does", h.Magic)
	}
	if _, err := io.ReadFull(r, b[simpleReplySize:size]); err != nil {
		return h, unexpected(err)
	}
	h.Flags = binary.BigEndian.Uint16(b[4:])
	h.Type = binary.BigEndian.Uint16(b[6:])
	if h.Magic == MagicStructuredReply {
		h.Length = uint64(binary.BigEndian.Uint32(b[16:]))
	} else {
		h.Offset = binary.BigEndian.Uint64(b[16:])
		h.Length = binary.BigEndian.Uint64(b[24:])
	}
	return h, nil
}

// replies reads replies and holds them against the requests they answer.
type replies struct {
	r        *bufio.Reader
	style    ReplyStyle
	contexts []MetaContext // that were negotiated
	header   [extendedReplySize]byte
	scratch  []byte
}

// next reads one message and returns the request it belongs to, and whether
// that is answered now. find returns the request in flight with a cookie, or
// nil. An error ends the connection; one inside a message is never io.EOF.
func (in *replies) next(find func(cookie uint64) *Request) (r *Request, answered bool, err error) {
	h, err := readReplyHeader(in.r, &in.header)
	if err != nil {
		return nil, false, err
	}
	if r = find(h.Cookie); r == nil {
		return nil, false, broken("reply with cookie %#x, but no such request is in flight", h.Cookie)
	}
	if err := in.style.check(h, r); err != nil {
		return r, false, err
	}
	if r.Trace {
		r.Chunks = append(r.Chunks, Chunk{Magic: h.Magic, Flags: h.Flags, Type: h.Type, Errno: h.Errno})
	}
	if h.Magic == MagicSimpleReply {
		err = in.simple(h, r)
	} else {
		err = in.chunk(h, r)
	}
	if err == nil && h.Done() {
		err = in.complete(r)
	}
	return r, h.Done(), unexpected(err)
}

// check says whether a header of this kind may answer r at all.
func (s ReplyStyle) check(h ReplyHeader, r *Request) error {
	ok := false
	switch s {
	case SimpleReplies:
		ok = h.Magic == MagicSimpleReply
	case StructuredReplies:
		// Without a payload, a simple reply will do.
		ok = h.Magic == MagicStructuredReply || h.Magic == MagicSimpleReply && r.Command != CmdRead &&
			(r.Command != CmdBlockStatus || h.Errno != 0)
	case ExtendedHeaders:
		ok = h.Magic == MagicExtendedReply
	}
	if !ok {
		return broken("%v answered with magic %#x, although %v replies were agreed on", r.Command, h.Magic, s)
	}
	if s == ExtendedHeaders && h.Offset != r.Offset {
		return broken("extended reply to the %v at %d says offset %d", r.Command, r.Offset, h.Offset)
	}
	return nil
}

// errNoRoom: a read that was to be refused was served.
var errNoRoom = errors.New("data came for a read that has no room for it")

func (in *replies) simple(h ReplyHeader, r *Request) error {
	if h.Errno != 0 {
		r.fail(h.Errno, "")
		return nil
	}
	if r.Command != CmdRead || r.Length == 0 {
		return nil
	}
	if uint64(len(r.Data)) != r.Length {
		return errNoRoom
	}
	if _, err := io.ReadFull(in.r, r.Data); err != nil {
		return err
	}
	return r.cover.add(0, uint64(len(r.Data)))
}

func (in *replies) chunk(h ReplyHeader, r *Request) error {
	switch {
	case h.Type&ChunkErrorBit != 0:
		return in.errorChunk(h, r)
	case h.Type == ChunkNone:
		if h.Length != 0 || !h.Done() {
			return broken("NONE chunk of %d bytes with flags %#x, want 0 bytes and DONE", h.Length, h.Flags)
		}
		return nil
	case h.Type == ChunkOffsetData && r.Command == CmdRead:
		return in.dataChunk(h, r)
	case h.Type == ChunkOffsetHole && r.Command == CmdRead:
		return in.holeChunk(h, r)
	case h.Type == ChunkBlockStatus && r.Command == CmdBlockStatus && in.style == StructuredReplies,
		h.Type == ChunkBlockStatusExt && r.Command == CmdBlockStatus && in.style == ExtendedHeaders:
		return in.statusChunk(h, r)
	}
	return broken("chunk of type %d in the reply to a %v", h.Type, r.Command)
}

// read returns n bytes of payload, valid until the next call. n is bounded by
// the caller.
func (in *replies) read(n int) ([]byte, error) {
	in.scratch = slices.Grow(in.scratch[:0], n)[:n]
	_, err := io.ReadFull(in.r, in.scratch)
	return in.scratch, err
}

// place finds the part of r.Data that a content chunk covers.
func (in *replies) place(r *Request, offset, length uint64) ([]byte, error) {
	if r.contents++; r.contents > 1 && r.Flags&FlagDF != 0 {
		return nil, broken("second content chunk in the reply to a read with DF")
	}
	if offset < r.Offset || length > r.Length || offset-r.Offset > r.Length-length {
		return nil, broken("content chunk of %d bytes at %d in the reply to a read of %d at %d", length, offset, r.Length, r.Offset)
	}
	if uint64(len(r.Data)) != r.Length {
		return nil, errNoRoom
	}
	from := offset - r.Offset
	if r.Trace {
		c := &r.Chunks[len(r.Chunks)-1]
		c.Offset, c.Length = offset, length
	}
	return r.Data[from : from+length], r.cover.add(from, from+length)
}

// dataChunk: offset, data.
func (in *replies) dataChunk(h ReplyHeader, r *Request) error {
	if h.Length < 9 {
		return broken("OFFSET_DATA chunk of %d bytes, want at least 9", h.Length)
	}
	b, err := in.read(8)
	if err != nil {
		return err
	}
	room, err := in.place(r, binary.BigEndian.Uint64(b), h.Length-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(in.r, room)
	return err
}

// holeChunk: offset, length of the hole.
func (in *replies) holeChunk(h ReplyHeader, r *Request) error {
	if h.Length != 12 {
		return broken("OFFSET_HOLE chunk of %d bytes, want 12", h.Length)
	}
	b, err := in.read(12)
	if err != nil {
		return err
	}
	length := uint64(binary.BigEndian.Uint32(b[8:]))
	if length == 0 {
		return broken("OFFSET_HOLE chunk for a hole without length")
	}
	room, err := in.place(r, binary.BigEndian.Uint64(b), length)
	if err == nil {
		clear(room)
	}
	return err
}

// errorChunk: number, length of the message, message, more for some types.
func (in *replies) errorChunk(h ReplyHeader, r *Request) error {
	if h.Length < 6 || h.Length > maxErrorChunk {
		return broken("error chunk of %d bytes, want 6 to %d", h.Length, maxErrorChunk)
	}
	b, err := in.read(int(h.Length))
	if err != nil {
		return err
	}
	errno, length, rest := Errno(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint16(b[4:])), b[6:]
	switch {
	case errno == 0:
		return broken("error chunk with error 0")
	case length > len(rest) || length > maxString:
		return broken("message of %d bytes in an error chunk of %d", length, h.Length)
	case h.Type == ChunkError && length != len(rest):
		return broken("%d bytes behind the message of an ERROR chunk", len(rest)-length)
	case h.Type == ChunkErrorOffset && len(rest) != length+8:
		return broken("%d bytes behind the message of an ERROR_OFFSET chunk, want 8", len(rest)-length)
	}
	if h.Type == ChunkErrorOffset {
		if at := binary.BigEndian.Uint64(rest[length:]); at < r.Offset || at-r.Offset >= r.Length {
			return broken("ERROR_OFFSET chunk for byte %d in the reply to a %v of %d at %d", at, r.Command, r.Length, r.Offset)
		}
	}
	if r.Trace {
		r.Chunks[len(r.Chunks)-1].Errno = errno
	}
	r.fail(errno, message(rest[:length]))
	return nil
}

// complete holds the whole of a reply against its request.
func (in *replies) complete(r *Request) error {
	if r.Err != nil {
		return nil
	}
	switch r.Command {
	case CmdRead:
		if !r.cover.all(r.Length) {
			return broken("the reply to a read of %d bytes at %d leaves some of them out", r.Length, r.Offset)
		}
	case CmdBlockStatus:
		want := len(in.contexts)
		if len(r.Contexts) > 0 {
			want = len(r.Contexts)
		}
		if len(r.Status) != want {
			return broken("block status tells of %d metadata contexts, want %d", len(r.Status), want)
		}
	}
	return nil
}
