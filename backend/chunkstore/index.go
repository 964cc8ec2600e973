package chunkstore

import (
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

// indexShards is a power of two, large enough that lookups rarely meet.
const indexShards = 64

// index knows every chunk that has a file, and those that are open. It is
// exact, so that the absence of a chunk is known without asking the disk.
type index struct {
	shards [indexShards]indexShard
}

type indexShard struct {
	// mu guards all fields. Never held across IO.
	mu    sync.RWMutex
	files map[backend.ChunkID]struct{}
	open  map[backend.ChunkID]*chunk
	// ring holds the values of open, for the eviction clock.
	ring []*chunk
}

func newIndex() *index {
	x := &index{}
	for i := range x.shards {
		x.shards[i].files = make(map[backend.ChunkID]struct{})
		x.shards[i].open = make(map[backend.ChunkID]*chunk)
	}
	return x
}

// hashChunk spreads ids that count up, whatever their step.
func hashChunk(id backend.ChunkID) uint32 { return uint32((uint64(id) * 0x9e3779b97f4a7c15) >> 32) }

func (x *index) shard(id backend.ChunkID) *indexShard {
	return &x.shards[hashChunk(id)%indexShards]
}

// lookup returns the open chunk, or nil and whether it has a file.
func (x *index) lookup(id backend.ChunkID) (c *chunk, hasFile bool) {
	sh := x.shard(id)
	sh.mu.RLock()
	c = sh.open[id]
	if c == nil {
		_, hasFile = sh.files[id]
	}
	sh.mu.RUnlock()
	return c, hasFile
}

// insert adds c to the open chunks unless there is one; it returns the one that
// is in, and whether the chunk has a file.
func (x *index) insert(c *chunk) (in *chunk, hasFile bool) {
	sh := x.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, hasFile = sh.files[c.id]
	if other := sh.open[c.id]; other != nil {
		return other, hasFile
	}
	sh.open[c.id] = c
	c.ringPos = len(sh.ring)
	sh.ring = append(sh.ring, c)
	return c, hasFile
}

// remove takes c out of the open chunks.
func (x *index) remove(c *chunk) {
	sh := x.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.open[c.id] != c {
		return
	}
	delete(sh.open, c.id)
	last := len(sh.ring) - 1
	moved := sh.ring[last]
	sh.ring[c.ringPos] = moved
	moved.ringPos = c.ringPos
	sh.ring[last] = nil
	sh.ring = sh.ring[:last]
}

// setFile records that the chunk has a file, or has none, and says whether that
// is news.
func (x *index) setFile(id backend.ChunkID, has bool) bool {
	sh := x.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, had := sh.files[id]
	if has {
		sh.files[id] = struct{}{}
	} else {
		delete(sh.files, id)
	}
	return had != has
}

// appendOpen appends the open chunks of shard i.
func (x *index) appendOpen(dst []*chunk, i int) []*chunk {
	sh := &x.shards[i]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return append(dst, sh.ring...)
}

// ids returns the chunks that have a file, in order.
func (x *index) ids() []backend.ChunkID {
	var ids []backend.ChunkID
	for i := range x.shards {
		sh := &x.shards[i]
		sh.mu.RLock()
		for id := range sh.files {
			ids = append(ids, id)
		}
		sh.mu.RUnlock()
	}
	slices.Sort(ids)
	return ids
}
