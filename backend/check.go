package backend

import (
	"fmt"
	"sync/atomic"
)

// Check holds an operation against the rules of Op that do not depend on what
// is stored. Every implementation of Chunks calls it at its boundary. ErrInvalid,
// ErrNotSupported.
func (op *Op) Check() error {
	if op.Kind == OpFlush {
		return nil
	}
	if err := op.Chunk.CheckRange(op.Off, op.Len); err != nil {
		return err
	}
	switch op.Kind {
	case OpRead, OpWrite:
		if op.Len != int64(len(op.Data)) {
			return fmt.Errorf("%w: %v of %d bytes with a buffer of %d", ErrInvalid, op.Kind, op.Len, len(op.Data))
		}
	case OpZero:
		if op.Flags.Has(FlagNoHole | FlagFastZero) {
			return fmt.Errorf("%w: zeroing fast and keeping the space: the zeros must be written", ErrNotSupported)
		}
	case OpTrim:
	default:
		return fmt.Errorf("%w: operation kind %d", ErrInvalid, op.Kind)
	}
	return nil
}

// sectorSize is the grain of offsets and lengths, in bytes.
const sectorSize = 512

// CheckRange holds a range of bytes against the chunk's bounds. ErrInvalid.
func (r ChunkRef) CheckRange(off, length int64) error {
	switch {
	case !ValidChunkSize(r.Size):
		return fmt.Errorf("%w: chunk size %d: use a power of two from %d to %d", ErrInvalid, r.Size, MinChunkSize, MaxChunkSize)
	case off < 0 || length < 0 || off > r.Size || length > r.Size-off:
		return fmt.Errorf("%w: %d bytes at %d of a chunk of %d", ErrInvalid, length, off, r.Size)
	case (off|length)%sectorSize != 0:
		return fmt.Errorf("%w: %d bytes at %d: use multiples of %d", ErrInvalid, length, off, sectorSize)
	}
	return nil
}

// ValidChunkSize says whether chunks of n bytes are allowed.
func ValidChunkSize(n int64) bool {
	return powerOfTwo(n) && n >= MinChunkSize && n <= MaxChunkSize
}

// Fence remembers the newest epoch seen of a volume. The zero value has seen
// none.
type Fence struct{ epoch atomic.Uint64 }

// Admit lets an operation of that epoch of the volume pass, and fences older
// ones from then on. ErrStaleEpoch.
func (f *Fence) Admit(volume VolumeID, epoch Epoch) error {
	for {
		seen := f.epoch.Load()
		switch {
		case uint64(epoch) == seen:
			return nil
		case uint64(epoch) < seen:
			return fmt.Errorf("%w: %v is at epoch %d, the operation at %d", ErrStaleEpoch, volume, seen, epoch)
		case f.epoch.CompareAndSwap(seen, uint64(epoch)):
			return nil
		}
	}
}
