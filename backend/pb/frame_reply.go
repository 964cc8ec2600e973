package pb

import (
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// ReplySize is the fixed part of REPLY:
//
//	 0 type=66 | 1 status | 2 flags | 3 zero | 4 leader u32
//	 8 request u64
//	16 term u64
//	24 length u32 | 28 zero u32
//	32 length bytes: what a successful read read, or the words of an error
//
// Flags: 1 hole, the range that a read asked for is unallocated; nothing follows.
// Leader and term are zero but for StatusNotLeader.
const ReplySize = 32

const flagHole = 1

// Reply is the fixed part of REPLY.
type Reply struct {
	Request uint64
	Status  Status
	Hole    bool
	// Leader in Term is the hint of StatusNotLeader, 0 for unknown.
	Leader backend.ServerID
	Term   uint64
	// Length is that of what follows.
	Length int
}

// PutReply writes the fixed part into b.
func PutReply(b []byte, r Reply) {
	b = b[:ReplySize]
	clear(b)
	b[0], b[1] = byte(TypeReply), byte(r.Status)
	if r.Hole {
		b[2] = flagHole
	}
	le.PutUint32(b[4:], uint32(r.Leader))
	le.PutUint64(b[8:], r.Request)
	le.PutUint64(b[16:], r.Term)
	le.PutUint32(b[24:], uint32(r.Length))
}

// ReadReply reads the fixed part of a REPLY frame of frameLen bytes.
func ReadReply(b []byte, frameLen int) (Reply, error) {
	if err := checkHead(b, TypeReply, ReplySize); err != nil {
		return Reply{}, err
	}
	r := Reply{
		Request: le.Uint64(b[8:]),
		Status:  Status(b[1]),
		Hole:    b[2]&flagHole != 0,
		Leader:  backend.ServerID(le.Uint32(b[4:])),
		Term:    le.Uint64(b[16:]),
	}
	length, limit := le.Uint32(b[24:]), uint32(MaxText)
	if r.Status == StatusOK {
		limit = MaxPayload
	}
	switch {
	case !r.Status.Valid():
		return Reply{}, badFrame("status %d", r.Status)
	case b[2]&^flagHole != 0 || b[3] != 0 || le.Uint32(b[28:]) != 0:
		return Reply{}, badFrame("reserved bytes of REPLY are not zero")
	case r.Status != StatusNotLeader && (r.Leader != 0 || r.Term != 0):
		return Reply{}, badFrame("a leader with status %v", r.Status)
	case r.Hole && (r.Status != StatusOK || length != 0):
		return Reply{}, badFrame("a hole with status %v and %d bytes", r.Status, length)
	case length > limit:
		return Reply{}, badFrame("REPLY with %d bytes, at most %d with status %v", length, limit, r.Status)
	case frameLen != ReplySize+int(length):
		return Reply{}, badFrame("REPLY of %d bytes, its fields make it %d", frameLen, ReplySize+int(length))
	}
	r.Length = int(length)
	return r, nil
}

// ErrorText is what an error says, cut to what fits in a REPLY; "" when it says
// nothing beyond its status.
func ErrorText(err error) string {
	if err == nil || err == StatusOf(err).Err("") {
		return ""
	}
	text := err.Error()
	if len(text) > MaxText {
		text = text[:MaxText]
	}
	return strings.ToValidUTF8(text, "?") // never longer than text
}
