package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

var testContexts = []MetaContext{{ID: 1, Name: BaseAllocation}, {ID: 7, Name: "x-test:other"}}

func be(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b = append(b, v...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, v)
		}
	}
	return b
}

func simpleReply(errno uint32, cookie uint64, data string) []byte {
	return be(MagicSimpleReply, errno, cookie, data)
}

func structuredChunk(flags, kind uint16, cookie uint64, payload []byte) []byte {
	return append(be(MagicStructuredReply, flags, kind, cookie, uint32(len(payload))), payload...)
}

func extendedChunk(flags, kind uint16, cookie, offset uint64, payload []byte) []byte {
	return append(be(MagicExtendedReply, flags, kind, cookie, offset, uint64(len(payload))), payload...)
}

// inFlight are the requests that test replies answer, by cookie.
func inFlight(style ReplyStyle) map[uint64]*Request {
	requests := map[uint64]*Request{
		1: {Command: CmdRead, Offset: 1000, Data: bytes.Repeat([]byte{0xee}, 20)},
		2: {Command: CmdRead, Flags: FlagDF, Offset: 1000, Data: make([]byte, 20)},
		3: {Command: CmdWrite, Offset: 1000, Data: make([]byte, 20)},
		4: {Command: CmdBlockStatus, Offset: 1000, Length: 20},
		5: {Command: CmdBlockStatus, Flags: FlagReqOne, Offset: 1000, Length: 20},
		6: {Command: CmdBlockStatus, Offset: 1000, Length: 20, Contexts: []uint32{7}},
		7: {Command: CmdRead, Offset: 1000, Data: []byte{}},
		8: {Command: CmdRead, Offset: 1000, Length: 20}, // no room
	}
	for cookie, r := range requests {
		r.Trace = true
		r.prepare(style, cookie)
	}
	return requests
}

// decode feeds b to the decoder until an error, and returns the requests and
// those of them that were answered.
func decode(style ReplyStyle, b []byte) (requests map[uint64]*Request, answered map[*Request]bool, err error) {
	requests, answered = inFlight(style), make(map[*Request]bool)
	in := replies{r: bufio.NewReader(bytes.NewReader(b)), style: style, contexts: testContexts}
	for {
		r, done, err := in.next(func(cookie uint64) *Request {
			if r := requests[cookie]; r != nil && !answered[r] {
				return r
			}
			return nil
		})
		if err != nil {
			return requests, answered, err
		}
		if done {
			answered[r] = true
		}
	}
}

const data20 = "abcdefghijklmnopqrst"

func TestRepliesByTheRules(t *testing.T) {
	data := func(offset uint64, text string) []byte { return be(offset, text) }
	hole := func(offset uint64, length uint32) []byte { return be(offset, length) }
	st := func(flags, kind uint16, payload []byte) []byte { return structuredChunk(flags, kind, 1, payload) }
	for _, c := range []struct {
		name  string
		style ReplyStyle
		bytes []byte
		want  string
		errno Errno
	}{
		{"simple", SimpleReplies, simpleReply(0, 1, data20), data20, 0},
		{"simple error", SimpleReplies, simpleReply(5, 1, ""), "", EIO},
		{"one chunk", StructuredReplies, st(1, ChunkOffsetData, data(1000, data20)), data20, 0},
		{"NONE at the end", StructuredReplies, append(st(0, ChunkOffsetData, data(1000, data20)), st(1, ChunkNone, nil)...), data20, 0},
		{"hole", StructuredReplies, st(1, ChunkOffsetHole, hole(1000, 20)), strings.Repeat("\x00", 20), 0},
		{"backwards", StructuredReplies, bytes.Join([][]byte{st(0, ChunkOffsetData, data(1010, data20[10:])),
			st(0, ChunkOffsetHole, hole(1005, 5)), st(1, ChunkOffsetData, data(1000, data20[:5]))}, nil),
			"abcde\x00\x00\x00\x00\x00klmnopqrst", 0},
		{"error", StructuredReplies, st(1, ChunkError, be(uint32(5), uint16(4), "disk")), "", EIO},
		{"error at an offset", StructuredReplies, st(1, ChunkErrorOffset, be(uint32(5), uint16(4), "disk", uint64(1019))), "", EIO},
		{"error behind data", StructuredReplies, append(st(0, ChunkOffsetData, data(1000, "ab")), st(1, ChunkError, be(uint32(28), uint16(0)))...), "", ENOSPC},
		{"unknown error type", StructuredReplies, st(1, ChunkErrorBit|99, be(uint32(22), uint16(2), "no", "more fields")), "", EINVAL},
		{"unknown chunk flag", StructuredReplies, st(0x8001, ChunkOffsetData, data(1000, data20)), data20, 0},
		{"extended", ExtendedHeaders, extendedChunk(1, ChunkOffsetData, 1, 1000, data(1000, data20)), data20, 0},
		{"extended error", ExtendedHeaders, extendedChunk(1, ChunkError, 1, 1000, be(uint32(75), uint16(0))), "", EOVERFLOW},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests, answered, err := decode(c.style, c.bytes)
			r := requests[1]
			if err != io.EOF || !answered[r] {
				t.Fatalf("decoding ended with %v, answered: %t", err, answered[r])
			}
			refused := new(Error)
			if errors.As(r.Err, &refused); refused.Errno != c.errno {
				t.Fatalf("outcome %v, want %v", r.Err, c.errno)
			}
			if c.errno == 0 && string(r.Data) != c.want {
				t.Fatalf("data %q, want %q", r.Data, c.want)
			}
		})
	}
}

func TestBlockStatusRepliesByTheRules(t *testing.T) {
	st := func(flags uint16, cookie uint64, payload []byte) []byte {
		return structuredChunk(flags, ChunkBlockStatus, cookie, payload)
	}
	ext := func(flags uint16, cookie uint64, payload []byte) []byte {
		return extendedChunk(flags, ChunkBlockStatusExt, cookie, 1000, payload)
	}
	for _, c := range []struct {
		name   string
		style  ReplyStyle
		cookie uint64
		bytes  []byte
		want   []ContextStatus
	}{
		{"two contexts", StructuredReplies, 4, append(st(0, 4, be(uint32(7), uint32(20), uint32(9))), st(1, 4, be(uint32(1), uint32(5), uint32(3), uint32(15), uint32(0)))...),
			[]ContextStatus{{7, []Extent{{20, 9}}}, {1, []Extent{{5, 3}, {15, 0}}}}},
		{"last one longer", StructuredReplies, 4, append(st(0, 4, be(uint32(7), uint32(20), uint32(9))), st(1, 4, be(uint32(1), uint32(19), uint32(0), uint32(1000), uint32(3)))...),
			[]ContextStatus{{7, []Extent{{20, 9}}}, {1, []Extent{{19, 0}, {1000, 3}}}}},
		{"shorter than asked", StructuredReplies, 5, append(st(0, 5, be(uint32(7), uint32(1), uint32(9))), st(1, 5, be(uint32(1), uint32(20), uint32(0)))...),
			[]ContextStatus{{7, []Extent{{1, 9}}}, {1, []Extent{{20, 0}}}}},
		{"extended, filtered", ExtendedHeaders, 6, ext(1, 6, be(uint32(7), uint32(1), uint64(20), uint64(1)<<40)),
			[]ContextStatus{{7, []Extent{{20, 1 << 40}}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests, answered, err := decode(c.style, c.bytes)
			r := requests[c.cookie]
			if err != io.EOF || !answered[r] || r.Err != nil {
				t.Fatalf("decoding ended with %v, answered: %t, outcome %v", err, answered[r], r.Err)
			}
			if len(r.Status) != len(c.want) {
				t.Fatalf("status %+v, want %+v", r.Status, c.want)
			}
			for i, want := range c.want {
				got := r.Status[i]
				if got.Context != want.Context || len(got.Extents) != len(want.Extents) || got.Extents[0] != want.Extents[0] {
					t.Fatalf("status %+v, want %+v", r.Status, c.want)
				}
			}
		})
	}
}

func TestRepliesAgainstTheRulesEndTheConnection(t *testing.T) {
	st := func(flags, kind uint16, cookie uint64, values ...any) []byte {
		return structuredChunk(flags, kind, cookie, be(values...))
	}
	ext := func(flags, kind uint16, cookie uint64, values ...any) []byte {
		return extendedChunk(flags, kind, cookie, 1000, be(values...))
	}
	for _, c := range []struct {
		name  string
		style ReplyStyle
		bytes []byte
	}{
		{"unknown magic", SimpleReplies, make([]byte, 16)},
		{"unknown cookie", SimpleReplies, simpleReply(0, 99, "")},
		{"answered twice", SimpleReplies, append(simpleReply(0, 3, ""), simpleReply(0, 3, "")...)},
		{"structured, not agreed", SimpleReplies, st(1, ChunkNone, 3)},
		{"simple read, structured agreed", StructuredReplies, simpleReply(0, 1, data20)},
		{"simple error of a read, structured agreed", StructuredReplies, simpleReply(5, 1, "")},
		{"simple block status", StructuredReplies, simpleReply(0, 4, "")},
		{"simple, extended agreed", ExtendedHeaders, simpleReply(0, 3, "")},
		{"structured, extended agreed", ExtendedHeaders, st(1, ChunkNone, 3)},
		{"extended, structured agreed", StructuredReplies, ext(1, ChunkNone, 3)},
		{"other offset", ExtendedHeaders, extendedChunk(1, ChunkNone, 3, 1001, nil)},
		{"NONE without DONE", StructuredReplies, st(0, ChunkNone, 3)},
		{"NONE with bytes", StructuredReplies, st(1, ChunkNone, 3, uint8(0))},
		{"data for a write", StructuredReplies, st(1, ChunkOffsetData, 3, uint64(1000), "x")},
		{"hole for a write", StructuredReplies, st(1, ChunkOffsetHole, 3, uint64(1000), uint32(1))},
		{"status for a read", StructuredReplies, st(1, ChunkBlockStatus, 1, uint32(1), uint32(20), uint32(0))},
		{"unknown chunk", StructuredReplies, st(1, 99, 3)},
		{"data without bytes", StructuredReplies, st(1, ChunkOffsetData, 1, uint64(1000))},
		{"data before the request", StructuredReplies, st(0, ChunkOffsetData, 1, uint64(999), "x")},
		{"data behind the request", StructuredReplies, st(0, ChunkOffsetData, 1, uint64(1020), "x")},
		{"data over its end", StructuredReplies, st(0, ChunkOffsetData, 1, uint64(1019), "xx")},
		{"data at 2^64-1", StructuredReplies, st(0, ChunkOffsetData, 1, ^uint64(0), "xx")},
		{"data of 4 GiB", StructuredReplies, be(MagicStructuredReply, uint16(0), ChunkOffsetData, uint64(1), ^uint32(0), uint64(1000))},
		{"data of 2^64", ExtendedHeaders, be(MagicExtendedReply, uint16(0), ChunkOffsetData, uint64(1), uint64(1000), ^uint64(0), uint64(1000))},
		{"the same data twice", StructuredReplies, bytes.Repeat(st(0, ChunkOffsetData, 1, uint64(1000), "xx"), 2)},
		{"not all data", StructuredReplies, st(1, ChunkOffsetData, 1, uint64(1000), data20[1:])},
		{"no data", StructuredReplies, st(1, ChunkNone, 1)},
		{"two chunks with DF", StructuredReplies, append(st(0, ChunkOffsetData, 2, uint64(1000), "x"), st(0, ChunkOffsetData, 2, uint64(1001), "x")...)},
		{"hole without length", StructuredReplies, st(0, ChunkOffsetHole, 1, uint64(1000), uint32(0))},
		{"hole too long", StructuredReplies, st(0, ChunkOffsetHole, 1, uint64(1000), uint32(21))},
		{"hole of 11 bytes", StructuredReplies, st(0, ChunkOffsetHole, 1, uint64(1000), "abc")},
		{"error 0", StructuredReplies, st(1, ChunkError, 1, uint32(0), uint16(0))},
		{"error of 5 bytes", StructuredReplies, st(1, ChunkError, 1, uint32(5), "x")},
		{"message too long", StructuredReplies, st(1, ChunkError, 1, uint32(5), uint16(5), "disk")},
		{"bytes behind the message", StructuredReplies, st(1, ChunkError, 1, uint32(5), uint16(3), "disk")},
		{"message of 4097 bytes", StructuredReplies, st(1, ChunkError, 1, uint32(5), uint16(4097), strings.Repeat("x", 4097))},
		{"error chunk of 1 MiB", StructuredReplies, st(1, ChunkErrorBit|9, 1, uint32(5), uint16(0), strings.Repeat("x", 1<<20))},
		{"error outside the request", StructuredReplies, st(1, ChunkErrorOffset, 1, uint32(5), uint16(0), uint64(1020))},
		{"error without its offset", StructuredReplies, st(1, ChunkErrorOffset, 1, uint32(5), uint16(0))},
		{"one context of two", StructuredReplies, st(1, ChunkBlockStatus, 4, uint32(1), uint32(20), uint32(0))},
		{"a context twice", StructuredReplies, bytes.Repeat(st(0, ChunkBlockStatus, 4, uint32(1), uint32(20), uint32(0)), 2)},
		{"unknown context", StructuredReplies, st(0, ChunkBlockStatus, 4, uint32(2), uint32(20), uint32(0))},
		{"context filtered out", ExtendedHeaders, ext(0, ChunkBlockStatusExt, 6, uint32(1), uint32(1), uint64(20), uint64(0))},
		{"status without descriptors", StructuredReplies, st(0, ChunkBlockStatus, 4, uint32(1))},
		{"half a descriptor", StructuredReplies, st(0, ChunkBlockStatus, 4, uint32(1), uint32(20))},
		{"status of 2 bytes", StructuredReplies, st(0, ChunkBlockStatus, 4, "xx")},
		{"descriptor without length", StructuredReplies, st(0, ChunkBlockStatus, 4, uint32(1), uint32(0), uint32(0))},
		{"descriptor behind the request", StructuredReplies, st(0, ChunkBlockStatus, 4, uint32(1), uint32(20), uint32(0), uint32(1), uint32(3))},
		{"two with REQ_ONE", StructuredReplies, st(0, ChunkBlockStatus, 5, uint32(1), uint32(10), uint32(0), uint32(10), uint32(3))},
		{"too long with REQ_ONE", StructuredReplies, st(0, ChunkBlockStatus, 5, uint32(1), uint32(21), uint32(0))},
		{"wrong count", ExtendedHeaders, ext(0, ChunkBlockStatusExt, 4, uint32(1), uint32(2), uint64(20), uint64(0))},
		{"wide flags of base:allocation", ExtendedHeaders, ext(0, ChunkBlockStatusExt, 4, uint32(1), uint32(1), uint64(20), uint64(1)<<32)},
		{"narrow status, extended agreed", ExtendedHeaders, ext(0, ChunkBlockStatus, 4, uint32(1), uint32(20), uint32(0))},
		{"wide status, structured agreed", StructuredReplies, st(0, ChunkBlockStatusExt, 4, uint32(1), uint32(1), uint64(20), uint64(0))},
		{"status of 2^60 descriptors", ExtendedHeaders, be(MagicExtendedReply, uint16(0), ChunkBlockStatusExt, uint64(4), uint64(1000), uint64(8+16<<55), uint32(1), uint32(0))},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Enough behind it that a decoder which waits for more is found out.
			_, _, err := decode(c.style, append(c.bytes, make([]byte, 64)...))
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("got %v, want %v", err, ErrProtocol)
			}
			t.Log(err)
		})
	}
}

func TestDataForAReadWithoutRoomIsRefused(t *testing.T) {
	for style, b := range map[ReplyStyle][]byte{
		SimpleReplies:     simpleReply(0, 8, data20),
		StructuredReplies: structuredChunk(1, ChunkOffsetData, 8, be(uint64(1000), data20)),
	} {
		if _, _, err := decode(style, b); !errors.Is(err, errNoRoom) {
			t.Errorf("%v: %v", style, err)
		}
	}
}

func TestReplyCutShortIsNotAnOrderlyEnd(t *testing.T) {
	whole := structuredChunk(1, ChunkOffsetData, 1, be(uint64(1000), data20))
	for n := 1; n < len(whole); n++ {
		if _, _, err := decode(StructuredReplies, whole[:n]); err != io.ErrUnexpectedEOF {
			t.Fatalf("%d of %d bytes: %v, want %v", n, len(whole), err, io.ErrUnexpectedEOF)
		}
	}
}

func TestRepliesToNothing(t *testing.T) {
	for style, b := range map[ReplyStyle][]byte{
		SimpleReplies:     simpleReply(0, 7, ""),
		StructuredReplies: structuredChunk(1, ChunkNone, 7, nil),
	} {
		if requests, answered, err := decode(style, b); err != io.EOF || !answered[requests[7]] || requests[7].Err != nil {
			t.Errorf("%v: %v", style, err)
		}
	}
}
