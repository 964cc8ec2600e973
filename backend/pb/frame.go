package pb

import (
	"encoding/binary"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// Version of the frames. It changes whenever an old reader would misunderstand a new
// writer.
//
//	1  HELLO, OP, ASK, CANCEL, REPLY, ROUTE
const Version = 1

// Limits, in bytes unless said otherwise.
const (
	// MaxPayload bounds the data of one operation: the largest request of an NBD
	// client.
	MaxPayload = 32 << 20
	// MaxText bounds the words of an error.
	MaxText = 1024
	// MaxName bounds the cluster's and the client's names in HELLO.
	MaxName = 255
	// MaxRoutes bounds the routes in one frame.
	MaxRoutes = 1 << 16
	// MaxFrame bounds every frame.
	MaxFrame = MaxPayload + OpSize
)

// Type is the first byte of a frame.
type Type uint8

// The types are part of the protocol.
const (
	TypeHello  Type = 1 // client
	TypeOp     Type = 2
	TypeAsk    Type = 3
	TypeCancel Type = 4

	TypeWelcome Type = 65 // server: its HELLO
	TypeReply   Type = 66
	TypeRoute   Type = 67
)

var le = binary.LittleEndian

// badFrame says which rule a frame breaks.
func badFrame(format string, args ...any) error {
	return fmt.Errorf("%w: frame: %s", backend.ErrInvalid, fmt.Sprintf(format, args...))
}

// checkHead checks what all decoders must: the type, and that the frame has room for
// its fixed part.
func checkHead(b []byte, want Type, size int) error {
	switch {
	case len(b) < size:
		return badFrame("%d bytes, type %d has at least %d", len(b), want, size)
	case Type(b[0]) != want:
		return badFrame("type %d, expected %d", b[0], want)
	}
	return nil
}

// OpSize is the fixed part of OP:
//
//	 0 type=2 | 1 kind | 2 flags | 3 zero | 4 copyset u32
//	 8 request u64
//	16 volume u64
//	24 epoch u64
//	32 session u64
//	40 seq u64
//	48 low u64
//	56 chunk u64
//	64 chunk size u32 | 68 offset u32
//	72 length u32     | 76 zero u32
//	80 payload: length bytes for a write, none for anything else
//
// All integers are little-endian. A flush has no chunk, offset and length.
const OpSize = 80

const (
	opRequest = 8
	// knownFlags are those that package backend declares.
	knownFlags = backend.FlagFUA | backend.FlagNoHole | backend.FlagFastZero
)

// PutOp writes the fixed part of op's frame into b, but for the request's number,
// which SetRequest does. op has passed Op.Check and CheckSize.
func PutOp(b []byte, op *backend.Op) {
	b = b[:OpSize]
	clear(b)
	b[0], b[1], b[2] = byte(TypeOp), byte(op.Kind), byte(op.Flags)
	le.PutUint32(b[4:], uint32(op.Chunk.Copyset))
	le.PutUint64(b[16:], uint64(op.Volume))
	le.PutUint64(b[24:], uint64(op.Epoch))
	le.PutUint64(b[32:], uint64(op.Session))
	le.PutUint64(b[40:], op.Seq)
	le.PutUint64(b[48:], op.Low)
	if op.Kind == backend.OpFlush {
		return
	}
	le.PutUint64(b[56:], uint64(op.Chunk.ID))
	le.PutUint32(b[64:], uint32(op.Chunk.Size))
	le.PutUint32(b[68:], uint32(op.Off))
	le.PutUint32(b[72:], uint32(op.Len))
}

// SetRequest numbers a frame that PutOp wrote.
func SetRequest(b []byte, request uint64) { le.PutUint64(b[opRequest:], request) }

// CheckSize says whether op's data fits in a frame. ErrInvalid.
func CheckSize(op *backend.Op) error {
	if n := len(op.Data); n > MaxPayload && (op.Kind == backend.OpRead || op.Kind == backend.OpWrite) {
		return fmt.Errorf("%w: %v of %d bytes: at most %d in one operation", backend.ErrInvalid, op.Kind, n, MaxPayload)
	}
	return nil
}

// ReadOp reads the fixed part of an OP frame of frameLen bytes into op, all fields
// but Data. Whether the values are allowed together is Op.Check's to say.
func ReadOp(b []byte, frameLen int, op *backend.Op) (request uint64, err error) {
	if err := checkHead(b, TypeOp, OpSize); err != nil {
		return 0, err
	}
	kind, flags, length := backend.OpKind(b[1]), backend.Flags(b[2]), le.Uint32(b[72:])
	payload := 0
	switch {
	case kind < backend.OpRead || kind > backend.OpFlush:
		return 0, badFrame("operation kind %d", kind)
	case flags&^knownFlags != 0:
		return 0, badFrame("flags %#x, known are %#x", flags, knownFlags)
	case b[3] != 0 || le.Uint32(b[76:]) != 0:
		return 0, badFrame("reserved bytes of OP are not zero")
	case kind == backend.OpWrite || kind == backend.OpRead:
		if length > MaxPayload {
			return 0, badFrame("%v of %d bytes, at most %d", kind, length, MaxPayload)
		}
		if kind == backend.OpWrite {
			payload = int(length)
		}
	}
	if frameLen != OpSize+payload {
		return 0, badFrame("OP of %d bytes, its fields make it %d", frameLen, OpSize+payload)
	}
	op.Kind, op.Flags = kind, flags
	op.Volume = backend.VolumeID(le.Uint64(b[16:]))
	op.Epoch = backend.Epoch(le.Uint64(b[24:]))
	op.Session = backend.SessionID(le.Uint64(b[32:]))
	op.Seq, op.Low = le.Uint64(b[40:]), le.Uint64(b[48:])
	op.Chunk = backend.ChunkRef{
		ID:      backend.ChunkID(le.Uint64(b[56:])),
		Copyset: backend.CopysetID(le.Uint32(b[4:])),
		Size:    int64(le.Uint32(b[64:])),
	}
	op.Off, op.Len = int64(le.Uint32(b[68:])), int64(length)
	return le.Uint64(b[opRequest:]), nil
}

// AskSize is the length of ASK:
//
//	0 type=3 | 1 zero u24 | 4 copyset u32
const AskSize = 8

// AppendAsk appends an ASK frame.
func AppendAsk(b []byte, copyset backend.CopysetID) []byte {
	return le.AppendUint32(append(b, byte(TypeAsk), 0, 0, 0), uint32(copyset))
}

// ReadAsk reads an ASK frame.
func ReadAsk(b []byte) (backend.CopysetID, error) {
	if err := checkHead(b, TypeAsk, AskSize); err != nil {
		return 0, err
	}
	if len(b) != AskSize || b[1]|b[2]|b[3] != 0 {
		return 0, badFrame("ASK of %d bytes, expected %d, or its reserved bytes are not zero", len(b), AskSize)
	}
	return backend.CopysetID(le.Uint32(b[4:])), nil
}

// CancelSize is the length of CANCEL:
//
//	0 type=4 | 1 zero u56 | 8 request u64
const CancelSize = 16

// AppendCancel appends a CANCEL frame.
func AppendCancel(b []byte, request uint64) []byte {
	return le.AppendUint64(append(b, byte(TypeCancel), 0, 0, 0, 0, 0, 0, 0), request)
}

// ReadCancel reads a CANCEL frame.
func ReadCancel(b []byte) (request uint64, err error) {
	if err := checkHead(b, TypeCancel, CancelSize); err != nil {
		return 0, err
	}
	if len(b) != CancelSize || le.Uint64(b)>>8 != 0 {
		return 0, badFrame("CANCEL of %d bytes, expected %d, or its reserved bytes are not zero", len(b), CancelSize)
	}
	return le.Uint64(b[8:]), nil
}
