package copyset

import (
	"encoding/binary"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// A command is the data of one raft entry. Integers are little endian:
//
//	 0  version   u8   1
//	 1  kind      u8   1 batch, 2 fence, 3 delete, 4 barrier
//	 2  count     u16  operations of a batch, chunks of a delete, else 0
//	 4  reserved  u32  0
//	 8  origin    u64  random tag of the process that proposed it
//	16  number    u64  of the proposal, counted by that process
//	24  body
//
// A batch's body is count operations, one after the other:
//
//	 0  kind      u8   as backend.OpKind: write, zero or trim
//	 1  flags     u8   as backend.Flags
//	 2  reserved  u16  0
//	 4  chunk size u32
//	 8  volume    u64
//	16  epoch     u64
//	24  session   u64
//	32  seq       u64
//	40  low       u64
//	48  chunk id  u64
//	56  offset    u32  in the chunk
//	60  length    u32
//	64  payload, length bytes; only of a write
//
// A fence's body is volume u64, epoch u64. A delete's body is volume u64 and
// count times chunk id u64, chunk size u64. A barrier has no body: a new leader's
// first command, behind which all of its predecessors' is applied.
//
// Origin and number let the replica that proposed a command find whom to answer;
// they decide nothing.
const (
	commandVersion    = 1
	commandHeaderSize = 24
	opHeaderSize      = 64
	fenceBodySize     = 16
	deleteRefSize     = 16

	// maxBatchOps and maxBatchBytes bound what is put together into one entry. An
	// operation larger than maxBatchBytes travels alone.
	maxBatchOps   = 64
	maxBatchBytes = 512 << 10
	// maxPayload bounds one write.
	maxPayload = 16 << 20
	// maxCommandBytes is the largest command.
	maxCommandBytes = commandHeaderSize + opHeaderSize + maxPayload
	// maxDeleteRefs bounds one delete: what it holds up is applied in one go.
	maxDeleteRefs = 4096
)

type commandKind uint8

const (
	kindBatch commandKind = iota + 1
	kindFence
	kindDelete
	kindBarrier
)

var le = binary.LittleEndian

// command is a decoded header with its body, which was checked as a whole.
type command struct {
	kind   commandKind
	count  int
	origin uint64
	number uint64
	body   []byte
}

func badCommand(format string, args ...any) error {
	return fmt.Errorf("%w: raft entry: %s", backend.ErrInvalid, fmt.Sprintf(format, args...))
}

// newCommand starts a command with room for its header.
func newCommand(capacity int) []byte {
	return make([]byte, commandHeaderSize, commandHeaderSize+capacity)
}

// sealCommand fills the header in.
func sealCommand(data []byte, kind commandKind, count int, origin, number uint64) {
	data[0], data[1] = commandVersion, byte(kind)
	le.PutUint16(data[2:], uint16(count))
	le.PutUint32(data[4:], 0)
	le.PutUint64(data[8:], origin)
	le.PutUint64(data[16:], number)
}

// encodedOp is how many bytes op takes in a batch.
func encodedOp(op *backend.Op) int {
	if op.Kind == backend.OpWrite {
		return opHeaderSize + len(op.Data)
	}
	return opHeaderSize
}

// appendOp appends an operation that has passed checkChange.
func appendOp(dst []byte, op *backend.Op) []byte {
	var h [opHeaderSize]byte
	h[0], h[1] = byte(op.Kind), byte(op.Flags)
	le.PutUint32(h[4:], uint32(op.Chunk.Size))
	le.PutUint64(h[8:], uint64(op.Volume))
	le.PutUint64(h[16:], uint64(op.Epoch))
	le.PutUint64(h[24:], uint64(op.Session))
	le.PutUint64(h[32:], op.Seq)
	le.PutUint64(h[40:], op.Low)
	le.PutUint64(h[48:], uint64(op.Chunk.ID))
	le.PutUint32(h[56:], uint32(op.Off))
	le.PutUint32(h[60:], uint32(op.Len))
	dst = append(dst, h[:]...)
	if op.Kind == backend.OpWrite {
		dst = append(dst, op.Data...)
	}
	return dst
}

func encodeFence(volume backend.VolumeID, epoch backend.Epoch) []byte {
	data := newCommand(fenceBodySize)
	data = le.AppendUint64(data, uint64(volume))
	return le.AppendUint64(data, uint64(epoch))
}

func encodeDelete(volume backend.VolumeID, chunks []backend.ChunkRef) []byte {
	data := newCommand(8 + len(chunks)*deleteRefSize)
	data = le.AppendUint64(data, uint64(volume))
	for _, ref := range chunks {
		data = le.AppendUint64(data, uint64(ref.ID))
		data = le.AppendUint64(data, uint64(ref.Size))
	}
	return data
}

// decodeCommand reads the header and holds the whole of the body against the
// format, so that no command is found broken when half of it is applied.
func decodeCommand(data []byte) (command, error) {
	var c command
	switch {
	case len(data) < commandHeaderSize:
		return c, badCommand("%d bytes, a header takes %d", len(data), commandHeaderSize)
	case len(data) > maxCommandBytes:
		return c, badCommand("%d bytes, at most %d", len(data), maxCommandBytes)
	case data[0] != commandVersion:
		return c, badCommand("version %d, this server knows %d: upgrade it", data[0], commandVersion)
	case le.Uint32(data[4:]) != 0:
		return c, badCommand("reserved bytes %#x, expected 0", le.Uint32(data[4:]))
	}
	c = command{
		kind: commandKind(data[1]), count: int(le.Uint16(data[2:])),
		origin: le.Uint64(data[8:]), number: le.Uint64(data[16:]),
		body: data[commandHeaderSize:],
	}
	switch c.kind {
	case kindBatch:
		return c, c.checkBatch()
	case kindFence:
		if c.count != 0 || len(c.body) != fenceBodySize {
			return c, badCommand("fence of count %d and %d bytes, expected 0 and %d", c.count, len(c.body), fenceBodySize)
		}
	case kindDelete:
		return c, c.checkDelete()
	case kindBarrier:
		if c.count != 0 || len(c.body) != 0 {
			return c, badCommand("barrier of count %d and %d bytes, expected none", c.count, len(c.body))
		}
	default:
		return c, badCommand("kind %d", data[1])
	}
	return c, nil
}

func (c *command) checkBatch() error {
	if c.count < 1 || c.count > maxBatchOps {
		return badCommand("batch of %d operations, expected 1 to %d", c.count, maxBatchOps)
	}
	if c.count > 1 && len(c.body) > maxBatchBytes+maxBatchOps*opHeaderSize {
		return badCommand("batch of %d operations in %d bytes, at most %d", c.count, len(c.body), maxBatchBytes)
	}
	rest := c.body
	for i := range c.count {
		var op backend.Op
		var err error
		if rest, err = decodeOp(rest, &op); err != nil {
			return fmt.Errorf("operation %d of %d: %w", i, c.count, err)
		}
	}
	if len(rest) != 0 {
		return badCommand("%d bytes after the last of %d operations", len(rest), c.count)
	}
	return nil
}

// decodeOp reads an operation into op, whose Data then lies in data, and returns
// what follows it.
func decodeOp(data []byte, op *backend.Op) ([]byte, error) {
	if len(data) < opHeaderSize {
		return nil, badCommand("%d bytes left, an operation takes %d", len(data), opHeaderSize)
	}
	h := data[:opHeaderSize]
	op.Kind, op.Flags = backend.OpKind(h[0]), backend.Flags(h[1])
	op.Chunk.Size = int64(le.Uint32(h[4:]))
	op.Volume = backend.VolumeID(le.Uint64(h[8:]))
	op.Epoch = backend.Epoch(le.Uint64(h[16:]))
	op.Session = backend.SessionID(le.Uint64(h[24:]))
	op.Seq, op.Low = le.Uint64(h[32:]), le.Uint64(h[40:])
	op.Chunk.ID = backend.ChunkID(le.Uint64(h[48:]))
	op.Off, op.Len = int64(le.Uint32(h[56:])), int64(le.Uint32(h[60:]))
	op.Data = nil
	data = data[opHeaderSize:]
	if r := le.Uint16(h[2:]); r != 0 {
		return nil, badCommand("reserved bytes %#x in an operation, expected 0", r)
	}
	if op.Kind == backend.OpWrite {
		if op.Len > int64(len(data)) {
			return nil, badCommand("write of %d bytes with %d left", op.Len, len(data))
		}
		op.Data, data = data[:op.Len:op.Len], data[op.Len:]
	}
	return data, checkChange(op)
}

const knownFlags = backend.FlagFUA | backend.FlagNoHole | backend.FlagFastZero

// checkChange is what every change must pass before it may become part of the log:
// rules that hold whatever the state is.
func checkChange(op *backend.Op) error {
	if !op.Kind.Changes() {
		return fmt.Errorf("%w: %v is not a change", backend.ErrInvalid, op.Kind)
	}
	if err := op.Check(); err != nil {
		return err
	}
	switch {
	case op.Flags&^knownFlags != 0:
		return fmt.Errorf("%w: flags %#x, known are %#x", backend.ErrInvalid, op.Flags, knownFlags)
	case op.Len == 0:
		return fmt.Errorf("%w: %v of no length", backend.ErrInvalid, op.Kind)
	case op.Kind == backend.OpWrite && op.Len > maxPayload:
		return fmt.Errorf("%w: write of %d bytes: at most %d at once", backend.ErrInvalid, op.Len, maxPayload)
	}
	return checkFenceNumbers(op)
}

func (c *command) fence() (backend.VolumeID, backend.Epoch) {
	return backend.VolumeID(le.Uint64(c.body)), backend.Epoch(le.Uint64(c.body[8:]))
}

func (c *command) checkDelete() error {
	if c.count < 1 || c.count > maxDeleteRefs {
		return badCommand("delete of %d chunks, expected 1 to %d", c.count, maxDeleteRefs)
	}
	if want := 8 + c.count*deleteRefSize; len(c.body) != want {
		return badCommand("delete of %d chunks in %d bytes, expected %d", c.count, len(c.body), want)
	}
	for i := range c.count {
		if ref := c.deleted(i); !backend.ValidChunkSize(ref.Size) {
			return badCommand("delete of a chunk of %d bytes", ref.Size)
		}
	}
	return nil
}

func (c *command) deleteVolume() backend.VolumeID { return backend.VolumeID(le.Uint64(c.body)) }

// deleted is the i-th chunk of a delete.
func (c *command) deleted(i int) backend.ChunkRef {
	at := c.body[8+i*deleteRefSize:]
	return backend.ChunkRef{ID: backend.ChunkID(le.Uint64(at)), Size: int64(le.Uint64(at[8:]))}
}
