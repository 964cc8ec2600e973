package client

import (
	"encoding/binary"
	"sync/atomic"
)

// Request is one request of the transmission phase. Fill in the first group,
// Start it, Wait for it, read the second group; then it may be used again.
type Request struct {
	Command Command
	Flags   CommandFlags
	// Offset and Length are bytes. Nothing checks them here: what the server
	// says to a request past the end is the server's business. For reads and
	// writes Length is that of Data, where there is any.
	Offset, Length uint64
	// Data is the payload of a write, or the room for a read. A read without
	// room is for those who count on a refusal.
	Data []byte
	// Contexts limits a block status to these ids (needs BlockStatusPayload).
	Contexts []uint32
	// Trace makes the request keep its reply's chunks, for those who want to
	// know how the server answered and not only what.
	Trace bool

	// Err is the outcome: nil, an *Error of the server, or what ended the
	// connection.
	Err error
	// Status is the outcome of a block status, one entry per context.
	Status []ContextStatus
	// Chunks are those of the reply, in order, where Trace is set.
	Chunks []Chunk

	cookie   uint64
	payload  []byte // what follows the header
	cover    coverage
	contents int // content chunks so far
	// parts are what is left to do before the request is complete: to be sent,
	// and to be answered. A server may answer before it has read a payload.
	parts atomic.Int32
	done  chan struct{} // takes one token at completion
}

// ContextStatus is what one metadata context says about a range.
type ContextStatus struct {
	Context uint32
	Extents []Extent
}

// Extent is a run of Length bytes with the same flags.
type Extent struct{ Length, Flags uint64 }

// Chunk is one message of a reply.
type Chunk struct {
	Magic       uint32
	Flags, Type uint16
	// Errno is that of a simple reply or an error chunk.
	Errno Errno
	// Offset and Length are the bytes that a content chunk covers.
	Offset, Length uint64
}

// prepare readies r for the wire and returns its header.
func (r *Request) prepare(style ReplyStyle, cookie uint64) Header {
	r.Err, r.Status, r.Chunks = nil, nil, r.Chunks[:0]
	r.cover.reset()
	r.contents, r.cookie, r.payload = 0, cookie, nil
	h := Header{Flags: r.Flags, Command: r.Command, Cookie: cookie, Offset: r.Offset, Length: r.Length}
	switch {
	case r.Command == CmdWrite:
		r.Length = uint64(len(r.Data))
		h.Length, r.payload = r.Length, r.Data
		if style == ExtendedHeaders {
			h.Flags |= FlagPayloadLen
		}
	case r.Command == CmdRead && r.Data != nil:
		r.Length = uint64(len(r.Data))
		h.Length = r.Length
	case r.Command == CmdBlockStatus && len(r.Contexts) > 0:
		r.payload = binary.BigEndian.AppendUint64(nil, r.Length)
		for _, id := range r.Contexts {
			r.payload = binary.BigEndian.AppendUint32(r.payload, id)
		}
		h.Flags |= FlagPayloadLen
		h.Length = uint64(len(r.payload))
	}
	if r.done == nil {
		r.done = make(chan struct{}, 1)
	}
	r.parts.Store(2)
	return h
}

// part ticks one of the two parts off.
func (r *Request) part() {
	if r.parts.Add(-1) == 0 {
		r.done <- struct{}{}
	}
}

// fail notes the request's first error.
func (r *Request) fail(errno Errno, text string) {
	if r.Err == nil {
		r.Err = &Error{Command: r.Command, Offset: r.Offset, Length: r.Length, Errno: errno, Message: text}
	}
}

// Wait waits until r, which was started, is complete, and returns r.Err. Once
// for each Start.
func (r *Request) Wait() error {
	<-r.done
	return r.Err
}
