package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// On replicas an open shuts earlier ones out of a copyset with its first operation
// there, and not before: who lost the volume and does not know may still write to the
// copysets that nobody has used since. FenceEarlier is for those to whom that is too
// late.

// fencing is a run of FenceEarlier.
type fencing struct {
	done chan struct{}
	err  error // once done is closed
}

// failed says that another run is needed.
func (f *fencing) failed() bool {
	select {
	case <-f.done:
		return f.err != nil
	default:
		return false
	}
}

// FenceEarlier returns once no earlier open can change the volume any more: after one
// operation on each copyset that it has chunks on. Chunks to come are no matter, as Meta
// gives them to the last open only. It waits for as long as a copyset has no leader,
// and costs nothing once it has succeeded. Elsewhere than on replicas an open does that
// by itself.
func (v *Volume) FenceEarlier(ctx context.Context) error {
	if v.router == nil {
		return nil
	}
	v.earlierMu.Lock()
	f := v.earlier
	if f == nil || f.failed() {
		if !v.enter() {
			v.earlierMu.Unlock()
			return backend.ErrClosed
		}
		f = &fencing{done: make(chan struct{})}
		v.earlier = f
		v.resolvers.Go(func() {
			f.err = v.fenceEarlier()
			close(f.done)
			v.leave()
		})
	}
	v.earlierMu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("fence earlier opens of volume %q: %w", v.name, ctx.Err())
	}
}

func (v *Volume) fenceEarlier() error {
	segments, err := v.meta.Segments(v.ctx, v.id)
	if err != nil {
		return err
	}
	chunks := make(map[backend.CopysetID]backend.ChunkRef)
	for _, s := range segments {
		for _, chunk := range s.Chunks {
			chunks[chunk.Copyset] = chunk
		}
	}
	over := make(requests, len(chunks))
	for _, chunk := range chunks {
		if !v.enter() {
			over <- &Request{Err: backend.ErrClosed}
			continue
		}
		r := &Request{Op: backend.OpFlush, Arrived: Now(), Done: over, volume: v}
		r.pending.Store(1)
		op := backend.Op{Kind: backend.OpFlush, Volume: v.id, Epoch: v.epoch, Chunk: chunk, Done: &r.first}
		r.first = piece{op: op, req: r, dispatchedAt: r.Arrived, sentAt: r.Arrived}
		v.queued.add(r)
		v.router.submit(&r.first)
	}
	var errs []error
	for range chunks {
		errs = append(errs, (<-over).Err)
	}
	return errors.Join(errs...)
}

type requests chan *Request

func (c requests) RequestDone(r *Request) { c <- r }
