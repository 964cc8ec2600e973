package chunkstore_test

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

const modelChunkSize = backend.MinChunkSize

var hashSeed = maphash.MakeSeed()

// modelChunk is what a chunk holds now, and what each unit may hold after a
// power cut: its content at the last flush and all that were submitted since.
type modelChunk struct {
	ref    backend.ChunkRef
	volume backend.VolumeID
	now    []byte
	// may has the hashes of each unit's candidates; the first is the flushed one.
	may [][]uint64
}

// model is the oracle of the power-cut tests. mu guards the chunks: power cuts
// happen on the store's goroutines.
type model struct {
	unit   int
	mu     sync.Mutex
	chunks []*modelChunk
}

func newModel(unit, chunks int) *model {
	m := &model{unit: unit}
	for i := range chunks {
		c := &modelChunk{
			// Two of the ids share a directory.
			ref:    backend.ChunkRef{ID: backend.ChunkID(i/2*256 + i%2*7 + 1), Size: modelChunkSize},
			volume: backend.VolumeID(i%2 + 1),
			now:    make([]byte, modelChunkSize),
			may:    make([][]uint64, modelChunkSize/unit),
		}
		m.chunks = append(m.chunks, c)
		m.settle(c)
	}
	return m
}

func (m *model) hash(b []byte) uint64 { return maphash.Bytes(hashSeed, b) }

// submitted notes that op may from now on be on the disk, in any part.
func (m *model) submitted(c *modelChunk, op *backend.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	part := c.now[op.Off : op.Off+op.Len]
	if op.Kind == backend.OpWrite {
		copy(part, op.Data)
	} else {
		clear(part)
	}
	m.mayHold(c, op.Off, op.Len)
}

func (m *model) mayHold(c *modelChunk, off, length int64) {
	for u := off / int64(m.unit); u*int64(m.unit) < off+length; u++ {
		h := m.hash(c.now[u*int64(m.unit) : (u+1)*int64(m.unit)])
		if !slices.Contains(c.may[u], h) {
			c.may[u] = append(c.may[u], h)
		}
	}
}

// durable notes that the range is on the disk as it is now.
func (m *model) durable(c *modelChunk, off, length int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for u := off / int64(m.unit); u*int64(m.unit) < off+length; u++ {
		c.may[u] = []uint64{m.hash(c.now[u*int64(m.unit) : (u+1)*int64(m.unit)])}
	}
}

// settle notes that all of the chunk is on the disk as it is now.
func (m *model) settle(c *modelChunk) { m.durable(c, 0, modelChunkSize) }

func (m *model) settleVolume(vol backend.VolumeID) {
	for _, c := range m.chunks {
		if vol == 0 || c.volume == vol {
			m.settle(c)
		}
	}
}

// clone copies the candidates, for a check after a power cut that happens now.
func (m *model) clone() *model {
	m.mu.Lock()
	defer m.mu.Unlock()
	fresh := &model{unit: m.unit}
	for _, c := range m.chunks {
		d := *c
		d.now = slices.Clone(c.now)
		d.may = make([][]uint64, len(c.may))
		for i := range c.may {
			d.may[i] = slices.Clone(c.may[i])
		}
		fresh.chunks = append(fresh.chunks, &d)
	}
	return fresh
}

// adopt checks what a chunk holds after a power cut, and makes it the model's
// content: what has been read once must stay.
func (m *model) adopt(c *modelChunk, got []byte) error {
	for u := range c.may {
		part := got[u*m.unit : (u+1)*m.unit]
		if !slices.Contains(c.may[u], m.hash(part)) {
			return fmt.Errorf("%v of %v: %d bytes at %d hold %s, neither what was flushed nor any of %d versions submitted since",
				c.ref.ID, c.volume, m.unit, u*m.unit, describeContent(part), len(c.may[u])-1)
		}
	}
	copy(c.now, got)
	m.settle(c)
	return nil
}

// fill makes content that says which write, and which sector of it, it is.
func fill(p []byte, write uint64, off int64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], write)
		binary.LittleEndian.PutUint64(p[i+8:], uint64(off)+uint64(i)&^511)
	}
}

func describeContent(b []byte) string {
	write, off := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	if write == 0 {
		return "zeros"
	}
	return fmt.Sprintf("write %d at %d", write, off)
}
