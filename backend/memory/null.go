package memory

import (
	"context"

	"github.com/opencurve/curve-nbd/backend"
)

// Null completes every operation at once and moves no data: writes are
// forgotten, reads leave Data as it was. It measures what lies above a backend
// and deliberately breaks the contract of backend.Chunks.
type Null struct{}

var _ backend.Chunks = Null{}

// Try implements backend.Chunks; it always completes the operation.
func (Null) Try(op *backend.Op) bool {
	op.Err, op.Hole = nil, false
	return true
}

// Submit implements backend.Chunks; Done is called before it returns.
func (n Null) Submit(op *backend.Op) {
	n.Try(op)
	if op.Done != nil {
		op.Done.OpDone(op)
	}
}

// Extents claims that everything has space.
func (Null) Extents(_ context.Context, _ backend.VolumeID, _ backend.ChunkRef, _, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	return backend.AppendExtent(dst, length, false), nil
}

// Usage is always 0.
func (Null) Usage(context.Context, []backend.ChunkRef) (int64, error) { return 0, nil }

// Delete has nothing to delete.
func (Null) Delete(context.Context, backend.VolumeID, []backend.ChunkRef) error { return nil }

// Close has nothing to close.
func (Null) Close() error { return nil }
