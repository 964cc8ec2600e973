package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/opencurve/curve-nbd/backend"
)

// All integers are big-endian. A connection starts with a hello each way:
//
//	 0  8  magic "CRVRAFT\n"
//	 8  2  version
//	10  1  what the connection is for: 1 control, 2 data
//	11  1  verdict of the answering side (0 in the first hello)
//	12  4  sender
//	16  4  receiver
//	20  4  zero
//	24  8  incarnation of the sender
//	32  8  cluster
//	40  4  zero
//	44  4  crc32c of the 44 bytes before
const (
	helloMagic   = "CRVRAFT\n"
	helloBytes   = 48
	wireVersion  = 1
	kindControl  = 1
	kindData     = 2
	verdictOK    = 0
	verdictWrong = 1
)

// Then come messages, each with a head:
//
//	 0  4  length of the body
//	 4  4  crc32c of the rest of the head and the body
//	 8  1  type
//	 9  3  zero
//	12  4  copyset
//	16  8  number of the request; an answer has that of its request
const headBytes = 24

// Message types. Those up to typeControlMax travel on control connections.
const (
	typePing uint8 = iota + 1
	typePong
	typeVote
	typeVoteAnswer
	typePreVote
	typePreVoteAnswer
	typeTimeoutNow
	typeTimeoutNowAnswer
	typeAppend
	typeAppendAnswer
	typeSnapshot
	typeSnapshotAnswer
	typeEnd

	typeControlMax = typeTimeoutNowAnswer
)

// errWire is what every refusal of received bytes wraps.
var errWire = errors.New("malformed raft link message")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type hello struct {
	version     uint16
	kind        uint8
	verdict     uint8
	from, to    backend.ServerID
	incarnation uint64
	cluster     uint64
}

func (h hello) encode() [helloBytes]byte {
	var b [helloBytes]byte
	copy(b[:8], helloMagic)
	binary.BigEndian.PutUint16(b[8:], h.version)
	b[10], b[11] = h.kind, h.verdict
	binary.BigEndian.PutUint32(b[12:], uint32(h.from))
	binary.BigEndian.PutUint32(b[16:], uint32(h.to))
	binary.BigEndian.PutUint64(b[24:], h.incarnation)
	binary.BigEndian.PutUint64(b[32:], h.cluster)
	binary.BigEndian.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
	return b
}

func decodeHello(b []byte) (hello, error) {
	if len(b) != helloBytes {
		return hello{}, fmt.Errorf("%w: hello of %d bytes, want %d", errWire, len(b), helloBytes)
	}
	if string(b[:8]) != helloMagic {
		return hello{}, fmt.Errorf("%w: hello starts with %q, want %q: is this a chunkserver's peer address?", errWire, b[:8], helloMagic)
	}
	if sum, want := crc32.Checksum(b[:44], castagnoli), binary.BigEndian.Uint32(b[44:]); sum != want {
		return hello{}, fmt.Errorf("%w: hello's checksum is %#x, want %#x", errWire, sum, want)
	}
	h := hello{
		version: binary.BigEndian.Uint16(b[8:]), kind: b[10], verdict: b[11],
		from:        backend.ServerID(binary.BigEndian.Uint32(b[12:])),
		to:          backend.ServerID(binary.BigEndian.Uint32(b[16:])),
		incarnation: binary.BigEndian.Uint64(b[24:]),
		cluster:     binary.BigEndian.Uint64(b[32:]),
	}
	switch {
	case h.version != wireVersion:
		return h, fmt.Errorf("%w: version %d of the raft links, here it is %d", errWire, h.version, wireVersion)
	case h.kind != kindControl && h.kind != kindData:
		return h, fmt.Errorf("%w: connection of kind %d", errWire, h.kind)
	case binary.BigEndian.Uint32(b[20:]) != 0 || binary.BigEndian.Uint32(b[40:]) != 0:
		return h, fmt.Errorf("%w: reserved bytes of the hello are not zero", errWire)
	case h.from == 0 || h.incarnation == 0:
		return h, fmt.Errorf("%w: hello of %v in incarnation %d", errWire, h.from, h.incarnation)
	}
	return h, nil
}

// head is a message's head, its checksum apart.
type head struct {
	length  uint32
	sum     uint32
	kind    uint8
	copyset backend.CopysetID
	id      uint64
}

func (h head) put(b []byte) {
	binary.BigEndian.PutUint32(b, h.length)
	binary.BigEndian.PutUint32(b[4:], h.sum)
	b[8], b[9], b[10], b[11] = h.kind, 0, 0, 0
	binary.BigEndian.PutUint32(b[12:], uint32(h.copyset))
	binary.BigEndian.PutUint64(b[16:], h.id)
}

// decodeHead reads a head and holds its length against what the type allows, on
// a connection of that kind.
func decodeHead(b []byte, kind uint8) (head, error) {
	if len(b) != headBytes {
		return head{}, fmt.Errorf("%w: head of %d bytes, want %d", errWire, len(b), headBytes)
	}
	h := head{
		length: binary.BigEndian.Uint32(b), sum: binary.BigEndian.Uint32(b[4:]), kind: b[8],
		copyset: backend.CopysetID(binary.BigEndian.Uint32(b[12:])),
		id:      binary.BigEndian.Uint64(b[16:]),
	}
	switch {
	case h.kind == 0 || h.kind >= typeEnd || (h.kind <= typeControlMax) != (kind == kindControl):
		return h, fmt.Errorf("%w: type %d on a connection of kind %d", errWire, h.kind, kind)
	case b[9]|b[10]|b[11] != 0:
		return h, fmt.Errorf("%w: reserved bytes of the head are not zero", errWire)
	case h.length > bodyLimit(h.kind):
		return h, fmt.Errorf("%w: body of %d bytes for type %d, at most %d", errWire, h.length, h.kind, bodyLimit(h.kind))
	}
	return h, nil
}

// bodyLimit is the largest body of a message type, in bytes.
func bodyLimit(kind uint8) uint32 {
	switch kind {
	case typePing, typePong:
		return maxControlBody
	case typeAppend:
		return maxAppendBody
	case typeSnapshot:
		return snapshotHeadBytes + maxConfigBytes + maxSnapshotBytes
	default:
		return maxErrorBytes + 64
	}
}

// reader takes fields off a body. A read past the end sets short, and yields zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// end says whether the body was exactly as long as its fields.
func (r *reader) end(what string) error {
	switch {
	case r.short:
		return fmt.Errorf("%w: %s is cut short", errWire, what)
	case len(r.b) != 0:
		return fmt.Errorf("%w: %s has %d bytes too many", errWire, what, len(r.b))
	}
	return nil
}
