package copyset

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

const (
	// mendTimeout bounds one repair; entries are not applied meanwhile.
	mendTimeout = 20 * time.Second
	// mendRetry is the time between two tries to repair what an entry needs.
	mendRetry = time.Second
)

// mendable says whether a read failed for what a copy of the block would cure.
func mendable(err error) bool {
	return errors.Is(err, backend.ErrChecksum) || errors.Is(err, backend.ErrIO)
}

// mender repairs chunks one at a time.
type mender struct {
	mu     sync.Mutex
	jobs   map[backend.ChunkID]*mendJob
	queue  []*mendJob
	wake   chan struct{}
	closed bool
}

// mendJob is one chunk to repair, and who waits for it. whole: its content is lost.
type mendJob struct {
	ref   backend.ChunkRef
	vol   backend.VolumeID
	whole bool
	done  []func(error)
}

func (m *mender) init() {
	m.jobs = make(map[backend.ChunkID]*mendJob)
	m.wake = make(chan struct{}, 1)
}

// ask has a chunk repaired; done is told how that went. It does not wait.
func (m *mender) ask(ref backend.ChunkRef, vol backend.VolumeID, done func(error)) {
	m.add(&mendJob{ref: ref, vol: vol}, done)
}

func (m *mender) add(job *mendJob, done func(error)) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		done(errClosing)
		return
	}
	if known := m.jobs[job.ref.ID]; known != nil {
		job = known
	} else {
		m.jobs[job.ref.ID] = job
		m.queue = append(m.queue, job)
	}
	job.done = append(job.done, done)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take removes the next job, so that those who ask from now on get a new one: what
// they saw may come after the repair's own look.
func (m *mender) take() *mendJob {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 {
		return nil
	}
	job := m.queue[0]
	m.queue = m.queue[1:]
	delete(m.jobs, job.ref.ID)
	return job
}

func (m *mender) close() []*mendJob {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	left := m.queue
	m.queue = nil
	return left
}

func (r *Replica) runMender() {
	for {
		select {
		case <-r.mend.wake:
		case <-r.closing:
			for _, job := range r.mend.close() {
				job.tell(errClosing)
			}
			return
		}
		for job := r.mend.take(); job != nil; job = r.mend.take() {
			r.applyMu.Lock()
			err := r.mendChunk(job)
			r.applyMu.Unlock()
			if err != nil {
				r.slog.Error("cannot repair a chunk", "chunk", job.ref.ID, "err", err)
			}
			if err != nil && job.whole && r.sleep(mendRetry) == nil {
				r.mend.add(job, func(error) {}) // nothing of it may be read until then
				continue
			}
			job.tell(err)
		}
	}
}

func (j *mendJob) tell(err error) {
	for _, done := range j.done {
		done(err)
	}
	j.done = nil
}

// mendForApply repairs the chunk that an entry needs. Others can go on without this
// replica, it cannot go on without that chunk.
func (f fsm) mendForApply(op *backend.Op) error {
	job := &mendJob{ref: op.Chunk, vol: op.Volume}
	for {
		err := f.mendChunk(job)
		if err == nil {
			return nil
		}
		f.setTrouble(fmt.Sprintf("a damaged chunk cannot be repaired: %v", err))
		if err := f.sleep(mendRetry); err != nil {
			return err
		}
	}
}

// mendChunk replaces what is damaged in a chunk by what a peer has. The peer's blocks
// are at or beyond what is applied here, and may be ahead: reads of the chunk wait
// until this replica has got there too. Caller holds applyMu.
func (r *Replica) mendChunk(job *mendJob) error {
	ctx, cancel := context.WithTimeout(r.ctx, mendTimeout)
	defer cancel()
	ranges, whole, err := r.damage(ctx, job)
	if err != nil || len(ranges) == 0 {
		return err
	}
	r.slog.Warn("repairing a chunk from a peer", "chunk", job.ref.ID, "ranges", len(ranges), "whole", whole)
	r.prop.nudge()
	var errs []error
	for _, server := range r.others() {
		got, upTo, err := r.fetch(ctx, server, job, ranges)
		if err != nil {
			errs = append(errs, fmt.Errorf("%v from %v: %w", job.ref.ID, server, err))
			continue
		}
		r.reads.setFloor(job.ref.ID, noFloor)
		raise(&r.ceiling, upTo)
		if whole {
			err = r.rewrite(ctx, job, got)
		} else {
			err = r.patch(job, ranges, got)
		}
		if err != nil && whole {
			job.whole = true // the floor stays until it is done
			return err
		}
		r.reads.setFloor(job.ref.ID, upTo)
		r.reads.kick()
		return err
	}
	return errors.Join(append(errs, fmt.Errorf("%w: %v: no peer can help", backend.ErrChecksum, job.ref.ID))...)
}

// blockRange is count blocks from first on.
type blockRange struct{ first, count int }

// damage finds the ranges of blocks that have to be replaced.
func (r *Replica) damage(ctx context.Context, job *mendJob) (ranges []blockRange, whole bool, err error) {
	all := []blockRange{{0, int(job.ref.Size / BlockBytes)}}
	if job.whole || r.reads.unknown(job.ref.ID) { // or an earlier try was cut short
		return all, true, nil
	}
	bad, err := r.store.Damaged(ctx, job.ref, job.vol, nil)
	if errors.Is(err, backend.ErrChecksum) {
		return all, true, nil
	}
	for _, block := range bad {
		if n := len(ranges); n > 0 && ranges[n-1].first+ranges[n-1].count == block {
			ranges[n-1].count++
			continue
		}
		ranges = append(ranges, blockRange{block, 1})
	}
	return ranges, false, err
}

// fetch gets ranges of blocks into memory: nothing is replaced before all is there.
// Blocks that are not in the result are holes.
func (r *Replica) fetch(ctx context.Context, server backend.ServerID, job *mendJob, ranges []blockRange) (map[int][]byte, uint64, error) {
	got := make(map[int][]byte)
	upTo := uint64(0)
	for _, rg := range ranges {
		req := ExportRequest{Chunk: job.ref, Volume: job.vol, MinApplied: r.applied.Load(), First: rg.first, Count: rg.count}
		info, err := r.opts.Peers.Export(ctx, server, r.opts.ID, req, func(b Block) error {
			if b.Index < rg.first || b.Index >= rg.first+rg.count || !b.Hole && len(b.Data) != BlockBytes {
				return fmt.Errorf("%w: block %d of %d bytes, asked for %d from %d", backend.ErrInvalid, b.Index, len(b.Data), rg.count, rg.first)
			}
			if !b.Hole {
				got[b.Index] = append([]byte(nil), b.Data...)
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
		upTo = max(upTo, info.Applied)
	}
	return got, upTo, nil
}

// patch replaces blocks.
func (r *Replica) patch(job *mendJob, ranges []blockRange, got map[int][]byte) error {
	w := blockWriter{r: r, ref: job.ref, vol: job.vol}
	for _, rg := range ranges {
		for block := rg.first; block < rg.first+rg.count; block++ {
			data := got[block]
			if err := w.put(Block{Index: block, Hole: data == nil, Data: data}); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// rewrite makes a chunk anew whose file is damaged as a whole. Until that is durable,
// a mark says that the file, whole as it may look, is not.
func (r *Replica) rewrite(ctx context.Context, job *mendJob, got map[int][]byte) error {
	if err := r.setMendMark(job, true); err != nil {
		return err
	}
	if err := r.store.Delete(ctx, job.vol, []backend.ChunkRef{job.ref}); err != nil {
		return err
	}
	w := blockWriter{r: r, ref: job.ref, vol: job.vol}
	for block := range int(job.ref.Size / BlockBytes) {
		if data := got[block]; data != nil {
			if err := w.put(Block{Index: block, Data: data}); err != nil {
				return err
			}
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := r.flush([]backend.VolumeID{job.vol}); err != nil {
		return err
	}
	return r.setMendMark(job, false)
}

// mendPrefix begins the name of a mark: mend-CHUNK-VOLUME-SIZE, in hex. An empty
// file; its name says it all.
const mendPrefix = "mend-"

func (j *mendJob) markName() string {
	return fmt.Sprintf("%s%016x-%016x-%x", mendPrefix, uint64(j.ref.ID), uint64(j.vol), j.ref.Size)
}

func parseMendMark(name string) (*mendJob, bool) {
	fields := strings.Split(strings.TrimPrefix(name, mendPrefix), "-")
	if !strings.HasPrefix(name, mendPrefix) || len(fields) != 3 {
		return nil, false
	}
	var n [3]uint64
	for i, field := range fields {
		var err error
		if n[i], err = strconv.ParseUint(field, 16, 64); err != nil {
			return nil, false
		}
	}
	job := &mendJob{ref: backend.ChunkRef{ID: backend.ChunkID(n[0]), Size: int64(n[2])}, vol: backend.VolumeID(n[1]), whole: true}
	return job, backend.ValidChunkSize(job.ref.Size) && job.markName() == name
}

// setMendMark makes or removes the mark of a chunk, durably.
func (r *Replica) setMendMark(job *mendJob, set bool) error {
	path := r.opts.Dir + "/" + job.markName()
	if set {
		f, err := r.opts.FS.Create(path)
		if err == nil {
			err = f.Close()
		} else if old, openErr := r.opts.FS.Open(path); openErr == nil {
			err = old.Close() // of an earlier try
		}
		if err != nil {
			return disk.Error("mark a chunk for repair", err)
		}
	} else if err := r.opts.FS.Remove(path); err != nil && !disk.NotExist(err) {
		return disk.Error("remove the mark of a repaired chunk", err)
	}
	if err := r.opts.FS.SyncDir(r.opts.Dir); err != nil {
		return disk.Error("sync "+r.opts.Dir, err)
	}
	return nil
}

// loadMendMarks finds repairs that a crash has cut short.
func (r *Replica) loadMendMarks() error {
	names, err := r.opts.FS.ReadDir(r.opts.Dir)
	if err != nil {
		return disk.Error("list "+r.opts.Dir, err)
	}
	for _, name := range names {
		job, ok := parseMendMark(name)
		if !ok {
			continue
		}
		job.ref.Copyset = r.opts.ID
		r.reads.setFloor(job.ref.ID, noFloor)
		r.mend.add(job, func(error) {})
	}
	return nil
}

// unknown says that nothing is known of what a chunk's blocks are up to.
func (s *readers) unknown(id backend.ChunkID) bool {
	if !s.hasFloors.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floors[id] == noFloor
}

// Scrub reads and verifies every chunk, repairing from peers what is damaged.
func (r *Replica) Scrub(ctx context.Context) (ScrubResult, error) {
	var res ScrubResult
	for _, id := range r.chunks.ids() {
		info, exists := r.chunks.get(id)
		if !exists {
			continue
		}
		res.Chunks++
		ref := info.ref(id, r.opts.ID)
		bad, err := r.store.Damaged(ctx, ref, info.volume, nil)
		if len(bad) == 0 && !errors.Is(err, backend.ErrChecksum) {
			if err != nil {
				return res, err
			}
			continue
		}
		res.Damaged++
		done := make(chan error, 1)
		r.mend.ask(ref, info.volume, func(err error) { done <- err })
		select {
		case err := <-done:
			if err == nil {
				res.Repaired++
			}
		case <-ctx.Done():
			return res, ctx.Err()
		}
	}
	return res, nil
}

// ScrubResult counts the chunks that a scrub looked at, found damaged, and repaired.
type ScrubResult struct{ Chunks, Damaged, Repaired int }

// raise moves an atomic up to v.
func raise(a *atomic.Uint64, v uint64) {
	for old := a.Load(); old < v && !a.CompareAndSwap(old, v); old = a.Load() {
	}
}
