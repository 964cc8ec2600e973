package chunkstore

import (
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// volume is what the store remembers of a volume while it is open.
type volume struct {
	id    backend.VolumeID
	fence backend.Fence

	// mu guards the fields below. Never held across IO.
	mu sync.Mutex
	// dirty are the open chunks with changes that no flush has taken up.
	dirty []*chunk
	// flushing: a flush worker has this volume, or is about to get it.
	flushing bool
	// waiting are flushes for the next run.
	waiting []*backend.Op

	// Of the flush run under way; its worker alone uses them, and those that
	// sync for it between run.Add and run.Done.
	run      sync.WaitGroup
	runList  []*chunk
	runOps   []*backend.Op
	runError atomic.Pointer[error]
}

// admit raises the volume's epoch, or refuses an older one.
func (v *volume) admit(epoch backend.Epoch) error { return v.fence.Admit(v.id, epoch) }

// push adds c to the unflushed chunks. Caller holds c.mu and has set c.queued.
func (v *volume) push(c *chunk) {
	v.mu.Lock()
	if c.dirtyPos < 0 {
		c.dirtyPos = len(v.dirty)
		v.dirty = append(v.dirty, c)
	}
	v.mu.Unlock()
}

// drop takes c off the unflushed chunks.
func (v *volume) drop(c *chunk) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.dirtyPos < 0 {
		return
	}
	last := len(v.dirty) - 1
	moved := v.dirty[last]
	v.dirty[c.dirtyPos] = moved
	moved.dirtyPos = c.dirtyPos
	v.dirty[last] = nil
	v.dirty = v.dirty[:last]
	c.dirtyPos = -1
}

// idle says that a flush of the volume has nothing to do.
func (v *volume) idle() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.dirty) == 0 && !v.flushing
}

// takeRun moves what waits and what is dirty into the run's fields, and reports
// false, ending the volume's turn, when nobody waits. What is acknowledged from
// here on belongs to the next run.
func (v *volume) takeRun() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.waiting) == 0 {
		v.flushing = false
		return false
	}
	v.waiting, v.runOps = v.runOps[:0], v.waiting
	v.dirty, v.runList = v.runList[:0], v.dirty
	for _, c := range v.runList {
		c.dirtyPos = -1
	}
	v.runError.Store(nil)
	return true
}

// volumes is every volume seen.
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
