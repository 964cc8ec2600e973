package copyset

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Extents implements backend.Chunks', served by the leader only.
func (r *Replica) Extents(ctx context.Context, vol backend.VolumeID, chunk backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	kept := len(dst)
	for {
		l := r.lead.Load()
		if l == nil {
			return dst[:kept], r.notLeader()
		}
		redo := r.redo.Load()
		probe := backend.Op{Volume: vol, Epoch: r.fence.epochOf(vol), Chunk: chunk}
		err := r.readable(&probe, l, redo)
		if err == nil && !r.chunks.shown(chunk.ID) {
			if err = chunk.CheckRange(off, length); err != nil {
				return dst[:kept], err
			}
			dst = backend.AppendExtent(dst[:kept], length, true)
		} else if err == nil {
			if dst, err = r.store.Extents(ctx, vol, chunk, off, length, dst[:kept]); err != nil {
				return dst[:kept], err
			}
		}
		if err == nil {
			err = r.readable(&probe, l, redo)
		}
		switch {
		case err == nil:
			return dst, nil
		case !errors.Is(err, errParked) && !errors.Is(err, backend.ErrStaleEpoch):
			return dst[:kept], err
		}
		if err := r.awaitReadable(ctx, l); err != nil {
			return dst[:kept], err
		}
	}
}

// awaitReadable waits a little, for the lease or for what else keeps a look.
func (r *Replica) awaitReadable(ctx context.Context, l *leadership) error {
	if time.Now().Before(r.net.LeaseUntil()) {
		t := time.NewTimer(time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if err := r.net.AwaitLease(both); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return r.sleep(leaseRetry)
	}
	return nil
}

// Usage implements backend.Chunks', served by the leader only.
func (r *Replica) Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error) {
	if r.lead.Load() == nil {
		return 0, r.notLeader()
	}
	return r.store.Usage(ctx, chunks)
}

// Delete implements backend.Chunks', served by the leader only.
func (r *Replica) Delete(ctx context.Context, vol backend.VolumeID, chunks []backend.ChunkRef) error {
	for _, ref := range chunks {
		if !backend.ValidChunkSize(ref.Size) {
			return fmt.Errorf("%w: delete %v of %d bytes", backend.ErrInvalid, ref.ID, ref.Size)
		}
	}
	for len(chunks) > 0 {
		n := min(len(chunks), maxDeleteRefs)
		done := make(chan error, 1)
		if err := r.prop.command(kindDelete, n, encodeDelete(vol, chunks[:n]), func(err error) { done <- err }); err != nil {
			return r.notLeader()
		}
		select {
		case err := <-done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		chunks = chunks[n:]
	}
	return nil
}
