package copyset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

// chunkInfo is what the log says of a chunk.
type chunkInfo struct {
	volume backend.VolumeID
	size   int64
	// gone: it exists no more; what there is of it is about to be freed.
	gone bool
	// hidden: it exists, but what makes it is not all done: reads see nothing of it.
	hidden bool
}

func (i chunkInfo) ref(id backend.ChunkID, copyset backend.CopysetID) backend.ChunkRef {
	return backend.ChunkRef{ID: id, Copyset: copyset, Size: i.size}
}

// chunkSet is the chunks that exist, a deterministic function of the log. The
// store cannot tell: it holds the chunks of other copysets too, and may hold what
// a crash or an earlier life of this replica left.
type chunkSet struct {
	mu   sync.RWMutex
	byID map[backend.ChunkID]chunkInfo
}

func newChunkSet() *chunkSet { return &chunkSet{byID: make(map[backend.ChunkID]chunkInfo)} }

// get returns a chunk that exists, by what the log says up to the entry that is
// being applied.
func (s *chunkSet) get(id backend.ChunkID) (chunkInfo, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	info, ok := s.byID[id]
	return info, ok && !info.gone
}

// shown says whether the store's idea of a chunk is what a read may see. It changes
// behind the store's content, never ahead of it: a chunk that is made is shown when
// it is, one that is freed is shown until it is.
func (s *chunkSet) shown(id backend.ChunkID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	info, ok := s.byID[id]
	return ok && !info.hidden
}

// create adds a chunk, hidden until settle unless it was shown before.
func (s *chunkSet) create(id backend.ChunkID, info chunkInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, ok := s.byID[id]
	info.gone, info.hidden = false, !ok || was.hidden
	s.byID[id] = info
}

// remove takes a chunk out, for good at settle.
func (s *chunkSet) remove(id backend.ChunkID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, ok := s.byID[id]; ok {
		info.gone = true
		s.byID[id] = info
	}
}

// settle follows the store, where all changes of these chunks are done.
func (s *chunkSet) settle(ids []backend.ChunkID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		switch info, ok := s.byID[id]; {
		case ok && info.gone:
			delete(s.byID, id)
		case ok:
			info.hidden = false
			s.byID[id] = info
		}
	}
}

func (s *chunkSet) ids() []backend.ChunkID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := make([]backend.ChunkID, 0, len(s.byID))
	for id, info := range s.byID {
		if !info.gone {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *chunkSet) replace(with *chunkSet) {
	s.mu.Lock()
	s.byID = with.byID
	s.mu.Unlock()
}

// maxChunks bounds a decoder.
const maxChunks = 1 << 24

// append encodes the set: the number of chunks, and of each in order of id the
// distance from the one before, the volume, and the binary logarithm of the size.
// Numbers are uvarints.
// Between two waves of changes, where it is called, none is gone or hidden.
func (s *chunkSet) append(dst []byte) []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	dst = binary.AppendUvarint(dst, uint64(len(s.byID)))
	last := uint64(0)
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		info := s.byID[id]
		dst = binary.AppendUvarint(dst, uint64(id)-last)
		dst = binary.AppendUvarint(dst, uint64(info.volume))
		dst = append(dst, byte(bits.TrailingZeros64(uint64(info.size))))
		last = uint64(id)
	}
	return dst
}

func decodeChunkSet(d *decoder) (*chunkSet, error) {
	s := newChunkSet()
	id := uint64(0)
	for i := range d.count("chunks", maxChunks, 3) {
		step := d.uvarint("chunk")
		if i > 0 && step == 0 || step > ^uint64(0)-id {
			d.fail("chunk ids not in order")
		}
		id += step
		info := chunkInfo{volume: backend.VolumeID(d.uvarint("volume"))}
		if shift := d.byte("chunk size"); shift < 63 {
			info.size = 1 << shift
		}
		if !backend.ValidChunkSize(info.size) {
			d.fail("chunk size %d", info.size)
		}
		if d.err != nil {
			return nil, d.err
		}
		s.byID[backend.ChunkID(id)] = info
	}
	return s, d.err
}

// state is the replicated state besides the chunks' content.
type state struct {
	fence  *fence
	chunks *chunkSet
	// applied is the last entry of ours in it.
	applied uint64
	// ceiling is an index that no block of a chunk is beyond, where that is more
	// than applied: content was copied from a replica that was ahead.
	ceiling uint64
}

// stateVersion opens an encoded state: version, applied, ceiling (uvarints),
// fence, chunks.
const stateVersion = 1

// maxStateBytes bounds an encoded state: what InstallSnapshot carries.
const maxStateBytes = 8 << 20

func (s *state) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = binary.AppendUvarint(dst, s.applied)
	dst = binary.AppendUvarint(dst, s.ceiling)
	dst = s.fence.append(dst)
	return s.chunks.append(dst)
}

func decodeState(data []byte) (*state, error) {
	if len(data) > maxStateBytes {
		return nil, fmt.Errorf("%w: raft snapshot of %d bytes, at most %d", backend.ErrInvalid, len(data), maxStateBytes)
	}
	d := &decoder{rest: data}
	if v := d.byte("version"); d.err == nil && v != stateVersion {
		return nil, fmt.Errorf("%w: raft snapshot of version %d, this server knows %d: upgrade it", backend.ErrInvalid, v, stateVersion)
	}
	s := &state{applied: d.uvarint("applied"), ceiling: d.uvarint("ceiling")}
	var err error
	if s.fence, err = decodeFence(d); err != nil {
		return nil, err
	}
	if s.chunks, err = decodeChunkSet(d); err != nil {
		return nil, err
	}
	if len(d.rest) != 0 {
		return nil, fmt.Errorf("%w: raft snapshot: %d bytes after its end", backend.ErrInvalid, len(d.rest))
	}
	return s, nil
}

// decoder reads numbers one after the other; after the first that is not there,
// err is set and all that follow are 0.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: raft snapshot: %s", backend.ErrInvalid, fmt.Sprintf(format, args...))
		d.rest = nil
	}
}

func (d *decoder) uvarint(what string) uint64 {
	v, n := binary.Uvarint(d.rest)
	// The last byte of a number in its shortest form is not 0: one encoding each.
	if n <= 0 || n > 1 && d.rest[n-1] == 0 {
		d.fail("%s is missing or malformed", what)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) byte(what string) byte {
	if len(d.rest) < 1 {
		d.fail("%s is missing", what)
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uint64(what string) uint64 {
	if len(d.rest) < 8 {
		d.fail("%s is missing", what)
		return 0
	}
	v := le.Uint64(d.rest)
	d.rest = d.rest[8:]
	return v
}

// count reads how many items of at least size bytes follow.
func (d *decoder) count(what string, most, size int) int {
	v := d.uvarint("number of " + what)
	if v > uint64(most) || v > uint64(len(d.rest)/size) {
		d.fail("%d %s in %d bytes, at most %d", v, what, len(d.rest), most)
		return 0
	}
	return int(v)
}
