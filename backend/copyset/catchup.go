package copyset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// silence is how many heartbeats may be missing before an installation is given up:
// the leader is gone, and raft, which waits for the installation to end, must get to
// elect another. What was pulled is there for the next try.
const silence = 4

// install is FSM.Restore: it makes the chunks what the leader's raft snapshot needs,
// then the snapshot count. Caller holds applyMu.
func (r *Replica) install(from io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(from, maxStateBytes+1))
	if err != nil {
		return err
	}
	st, err := decodeState(data)
	if err != nil {
		return err
	}
	if have := r.applied.Load(); st.applied < have {
		// What is applied here was promised; going back would break that.
		return fmt.Errorf("%w: a raft snapshot of entry %d for a replica that has applied %d", backend.ErrInvalid, st.applied, have)
	}
	r.installing.Store(true)
	defer r.installing.Store(false)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	r.spawn(func() { r.watchLeader(ctx, cancel) })
	began, pulled := time.Now(), r.pulled.Load()
	r.slog.Info("catching up from a raft snapshot", "chunks", len(st.chunks.byID), "applied", r.applied.Load(), "snapshot", st.applied)
	if err := r.pull(ctx, st); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if err := r.flush(st.fence.volumeIDs()); err != nil {
		return fmt.Errorf("catch up: flush: %w", err)
	}
	st.ceiling = max(st.ceiling, r.ceiling.Load())
	if err := r.snaps.installed(st.append(nil)); err != nil {
		return err
	}
	r.fence.become(st.fence)
	r.chunks.replace(st.chunks)
	r.applied.Store(st.applied)
	r.applying.Store(max(st.applied, r.applying.Load()))
	r.afterApply()
	r.slog.Info("caught up", "blocks", r.pulled.Load()-pulled, "took", time.Since(began))
	return nil
}

// watchLeader cancels an installation when the leader falls silent.
func (r *Replica) watchLeader(ctx context.Context, cancel context.CancelFunc) {
	limit := silence * r.opts.Heartbeat
	last := time.Now()
	t := time.NewTicker(r.opts.Heartbeat / 2)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if heard := r.raft.Load().LastContact(); heard.After(last) {
			last = heard
		}
		if time.Since(last) > limit {
			r.slog.Info("giving up catching up: the leader is silent", "for", time.Since(last))
			cancel()
			return
		}
	}
}

// pull makes the chunks contain at least what is in st. They may end up newer, each
// block by itself; see the package comment why that is right.
func (r *Replica) pull(ctx context.Context, st *state) error {
	for _, id := range r.chunks.ids() {
		if _, keep := st.chunks.byID[id]; keep {
			continue
		}
		info, _ := r.chunks.get(id)
		if err := r.store.Delete(ctx, info.volume, []backend.ChunkRef{info.ref(id, r.opts.ID)}); err != nil {
			return err
		}
	}
	for _, id := range st.chunks.ids() {
		info := st.chunks.byID[id]
		if err := r.pullChunk(ctx, info.ref(id, r.opts.ID), info.volume, st.applied); err != nil {
			return err
		}
	}
	return nil
}

// pullChunk copies the blocks that differ from the first peer that can give them.
func (r *Replica) pullChunk(ctx context.Context, ref backend.ChunkRef, vol backend.VolumeID, min uint64) error {
	var errs []error
	for _, server := range r.others() {
		err := r.pullFrom(ctx, server, ref, vol, min)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%v from %v: %w", ref.ID, server, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(append(errs, fmt.Errorf("%w: nobody gives %v", backend.ErrUnreachable, ref.ID))...)
}

func (r *Replica) pullFrom(ctx context.Context, server backend.ServerID, ref backend.ChunkRef, vol backend.VolumeID, min uint64) error {
	have, exists, err := r.store.Sums(ctx, ref, vol, nil)
	if errors.Is(err, backend.ErrChecksum) || errors.Is(err, backend.ErrInvalid) {
		// Damaged as a whole, or not what it should be: it is copied as a whole.
		if err = r.store.Delete(ctx, vol, []backend.ChunkRef{ref}); err == nil {
			have, exists = nil, false
		}
	}
	if err != nil {
		return err
	}
	w := blockWriter{r: r, ref: ref, vol: vol}
	info, err := r.opts.Peers.Export(ctx, server, r.opts.ID, ExportRequest{Chunk: ref, Volume: vol, MinApplied: min, Have: have}, func(b Block) error {
		r.pulled.Add(1)
		if err := r.throttle(ctx); err != nil {
			return err
		}
		return w.put(b)
	})
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	raise(&r.ceiling, info.Applied)
	if !info.Exists && exists {
		return r.store.Delete(ctx, vol, []backend.ChunkRef{ref})
	}
	return nil
}

func (r *Replica) throttle(ctx context.Context) error {
	if r.opts.Throttle == nil {
		return ctx.Err()
	}
	return r.opts.Throttle.WaitN(ctx, BlockBytes)
}

// others are the servers to ask for blocks, the leader first.
func (r *Replica) others() []backend.ServerID {
	voters, learners := membersOf(r.raft.Load().GetConfiguration().Configuration())
	leader, _ := r.life.known()
	var list []backend.ServerID
	if leader != 0 && leader != r.opts.Self {
		list = append(list, leader)
	}
	for _, id := range append(voters, learners...) {
		if id != r.opts.Self && id != leader {
			list = append(list, id)
		}
	}
	return list
}

// blockWriter puts whole blocks into a chunk, neighbours together.
type blockWriter struct {
	r   *Replica
	ref backend.ChunkRef
	vol backend.VolumeID
	// first is the index of the first block in data.
	first int
	data  []byte
}

// writerBlocks is how many blocks are written at once.
const writerBlocks = 64

func (w *blockWriter) put(b Block) error {
	switch {
	case b.Index < 0 || int64(b.Index) >= w.ref.Size/BlockBytes:
		return fmt.Errorf("%w: block %d of %v, which has %d", backend.ErrInvalid, b.Index, w.ref.ID, w.ref.Size/BlockBytes)
	case !b.Hole && len(b.Data) != BlockBytes:
		return fmt.Errorf("%w: block %d of %v has %d bytes, expected %d", backend.ErrInvalid, b.Index, w.ref.ID, len(b.Data), BlockBytes)
	}
	if len(w.data) > 0 && (b.Hole || b.Index != w.first+len(w.data)/BlockBytes || len(w.data) >= writerBlocks*BlockBytes) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if b.Hole {
		return w.change(backend.OpTrim, int64(b.Index)*BlockBytes, BlockBytes, nil)
	}
	if len(w.data) == 0 {
		w.first = b.Index
	}
	w.data = append(w.data, b.Data...)
	return nil
}

func (w *blockWriter) flush() error {
	if len(w.data) == 0 {
		return nil
	}
	err := w.change(backend.OpWrite, int64(w.first)*BlockBytes, int64(len(w.data)), w.data)
	w.data = w.data[:0]
	return err
}

// change makes one change of whole blocks, waiting while the disk is full.
func (w *blockWriter) change(kind backend.OpKind, off, length int64, data []byte) error {
	for {
		err := w.r.do(&backend.Op{
			Kind: kind, Volume: w.vol, Epoch: storeEpoch, Chunk: w.ref, Off: off, Len: length, Data: data,
		})
		if !errors.Is(err, backend.ErrNoSpace) {
			return err
		}
		w.r.setTrouble("the disk is full: copying blocks waits for space")
		if err := w.r.sleep(waitForSpace); err != nil {
			return err
		}
	}
}

// Export gives a chunk's blocks to another replica.
func (r *Replica) Export(ctx context.Context, req ExportRequest, emit func(Block) error) (ExportInfo, error) {
	if err := r.awaitApplied(ctx, req.MinApplied); err != nil {
		return ExportInfo{}, err
	}
	switch {
	case r.installing.Load():
		return ExportInfo{}, fmt.Errorf("%w: %v is itself catching up", backend.ErrBusy, r.opts.Self)
	case r.reads.unknown(req.Chunk.ID):
		return ExportInfo{}, fmt.Errorf("%w: %v is being repaired on %v", backend.ErrChecksum, req.Chunk.ID, r.opts.Self)
	}
	if err := req.Chunk.CheckRange(0, 0); err != nil {
		return ExportInfo{}, err
	}
	if !r.chunks.shown(req.Chunk.ID) {
		return ExportInfo{Applied: r.upTo()}, nil
	}
	count := req.Count
	if count == 0 {
		count = int(req.Chunk.Size/BlockBytes) - req.First
	}
	exists, err := r.store.Blocks(ctx, req.Chunk, req.Volume, req.First, count, req.Have, func(block int, data []byte) error {
		return emit(Block{Index: block, Hole: data == nil, Data: data})
	})
	return ExportInfo{Exists: exists, Applied: r.upTo()}, err
}

// upTo is an index that no block of the replica is beyond.
func (r *Replica) upTo() uint64 { return max(r.applying.Load(), r.ceiling.Load()) }
