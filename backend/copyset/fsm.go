package copyset

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// storeEpoch is the epoch of every operation on the store: its fence must not
// interfere with ours, which is replicated.
const storeEpoch = 1

// fsm is the Replica as raft's state machine. Its methods run on one goroutine.
type fsm struct{ *Replica }

var _ raft.BatchingFSM = fsm{}

// Apply implements raft.FSM.
func (f fsm) Apply(log *raft.Log) any { return f.ApplyBatch([]*raft.Log{log})[0] }

// ApplyBatch implements raft.BatchingFSM. The outcome of an entry is told to those
// who wait for it, not to raft.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	f.applyMu.Lock()
	defer f.applyMu.Unlock()
	responses := make([]any, len(logs))
	if f.failed.Load() != nil {
		return responses
	}
	last := logs[len(logs)-1].Index
	// An entry may be committed by the others before our own copy is durable. The
	// chunks must never be ahead of our log, nor an acknowledgement ahead of it.
	if err := f.log.WaitDurable(last); err != nil {
		f.fail(fmt.Errorf("raft log: %w", err))
		return responses
	}
	w := waves.Get().(*wave)
	f.applying.Store(last)
	if err := f.applyLogs(w, logs); err != nil {
		f.abandon(w, err)
	}
	w.reset()
	waves.Put(w)
	f.afterApply()
	return responses
}

// applyLogs applies entries in waves of a bounded number of operations.
func (f fsm) applyLogs(w *wave, logs []*raft.Log) error {
	for _, log := range logs {
		switch log.Type {
		case raft.LogConfiguration:
			conf := raft.DecodeConfiguration(log.Data)
			f.agreed.Store(&conf)
			f.configureNet()
		case raft.LogCommand:
			if err := f.gather(w, log); err != nil {
				return fmt.Errorf("entry %d: %w", log.Index, err)
			}
		}
		w.last = log.Index
		if w.n+2*maxBatchOps > len(w.ops) {
			if err := f.settle(w); err != nil {
				return err
			}
		}
	}
	return f.settle(w)
}

// gather decodes an entry, has the fence decide, and adds to the wave what is to
// be done.
func (f fsm) gather(w *wave, log *raft.Log) error {
	c, err := decodeCommand(log.Data)
	if err != nil {
		return err
	}
	p := f.prop.take(&c)
	if p != nil {
		w.answers = append(w.answers, answer{p: p})
	}
	switch c.kind {
	case kindBatch:
		f.gatherBatch(w, &c, p)
	case kindFence:
		volume, epoch := c.fence()
		if f.fence.raise(volume, epoch) == nil && p != nil && !f.opts.Unfenced {
			w.answers[len(w.answers)-1].err = f.staleEpoch(volume, epoch)
		}
	case kindDelete:
		return f.gatherDelete(w, &c)
	case kindBarrier:
	}
	return nil
}

func (f fsm) gatherBatch(w *wave, c *command, p *proposal) {
	rest := c.body
	for i := range c.count {
		op := &w.ops[w.n+1] // one in front is for readying the chunk
		rest, _ = decodeOp(rest, op)
		err := f.admit(w, op)
		if p != nil {
			w.outcomes = append(w.outcomes, outcome{op: p.ops[i], err: err})
		}
	}
}

// admit has fence and chunk set decide on the operation in the wave's next slot
// but one, and takes it into the wave if it is to be applied.
func (f fsm) admit(w *wave, op *backend.Op) error {
	if !f.opts.Unfenced {
		switch f.fence.decide(op) {
		case verdictDone:
			return nil
		case verdictStale:
			return f.staleEpoch(op.Volume, op.Epoch)
		}
	} else {
		f.fence.raise(op.Volume, max(op.Epoch, f.fence.epochOf(op.Volume)))
	}
	info, exists := f.chunks.get(op.Chunk.ID)
	if exists && (info.volume != op.Volume || info.size != op.Chunk.Size) {
		return fmt.Errorf("%w: %v is of %v and %d bytes, the operation says %v and %d", backend.ErrInvalid,
			op.Chunk.ID, info.volume, info.size, op.Volume, op.Chunk.Size)
	}
	op.Chunk.Copyset = f.opts.ID
	op.Epoch, op.Flags = storeEpoch, op.Flags&backend.FlagNoHole
	switch frees := freesSpace(op); {
	case frees && !exists:
		return nil
	case frees && op.Len == op.Chunk.Size:
		f.chunks.remove(op.Chunk.ID)
		w.touched = append(w.touched, op.Chunk.ID)
	case !exists:
		// The log makes this chunk now. A file of that name is from this very log,
		// before a restart, or from an earlier life of the replica: it goes.
		f.chunks.create(op.Chunk.ID, chunkInfo{volume: op.Volume, size: op.Chunk.Size})
		w.touched = append(w.touched, op.Chunk.ID)
		w.ops[w.n] = backend.Op{Kind: backend.OpTrim, Volume: op.Volume, Epoch: storeEpoch, Chunk: op.Chunk, Len: op.Chunk.Size}
		w.n += 2
		return nil
	}
	w.ops[w.n] = *op
	w.n++
	return nil
}

// gatherDelete frees chunks, which are applied before it returns: there may be
// more of them than a wave holds.
func (f fsm) gatherDelete(w *wave, c *command) error {
	volume := c.deleteVolume()
	for i := range c.count {
		ref := c.deleted(i)
		info, exists := f.chunks.get(ref.ID)
		if !exists || info.volume != volume {
			continue
		}
		if w.n == len(w.ops) {
			if err := f.settleOps(w); err != nil {
				return err
			}
		}
		f.chunks.remove(ref.ID)
		w.touched = append(w.touched, ref.ID)
		w.ops[w.n] = backend.Op{
			Kind: backend.OpTrim, Volume: volume, Epoch: storeEpoch,
			Chunk: info.ref(ref.ID, f.opts.ID), Len: info.size,
		}
		w.n++
	}
	if w.n+2*maxBatchOps > len(w.ops) {
		return f.settleOps(w)
	}
	return nil
}

// settle makes the wave's changes, moves the applied index and answers.
func (f fsm) settle(w *wave) error {
	if err := f.settleOps(w); err != nil {
		return err
	}
	if w.last > f.applied.Load() {
		f.applied.Store(w.last)
	}
	w.answer(&f.prop, nil)
	return nil
}

// waitForSpace is the time between two tries of what a full disk has refused.
const waitForSpace = 100 * time.Millisecond

// settleOps makes the changes until all are made. When one was refused for a reason
// that passes, the whole wave is made again, in order: a later change of the same
// blocks may have succeeded. That is idempotent as long as nobody looks in between.
func (f fsm) settleOps(w *wave) error {
	for again := false; w.n > 0; again = true {
		if again {
			f.redo.Add(1)
		}
		w.run(f.store)
		if again {
			f.redo.Add(1)
			f.reads.kick()
		}
		retry, err := f.overcome(w)
		if err != nil {
			return err
		}
		if !retry {
			w.n = 0
		}
	}
	if len(w.touched) > 0 {
		f.chunks.settle(w.touched)
		w.touched = w.touched[:0]
	}
	f.setTroubleIfAny("")
	return nil
}

func (f fsm) setTroubleIfAny(what string) {
	if what != "" || f.trouble.Load() != nil {
		f.setTrouble(what)
	}
}

// overcome deals with what went wrong in a wave. What it cannot deal with is an
// error: then this replica's chunks are not what the log says.
func (f fsm) overcome(w *wave) (retry bool, err error) {
	full := false
	for i := range w.n {
		op := &w.ops[i]
		switch err := op.Err; {
		case err == nil:
		case errors.Is(err, backend.ErrNoSpace):
			full, retry = true, true
		case errors.Is(err, backend.ErrChecksum):
			retry = true
			if err := f.mendForApply(op); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("apply %v of %v: %w", op.Kind, op.Chunk.ID, err)
		}
	}
	if !full {
		return retry, nil
	}
	f.setTrouble("the disk is full: committed changes wait for space")
	return retry, f.sleep(waitForSpace)
}

// sleep waits unless the replica closes.
func (r *Replica) sleep(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.closing:
		return errClosing
	}
}

// abandon answers what a wave cannot bring to its end: committed, and to be applied
// by others, or by this replica after a restart.
func (f fsm) abandon(w *wave, err error) {
	if !errors.Is(err, errClosing) {
		f.fail(err)
	}
	w.answer(&f.prop, fmt.Errorf("%w: %w", backend.ErrOutcomeUnknown, err))
}

func (r *Replica) afterApply() {
	r.appliedNews.tell()
	if r.reads.floored() {
		r.reads.kick()
	}
}

// Snapshot implements raft.FSM: it captures the state as of now.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.failure(); err != nil {
		return nil, err
	}
	st := state{fence: f.fence, chunks: f.chunks, applied: f.applied.Load(), ceiling: f.ceiling.Load()}
	data := st.append(nil)
	if len(data) > maxStateBytes {
		return nil, fmt.Errorf("%w: raft snapshot of %d bytes, at most %d: spread the chunks over more copysets",
			backend.ErrInvalid, len(data), maxStateBytes)
	}
	return &capture{r: f.Replica, data: data, volumes: f.fence.volumeIDs()}, nil
}

// Restore implements raft.FSM; see catchup.go.
func (f fsm) Restore(from io.ReadCloser) error {
	f.applyMu.Lock()
	defer f.applyMu.Unlock()
	if err := f.failure(); err != nil {
		return err
	}
	if err := f.install(from); err != nil {
		return err
	}
	f.agreeToSnapshot()
	return nil
}
