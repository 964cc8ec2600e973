package memory

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	blockSize     = backend.ChecksumBlock
	pageSize      = 64 << 10
	blocksPerPage = pageSize / blockSize

	// shardCount is a power of two, large enough that lookups rarely meet.
	shardCount = 64
)

// Chunks is a set of chunks in RAM.
type Chunks struct {
	shards  [shardCount]shard
	closed  atomic.Bool
	volumes volumes
	slab    slab
}

type shard struct {
	// mu guards chunks.
	mu     sync.RWMutex
	chunks map[backend.ChunkID]*chunk
}

// chunk is one chunk; it stays in its shard, empty, after a trim of all of it.
type chunk struct {
	vol  *volume
	size int64

	// mu guards the fields below and the content of the pages.
	mu    sync.RWMutex
	pages []page
	// gone: deleted; look it up again.
	gone bool
}

// page is pageSize bytes, or none; what has no bit in blocks is undefined. The
// bits are beside the pointer, not the data: a random access misses the caches
// once less.
type page struct {
	data   *[pageSize]byte
	blocks uint16
}

var _ backend.Chunks = (*Chunks)(nil)

// New returns an empty set.
func New() *Chunks {
	m := &Chunks{volumes: volumes{byID: make(map[backend.VolumeID]*volume)}}
	for i := range m.shards {
		m.shards[i].chunks = make(map[backend.ChunkID]*chunk)
	}
	return m
}

func (m *Chunks) shard(id backend.ChunkID) *shard {
	return &m.shards[(uint64(id)*0x9e3779b97f4a7c15)>>32%shardCount]
}

func (m *Chunks) lookup(id backend.ChunkID) *chunk {
	sh := m.shard(id)
	sh.mu.RLock()
	c := sh.chunks[id]
	sh.mu.RUnlock()
	return c
}

func (m *Chunks) lookupOrMake(op *backend.Op) *chunk {
	if c := m.lookup(op.Chunk.ID); c != nil {
		return c
	}
	vol := m.volumes.get(op.Volume)
	sh := m.shard(op.Chunk.ID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.chunks[op.Chunk.ID]
	if c == nil {
		c = &chunk{vol: vol, size: op.Chunk.Size, pages: make([]page, (op.Chunk.Size+pageSize-1)/pageSize)}
		sh.chunks[op.Chunk.ID] = c
	}
	return c
}

// Try implements backend.Chunks; it always completes the operation.
func (m *Chunks) Try(op *backend.Op) bool {
	op.Err = m.do(op)
	return true
}

// Submit implements backend.Chunks; Done is called before it returns.
func (m *Chunks) Submit(op *backend.Op) {
	op.Err = m.do(op)
	if op.Done != nil {
		op.Done.OpDone(op)
	}
}

func (m *Chunks) do(op *backend.Op) error {
	if err := op.Check(); err != nil {
		return err
	}
	if m.closed.Load() {
		return errClosed
	}
	switch op.Kind {
	case backend.OpRead:
		return m.read(op)
	case backend.OpFlush:
		return m.volumes.get(op.Volume).admit(op.Epoch)
	}
	return m.change(op)
}

func (m *Chunks) read(op *backend.Op) error {
	c := m.lookup(op.Chunk.ID)
	if c == nil {
		op.Hole = true
		clear(op.Data)
		return m.volumes.get(op.Volume).admit(op.Epoch)
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	op.Hole = false
	if err := c.admit(op); err != nil {
		return err
	}
	op.Hole = c.read(op.Data, op.Off)
	return nil
}

func (m *Chunks) change(op *backend.Op) error {
	creates := op.Kind == backend.OpWrite || op.Flags.Has(backend.FlagNoHole) && op.Kind == backend.OpZero
	for {
		if m.closed.Load() {
			return errClosed
		}
		c := m.lookup(op.Chunk.ID)
		if c == nil && !creates {
			return m.volumes.get(op.Volume).admit(op.Epoch)
		}
		if c == nil {
			c = m.lookupOrMake(op)
		}
		c.mu.Lock()
		if c.gone {
			c.mu.Unlock()
			continue
		}
		err := c.admit(op)
		if err == nil {
			c.apply(m, op)
		}
		c.mu.Unlock()
		return err
	}
}

// admit checks who asks, with mu held, so that an epoch that passes cannot be
// outdated before the operation has run.
func (c *chunk) admit(op *backend.Op) error {
	if c.vol.id != op.Volume {
		return fmt.Errorf("%w: %v belongs to %v, not %v", backend.ErrInvalid, op.Chunk.ID, c.vol.id, op.Volume)
	}
	if c.size != op.Chunk.Size {
		return fmt.Errorf("%w: %v is of %d bytes, the operation says %d", backend.ErrInvalid, op.Chunk.ID, c.size, op.Chunk.Size)
	}
	return c.vol.admit(op.Epoch)
}

func (c *chunk) apply(m *Chunks, op *backend.Op) {
	switch {
	case op.Kind == backend.OpWrite:
		c.write(m, op.Data, op.Off)
	case op.Kind == backend.OpZero && op.Flags.Has(backend.FlagNoHole):
		c.zeroKeep(m, op.Off, op.Len)
	default:
		c.free(m, op.Off, op.Len)
	}
}

// blockMask has a bit for each block that [from, to) of a page touches.
func blockMask(from, to int64) uint16 {
	first, last := from/blockSize, (to-1)/blockSize
	return uint16(1<<(last+1)-1) &^ uint16(1<<first-1)
}

func (c *chunk) read(p []byte, off int64) (hole bool) {
	hole = true
	for len(p) > 0 {
		pg, in := &c.pages[off/pageSize], off%pageSize
		n := min(pageSize-in, int64(len(p)))
		switch {
		case pg.data == nil:
			clear(p[:n])
		case pg.blocks == 1<<blocksPerPage-1:
			copy(p[:n], pg.data[in:])
			hole = false
		default:
			if !pg.readBlocks(p[:n], in) {
				hole = false
			}
		}
		p, off = p[n:], off+n
	}
	return hole
}

func (pg *page) readBlocks(p []byte, in int64) (hole bool) {
	hole = true
	for len(p) > 0 {
		n := min(blockSize-in%blockSize, int64(len(p)))
		if pg.blocks&(1<<(in/blockSize)) != 0 {
			copy(p[:n], pg.data[in:])
			hole = false
		} else {
			clear(p[:n])
		}
		p, in = p[n:], in+n
	}
	return hole
}

// prepare returns the page at off with space for [in, to); a block that is new
// and covered only in part is zeroed.
func (c *chunk) prepare(m *Chunks, index, in, to int64) *page {
	pg := &c.pages[index]
	if pg.data == nil {
		pg.data = m.slab.get()
	}
	want := blockMask(in, to)
	if missing := want &^ pg.blocks; missing != 0 {
		for _, edge := range [2]int64{in / blockSize, (to - 1) / blockSize} {
			if missing&(1<<edge) != 0 {
				clear(pg.data[edge*blockSize : (edge+1)*blockSize])
			}
		}
		pg.blocks |= want
	}
	return pg
}

func (c *chunk) write(m *Chunks, p []byte, off int64) {
	for len(p) > 0 {
		in := off % pageSize
		n := min(pageSize-in, int64(len(p)))
		pg := c.prepare(m, off/pageSize, in, in+n)
		copy(pg.data[in:], p[:n])
		p, off = p[n:], off+n
	}
}

func (c *chunk) zeroKeep(m *Chunks, off, length int64) {
	for length > 0 {
		in := off % pageSize
		n := min(pageSize-in, length)
		pg := c.prepare(m, off/pageSize, in, in+n)
		clear(pg.data[in : in+n])
		length, off = length-n, off+n
	}
}

// free gives whole blocks back and zeros the parts of the others.
func (c *chunk) free(m *Chunks, off, length int64) {
	for length > 0 {
		in := off % pageSize
		n := min(pageSize-in, length)
		if pg := &c.pages[off/pageSize]; pg.data != nil {
			clear(pg.data[in : in+n])
			if first, end := (in+blockSize-1)/blockSize, (in+n)/blockSize; first < end {
				pg.blocks &^= blockMask(first*blockSize, end*blockSize)
			}
			if pg.blocks == 0 {
				m.slab.put(pg.data)
				pg.data = nil
			}
		}
		length, off = length-n, off+n
	}
}

// Extents implements backend.Chunks.
func (m *Chunks) Extents(ctx context.Context, vol backend.VolumeID, ref backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	if err := m.use(ctx); err != nil {
		return dst, err
	}
	if err := ref.CheckRange(off, length); err != nil {
		return dst, err
	}
	c := m.lookup(ref.ID)
	if c == nil {
		return backend.AppendExtent(dst, length, true), nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.vol.id != vol || c.size != ref.Size {
		return dst, fmt.Errorf("%w: %v is of %v and %d bytes, not of %v and %d", backend.ErrInvalid, ref.ID, c.vol.id, c.size, vol, ref.Size)
	}
	for end := off + length; off < end; {
		next := min((off/blockSize+1)*blockSize, end)
		hole := c.pages[off/pageSize].blocks&(1<<(off%pageSize/blockSize)) == 0
		dst = backend.AppendExtent(dst, next-off, hole)
		off = next
	}
	return dst, nil
}

// Usage implements backend.Chunks.
func (m *Chunks) Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error) {
	if err := m.use(ctx); err != nil {
		return 0, err
	}
	var total int64
	for _, ref := range chunks {
		c := m.lookup(ref.ID)
		if c == nil {
			continue
		}
		c.mu.RLock()
		for _, pg := range c.pages {
			if pg.data != nil {
				total += pageSize
			}
		}
		c.mu.RUnlock()
	}
	return total, nil
}

// Delete implements backend.Chunks.
func (m *Chunks) Delete(ctx context.Context, _ backend.VolumeID, chunks []backend.ChunkRef) error {
	if err := m.use(ctx); err != nil {
		return err
	}
	for _, ref := range chunks {
		sh := m.shard(ref.ID)
		sh.mu.Lock()
		c := sh.chunks[ref.ID]
		delete(sh.chunks, ref.ID)
		sh.mu.Unlock()
		if c != nil {
			c.mu.Lock()
			c.free(m, 0, c.size)
			c.gone = true
			c.mu.Unlock()
		}
	}
	return nil
}

// Close implements backend.Chunks. The data is gone.
func (m *Chunks) Close() error {
	if m.closed.Swap(true) {
		return nil
	}
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		for _, c := range sh.chunks {
			c.mu.Lock() // waits for who is in there
			clear(c.pages)
			c.gone = true
			c.mu.Unlock()
		}
		clear(sh.chunks)
		sh.mu.Unlock()
	}
	m.slab.close()
	return nil
}

func (m *Chunks) use(ctx context.Context) error {
	if m.closed.Load() {
		return errClosed
	}
	return ctx.Err()
}
