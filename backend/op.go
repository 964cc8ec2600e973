package backend

// OpKind is what an Op does.
type OpKind uint8

const (
	// OpRead fills Op.Data from the chunk. What was never written, or was
	// freed, reads as zeros.
	OpRead OpKind = iota + 1
	// OpWrite stores Op.Data.
	OpWrite
	// OpZero makes the range read as zeros and frees its space, or, with
	// FlagNoHole, keeps space reserved for it.
	OpZero
	// OpTrim says the range's content is no longer needed: it is freed and
	// reads as zeros, chunk by chunk where whole chunks are trimmed.
	OpTrim
	// OpFlush makes durable every change of the volume that was acknowledged
	// before the Op was submitted, by whatever path. It has no range.
	OpFlush
)

var opNames = [...]string{"none", "read", "write", "zero", "trim", "flush"}

func (k OpKind) String() string {
	if int(k) < len(opNames) {
		return opNames[k]
	}
	return "unknown"
}

// Changes says whether the operation modifies data.
func (k OpKind) Changes() bool { return k == OpWrite || k == OpZero || k == OpTrim }

// Flags modify an Op.
type Flags uint8

const (
	// FlagFUA: the change is durable before it is acknowledged.
	FlagFUA Flags = 1 << iota
	// FlagNoHole (OpZero): the zeroed range keeps its space.
	FlagNoHole
	// FlagFastZero (OpZero): fail with ErrNotSupported, changing nothing,
	// rather than take as long as writing zeros would.
	FlagFastZero
)

// Has says whether all of want is set.
func (f Flags) Has(want Flags) bool { return f&want == want }

// Op is one data operation on one chunk, or a flush of one volume.
//
// Ownership: the caller owns the Op and its Data. From Try or Submit until
// completion the backend may read (OpWrite) or fill (OpRead) Data and must be
// left alone with both; it keeps no reference afterwards. An Op may be used
// again once it is complete.
//
// Idempotence: on Replicas every operation may be sent again, the fence sees to
// it. Elsewhere reads, zeroes, trims and flushes may be repeated. A write may be
// repeated as long as no other write to the same blocks was submitted since.
type Op struct {
	Kind   OpKind
	Flags  Flags
	Volume VolumeID
	Epoch  Epoch
	Chunk  ChunkRef
	// Off is the byte offset in the chunk. Off and Len are multiples of 512,
	// and Off+Len is at most Chunk.Size; anything else is ErrInvalid.
	Off int64
	// Len is the length in bytes; for reads and writes it equals len(Data).
	Len  int64
	Data []byte

	// Server is the chunkserver that the operation is sent to, where there are
	// several (Replicas); elsewhere it is 0 and nobody looks.
	Server ServerID
	// Session, Seq and Low are the fence of a change on Replicas: Seq is the
	// change's number among those of its session on its copyset, from 1, the same
	// when the change is sent again; every number below Low has been acknowledged.
	// A change whose Seq is below the highest Low seen, or was applied already, is
	// answered as done and not applied. Seq-Low is below FenceWindow.
	Session  SessionID
	Seq, Low uint64

	// Err is the outcome, valid once the Op is complete.
	Err error
	// Hole is set by a read that knows the whole range to be unallocated
	// (Data is zero-filled all the same).
	Hole bool
	// Done receives the Op when it is complete, exactly once, on any
	// goroutine. It must not block, and must not call Submit, which may wait for
	// the very goroutine that it is called on. Not called after a Try that
	// returned true.
	Done Completer
}

// FenceWindow bounds the changes of one session on one copyset that are not
// acknowledged: what a replica must remember.
const FenceWindow = 1 << 14

// Completer is told when an Op is complete; see Op.Done.
type Completer interface{ OpDone(*Op) }
