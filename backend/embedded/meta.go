package embedded

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// fencingMeta is the MDS, and tells the chunk store of every new epoch before
// its owner hears of it.
type fencingMeta struct {
	*mds.MDS
	b *Backend
}

// OpenVolume implements backend.Meta.
func (m fencingMeta) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	lease, err := m.MDS.OpenVolume(ctx, name, owner, mode)
	if err != nil {
		return backend.Lease{}, err
	}
	if err := m.b.fence(lease.Volume.ID, lease.Epoch); err != nil {
		// Not ctx: a caller who gave up must not leave the volume open.
		closeErr := m.MDS.CloseVolume(context.WithoutCancel(ctx), lease.Volume.ID, lease.Epoch)
		return backend.Lease{}, fmt.Errorf("open volume %q: %w", name, errors.Join(err, closeErr))
	}
	return lease, nil
}

// RemoveVolume implements backend.Meta. What the last owner still sends is
// refused from here on; it could bring deleted chunks back.
func (m fencingMeta) RemoveVolume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	info, err := m.MDS.RemoveVolume(ctx, name)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	// The next open, if the volume is recovered, gets this very epoch.
	if err := m.b.fence(info.ID, info.Epoch+1); err != nil {
		return info, fmt.Errorf("remove volume %q: it is in the recycle bin, but its last owner may still write: %w", name, err)
	}
	m.b.purger.Wake()
	return info, nil
}

// fence makes the chunk store refuse operations on a volume under older epochs.
// A flush is the one operation that needs no chunk.
func (b *Backend) fence(id backend.VolumeID, epoch backend.Epoch) error {
	done := make(opDone, 1)
	op := &backend.Op{Kind: backend.OpFlush, Volume: id, Epoch: epoch, Done: done}
	if !b.chunks.Try(op) {
		b.chunks.Submit(op)
		<-done
	}
	switch {
	case op.Err == nil:
		return nil
	case errors.Is(op.Err, backend.ErrStaleEpoch), errors.Is(op.Err, backend.ErrClosed):
		return fmt.Errorf("fence epochs below %d: %w", epoch, op.Err)
	}
	// The epoch has been seen. That the last owner's unflushed data is lost is
	// the new owner's to learn, from its own first flush; it may want to read.
	b.log.Error("flush for a new owner failed", "volume", uint64(id), "epoch", uint64(epoch), "err", op.Err)
	return nil
}

// opDone hands one finished Op to whoever waits for it; its buffer of one keeps
// OpDone from blocking.
type opDone chan *backend.Op

func (c opDone) OpDone(op *backend.Op) { c <- op }
