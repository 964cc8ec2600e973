package memory

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

var errClosed = fmt.Errorf("memory chunks: %w", backend.ErrClosed)

// checkOp is the boundary: what passes it keeps every rule of backend.Op.
func checkOp(op *backend.Op) error {
	if op.Kind == backend.OpFlush {
		return nil
	}
	if err := checkRange(op.Chunk, op.Off, op.Len); err != nil {
		return err
	}
	switch op.Kind {
	case backend.OpRead, backend.OpWrite:
		if op.Len != int64(len(op.Data)) {
			return fmt.Errorf("%w: %v of %d bytes with a buffer of %d", backend.ErrInvalid, op.Kind, op.Len, len(op.Data))
		}
	case backend.OpZero:
		if op.Flags.Has(backend.FlagNoHole | backend.FlagFastZero) {
			return fmt.Errorf("%w: zeroing fast and keeping the space: the zeros must be written", backend.ErrNotSupported)
		}
	case backend.OpTrim:
	default:
		return fmt.Errorf("%w: operation kind %d", backend.ErrInvalid, op.Kind)
	}
	return nil
}

func checkRange(ref backend.ChunkRef, off, length int64) error {
	switch {
	case !powerOfTwo(ref.Size) || ref.Size < backend.MinChunkSize || ref.Size > backend.MaxChunkSize:
		return fmt.Errorf("%w: chunk size %d: use a power of two from %d to %d",
			backend.ErrInvalid, ref.Size, backend.MinChunkSize, backend.MaxChunkSize)
	case off < 0 || length < 0 || off > ref.Size || length > ref.Size-off:
		return fmt.Errorf("%w: %d bytes at %d of a chunk of %d", backend.ErrInvalid, length, off, ref.Size)
	case (off|length)%sectorSize != 0:
		return fmt.Errorf("%w: %d bytes at %d: use multiples of %d", backend.ErrInvalid, length, off, sectorSize)
	}
	return nil
}

// volume is the newest epoch seen of a volume.
type volume struct {
	id    backend.VolumeID
	epoch atomic.Uint64
}

func (v *volume) admit(epoch backend.Epoch) error {
	for {
		seen := v.epoch.Load()
		switch {
		case uint64(epoch) == seen:
			return nil
		case uint64(epoch) < seen:
			return fmt.Errorf("%w: %v is at epoch %d, the operation at %d", backend.ErrStaleEpoch, v.id, seen, epoch)
		case v.epoch.CompareAndSwap(seen, uint64(epoch)):
			return nil
		}
	}
}

type volumes struct {
	// mu guards byID.
	mu   sync.RWMutex
	byID map[backend.VolumeID]*volume
}

func (vs *volumes) get(id backend.VolumeID) *volume {
	vs.mu.RLock()
	v := vs.byID[id]
	vs.mu.RUnlock()
	if v != nil {
		return v
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if v = vs.byID[id]; v == nil {
		v = &volume{id: id}
		vs.byID[id] = v
	}
	return v
}
