package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// askEvery is how often a copyset's servers are asked who leads it while nobody
	// is known to.
	askEvery = 50 * time.Millisecond
	// callTimeout bounds one attempt of a call that should be quick.
	callTimeout = 5 * time.Second
	// chunksPerCall bounds the chunks named in one call.
	chunksPerCall = 4096
	// callsAtOnce bounds the calls for different copysets under way together.
	callsAtOnce = 4
)

// call makes one unary call to a server, waiting for its connection first.
func (c *Chunks) call(ctx context.Context, id backend.ServerID, do func(context.Context, pb.ChunkClient) error) error {
	if c.closed.Load() {
		return errClosed
	}
	s := c.server(id)
	if s == nil {
		return errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	s.mu.Lock()
	conn, changed := s.conn, s.changed
	s.mu.Unlock()
	if conn == nil {
		s.wanted()
		select {
		case <-ctx.Done():
			return c.ended(ctx)
		case <-changed:
		}
		s.mu.Lock()
		conn = s.conn
		s.mu.Unlock()
		if conn == nil {
			return fmt.Errorf("%w: %v", backend.ErrUnreachable, id)
		}
	}
	err := pb.FromStatus(id.String(), do(ctx, pb.NewChunkClient(conn)))
	if err != nil && c.closed.Load() {
		return errClosed
	}
	return err
}

func (c *Chunks) ended(ctx context.Context) error {
	if c.closed.Load() {
		return errClosed
	}
	return ctx.Err()
}

// onLeader makes a call that only the copyset's leader serves, looking for it and
// trying again until ctx ends. The call may be made more than once.
func (c *Chunks) onLeader(ctx context.Context, copyset backend.CopysetID, do func(context.Context, pb.ChunkClient) error) error {
	var last error // why the last attempt failed
	var suspect route
	for {
		known, news := c.routes.leader(copyset)
		if known.leader == 0 || known == suspect {
			if err := c.askAll(ctx, copyset, news); err != nil {
				return searchEnded(copyset, err, last)
			}
			if known, _ = c.routes.leader(copyset); known.leader == 0 {
				continue
			}
		}
		attempt, cancel := context.WithTimeout(ctx, callTimeout)
		err := c.call(attempt, known.leader, do)
		cancel()
		var hint *backend.NotLeaderError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return searchEnded(copyset, ctx.Err(), err)
		case errors.As(err, &hint) && hint.Leader != 0:
			c.routes.told(known.leader, []pb.Route{{Copyset: copyset, Leader: hint.Leader, Term: hint.Term}})
		case !passing(err):
			return err
		}
		last, suspect = err, known
	}
}

func searchEnded(copyset backend.CopysetID, err, last error) error {
	if last == nil {
		return fmt.Errorf("looking for the leader of %v: %w", copyset, err)
	}
	return fmt.Errorf("looking for the leader of %v: %w; last: %w", copyset, err, last)
}

// passing says whether an error is one that another server, or some time, may cure.
func passing(err error) bool {
	for _, p := range []error{
		backend.ErrNotLeader, backend.ErrNoCopyset, backend.ErrOverload, backend.ErrUnreachable,
		backend.ErrOutcomeUnknown, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, p) {
			return !errors.Is(err, backend.ErrClosed)
		}
	}
	return false
}

// askAll asks all servers of a copyset who leads it, and waits a little for news.
func (c *Chunks) askAll(ctx context.Context, copyset backend.CopysetID, news <-chan struct{}) error {
	if c.closed.Load() {
		return errClosed
	}
	group, err := c.where.Copyset(ctx, copyset)
	if err != nil {
		return err
	}
	for _, id := range group.Peers {
		c.Ask(id, copyset)
	}
	timer := time.NewTimer(askEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return c.ended(ctx)
	case <-c.life.Done():
		return errClosed
	case <-news:
	case <-timer.C:
	}
	return nil
}

func refMessage(ref backend.ChunkRef) *pb.ChunkRef {
	return &pb.ChunkRef{Id: uint64(ref.ID), Copyset: uint32(ref.Copyset), Size: ref.Size}
}

// Extents implements backend.Chunks.
func (c *Chunks) Extents(ctx context.Context, vol backend.VolumeID, ref backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	if err := ref.CheckRange(off, length); err != nil {
		return dst, err
	}
	var reply *pb.GetExtentsReply
	err := c.onLeader(ctx, ref.Copyset, func(ctx context.Context, client pb.ChunkClient) (err error) {
		reply, err = client.GetExtents(ctx, &pb.GetExtentsRequest{Volume: uint64(vol), Chunk: refMessage(ref), Offset: off, Length: length})
		return err
	})
	if err != nil {
		return dst, err
	}
	return appendExtents(dst, reply, length)
}

// appendExtents checks that the runs cover the range exactly.
func appendExtents(dst []backend.Extent, reply *pb.GetExtentsReply, length int64) ([]backend.Extent, error) {
	hole, left := reply.GetFirstHole(), length
	out := dst
	for _, n := range reply.GetLengths() {
		if n <= 0 || n > left {
			return dst, fmt.Errorf("%w: answered with a run of %d bytes where %d are left", backend.ErrIO, n, left)
		}
		out = backend.AppendExtent(out, n, hole)
		left -= n
		hole = !hole
	}
	if left != 0 {
		return dst, fmt.Errorf("%w: answered with runs that leave %d bytes of %d out", backend.ErrIO, left, length)
	}
	return out, nil
}

// byCopyset calls do for the chunks of each copyset, a bounded number at a time.
func (c *Chunks) byCopyset(ctx context.Context, chunks []backend.ChunkRef, do func(context.Context, backend.CopysetID, []*pb.ChunkRef) error) error {
	if c.closed.Load() {
		return errClosed
	}
	groups := make(map[backend.CopysetID][]*pb.ChunkRef)
	for _, ref := range chunks {
		groups[ref.Copyset] = append(groups[ref.Copyset], refMessage(ref))
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(callsAtOnce)
	for copyset, refs := range groups {
		work.Go(func() error {
			for len(refs) > 0 {
				n := min(chunksPerCall, len(refs))
				if err := do(ctx, copyset, refs[:n]); err != nil {
					return err
				}
				refs = refs[n:]
			}
			return nil
		})
	}
	return work.Wait()
}

// Usage implements backend.Chunks: what the chunks take on their leaders' disks.
func (c *Chunks) Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error) {
	var mu sync.Mutex
	var total int64
	err := c.byCopyset(ctx, chunks, func(ctx context.Context, copyset backend.CopysetID, refs []*pb.ChunkRef) error {
		return c.onLeader(ctx, copyset, func(ctx context.Context, client pb.ChunkClient) error {
			reply, err := client.GetUsage(ctx, &pb.GetUsageRequest{Copyset: uint32(copyset), Chunks: refs})
			mu.Lock()
			defer mu.Unlock()
			total += reply.GetBytes()
			return err
		})
	})
	return total, err
}

// Delete implements backend.Chunks.
func (c *Chunks) Delete(ctx context.Context, vol backend.VolumeID, chunks []backend.ChunkRef) error {
	return c.byCopyset(ctx, chunks, func(ctx context.Context, copyset backend.CopysetID, refs []*pb.ChunkRef) error {
		return c.onLeader(ctx, copyset, func(ctx context.Context, client pb.ChunkClient) error {
			_, err := client.DeleteChunks(ctx, &pb.DeleteChunksRequest{Copyset: uint32(copyset), Volume: uint64(vol), Chunks: refs})
			return err
		})
	})
}

// TransferLeader hands a copyset's leadership to a server, 0 for whichever is most up
// to date, and returns when that one leads.
func (c *Chunks) TransferLeader(ctx context.Context, copyset backend.CopysetID, to backend.ServerID) error {
	return c.onLeader(ctx, copyset, func(ctx context.Context, client pb.ChunkClient) error {
		_, err := client.TransferLeader(ctx, &pb.TransferLeaderRequest{Copyset: uint32(copyset), To: uint32(to)})
		return err
	})
}

// ServerStatus asks a chunkserver for its own view of itself.
func (c *Chunks) ServerStatus(ctx context.Context, id backend.ServerID) (*pb.ServerStatus, error) {
	var reply *pb.ServerStatus
	err := c.call(ctx, id, func(ctx context.Context, client pb.ChunkClient) (err error) {
		reply, err = client.GetServerStatus(ctx, &pb.GetServerStatusRequest{})
		return err
	})
	return reply, err
}

// Snapshot has a chunkserver take a raft snapshot of its replica of a copyset.
func (c *Chunks) Snapshot(ctx context.Context, id backend.ServerID, copyset backend.CopysetID) error {
	return c.call(ctx, id, func(ctx context.Context, client pb.ChunkClient) error {
		_, err := client.SnapshotCopyset(ctx, &pb.SnapshotCopysetRequest{Copyset: uint32(copyset)})
		return err
	})
}

// Scrub has a chunkserver verify its replica of a copyset.
func (c *Chunks) Scrub(ctx context.Context, id backend.ServerID, copyset backend.CopysetID) (*pb.ScrubCopysetReply, error) {
	var reply *pb.ScrubCopysetReply
	err := c.call(ctx, id, func(ctx context.Context, client pb.ChunkClient) (err error) {
		reply, err = client.ScrubCopyset(ctx, &pb.ScrubCopysetRequest{Copyset: uint32(copyset)})
		return err
	})
	return reply, err
}
