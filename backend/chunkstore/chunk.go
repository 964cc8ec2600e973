package chunkstore

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// chunkState is where an open chunk stands between memory and disk:
//
//	          first change                     idle, evicted, closing
//	absent ──────────────────► dirty ───────────────────────────────► cleaning
//	   ▲     file created,     ▲   │ whole chunk trimmed                 │
//	   │     born dirty        │   ▼                                     │ header
//	   ├───────────────────────┼── any                                   │ synced
//	   │                       │ first change: mark synced               ▼
//	   └───────────────────────┴─────────────────────────────────────── clean
//
// Only a dirty chunk may be changed in place.
type chunkState uint8

const (
	// stateAbsent: no file; reads as zeros.
	stateAbsent chunkState = iota
	// stateDirty: whatever of the file may be on the disk, its header says dirty.
	stateDirty
	// stateCleaning: the header is being rewritten as clean; changes wait.
	stateCleaning
	// stateClean: header, table and data are on the disk and agree.
	stateClean
)

// chunk is one chunk in memory. Its two locks are taken in the order sync, mu.
// A field guarded by both is changed with both held and read with either.
type chunk struct {
	id   backend.ChunkID
	lay  layout
	path string

	// sync serializes what rewrites header or table, syncs, and makes, removes
	// or closes the file. It is held across disk IO; Try never waits for it.
	sync sync.Mutex
	// mu orders changes and reads. Held shared across reads and exclusively
	// across writes to the page cache, never across a sync.
	mu sync.RWMutex

	// Guarded by both.
	file  disk.File
	state chunkState
	vol   *volume
	// gone: put out of memory; whoever holds a pointer looks the chunk up again.
	gone bool

	// Guarded by mu.
	table []uint32
	// dirtyPages has a bit for each page of table that differs from the file.
	dirtyPages uint32
	// duePages are those of them that the next flush writes: a page can wait for
	// the chunk to be cleaned unless reconcile could not compute it anew, which
	// takes zeros for a hole where the entry does not say that they have space.
	// The holder of sync may change bits of both with mu held shared.
	duePages uint32
	// gen counts changes.
	gen uint64
	// queued: in its volume's list of unflushed chunks, or about to be flushed
	// from it. The holder of sync may change it with mu held shared.
	queued bool

	// Guarded by sync.
	flushedGen uint64
	// synced: a sync of the whole file has succeeded, so its header is durable.
	synced bool
	// sealed: the seal is written.
	sealed bool
	// entryDirty: the directory has a change of this chunk's name to sync.
	entryDirty bool

	// poison is set by a failed sync, and cleared with the file it was of.
	poison atomic.Pointer[poisonError]

	// touched is the store's tick at the last change.
	touched atomic.Uint32
	// used is the second chance before eviction.
	used atomic.Bool
	// ringPos is guarded by the index shard.
	ringPos int
	// dirtyPos is the position in volume.dirty, -1 for none; guarded by volume.mu.
	dirtyPos int
}

// poisonError is the failed sync of a chunk, as every later flush reports it.
type poisonError struct{ err error }

func (p *poisonError) Error() string {
	return "an earlier sync failed and the disk may have dropped data: " + p.err.Error()
}

func (p *poisonError) Unwrap() []error { return []error{backend.ErrIO, p.err} }

func (s *Store) newChunk(ref backend.ChunkRef, vol *volume) *chunk {
	dir, name := chunkName(ref.ID)
	return &chunk{id: ref.ID, lay: layoutOf(ref.Size), path: s.dir + "/" + dir + "/" + name, vol: vol, dirtyPos: -1}
}

// checkOwner refuses an operation whose idea of the chunk differs from the
// chunk's. Caller holds mu.
func (c *chunk) checkOwner(ref backend.ChunkRef, vol backend.VolumeID) error {
	if c.vol.id != vol {
		return fmt.Errorf("%w: %v belongs to %v, not %v", backend.ErrInvalid, c.id, c.vol.id, vol)
	}
	if c.lay.size != ref.Size {
		return fmt.Errorf("%w: %v is of %d bytes, the operation says %d", backend.ErrInvalid, c.id, c.lay.size, ref.Size)
	}
	return nil
}

// setEntry changes a table entry. Caller holds mu exclusively.
func (c *chunk) setEntry(block int, sum uint32) {
	was := c.table[block]
	if was == sum {
		return
	}
	c.table[block] = sum
	c.dirtyPages |= 1 << (block / entriesPerPage)
	if was == zeroBlockSum || sum == zeroBlockSum {
		c.duePages |= 1 << (block / entriesPerPage)
	}
}

// changed notes a change of content. Caller holds mu exclusively.
func (s *Store) changed(c *chunk) {
	c.gen++
	c.touched.Store(s.tick.Load())
	if !c.queued {
		c.queued = true
		c.vol.push(c)
	}
}

// touch gives c its second chance; the load keeps the line shared when it has.
func (c *chunk) touch() {
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// clearAbsent makes c a chunk without a file. Caller holds both locks.
func (c *chunk) clearAbsent() {
	c.file, c.state, c.table, c.dirtyPages, c.duePages = nil, stateAbsent, nil, 0, 0
	c.synced, c.sealed = false, false
	c.poison.Store(nil)
}
