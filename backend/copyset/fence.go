package copyset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// verdict is what the fence says of a change.
type verdict uint8

const (
	// verdictApply: new; it has been noted.
	verdictApply verdict = iota
	// verdictDone: applied before, or acknowledged before; it must not be again.
	verdictDone
	// verdictStale: of an older epoch.
	verdictStale
)

const (
	windowBits  = backend.FenceWindow
	windowWords = windowBits / 64

	// maxSessions bounds the sessions remembered of a volume in one epoch: the
	// sharers of it. Each takes windowWords words.
	maxSessions = 64
	// maxVolumes bounds a decoder only: a copyset hears of a volume when it first
	// holds a chunk of it.
	maxVolumes = 1 << 22
)

// checkFenceNumbers holds Session, Seq and Low against the rules of backend.Op.
func checkFenceNumbers(op *backend.Op) error {
	if op.Session == 0 || op.Seq == 0 || op.Low > op.Seq || op.Seq-op.Low >= windowBits {
		return fmt.Errorf("%w: session %d, seq %d, low %d: session and seq count from 1, and seq-low is from 0 to %d",
			backend.ErrInvalid, op.Session, op.Seq, op.Low, windowBits-1)
	}
	return nil
}

// fence is the table that makes every change happen once, and only from the
// volume's owner. It is a deterministic function of the log. One goroutine
// changes it; epochOf may be called on any.
type fence struct {
	// mu guards the map; volumes' epochs are read without it.
	mu      sync.RWMutex
	volumes map[backend.VolumeID]*volumeFence
	// clock counts the changes decided; it orders the sessions by last use.
	clock uint64
}

type volumeFence struct {
	epoch atomic.Uint64
	// sessions of this epoch.
	sessions map[backend.SessionID]*sessionFence
	// forgotten is the highest session that was dropped for lack of room in this
	// epoch. Sessions are handed out in rising order; one that is not remembered
	// and not above it may be the dropped one, whose history is unknown.
	forgotten backend.SessionID
}

// sessionFence remembers which numbers of a session were applied: all below low,
// and those whose bit is set in the ring, where seq has bit seq%windowBits.
type sessionFence struct {
	low  uint64
	used uint64
	ring [windowWords]uint64
}

func newFence() *fence { return &fence{volumes: make(map[backend.VolumeID]*volumeFence)} }

// epochOf is the newest epoch seen of a volume, 0 for none.
func (f *fence) epochOf(id backend.VolumeID) backend.Epoch {
	f.mu.RLock()
	v := f.volumes[id]
	f.mu.RUnlock()
	if v == nil {
		return 0
	}
	return backend.Epoch(v.epoch.Load())
}

// raise fences the epochs older than epoch. It returns nil when epoch is itself
// older.
func (f *fence) raise(id backend.VolumeID, epoch backend.Epoch) *volumeFence {
	v := f.volumes[id]
	if v == nil {
		v = &volumeFence{}
		f.mu.Lock()
		f.volumes[id] = v
		f.mu.Unlock()
	}
	switch old := v.epoch.Load(); {
	case uint64(epoch) < old:
		return nil
	case uint64(epoch) > old:
		v.sessions, v.forgotten = nil, 0
		v.epoch.Store(uint64(epoch))
	}
	return v
}

// decide says what to do with a change that has passed checkChange, and notes it
// when it is to be applied.
func (f *fence) decide(op *backend.Op) verdict {
	v := f.raise(op.Volume, op.Epoch)
	if v == nil {
		return verdictStale
	}
	s := v.sessions[op.Session]
	if s == nil {
		if op.Session <= v.forgotten {
			return verdictStale
		}
		s = v.add(op.Session)
	}
	f.clock++
	s.used = f.clock
	s.advance(op.Low)
	if op.Seq < s.low {
		return verdictDone
	}
	word, bit := op.Seq%windowBits/64, uint64(1)<<(op.Seq%64)
	if s.ring[word]&bit != 0 {
		return verdictDone
	}
	s.ring[word] |= bit
	return verdictApply
}

// add makes room for one more session by dropping the one unused for longest.
func (v *volumeFence) add(id backend.SessionID) *sessionFence {
	if len(v.sessions) >= maxSessions {
		oldest := backend.SessionID(0)
		for sid, s := range v.sessions {
			if oldest == 0 || s.used < v.sessions[oldest].used {
				oldest = sid
			}
		}
		delete(v.sessions, oldest)
		v.forgotten = max(v.forgotten, oldest)
	}
	if v.sessions == nil {
		v.sessions = make(map[backend.SessionID]*sessionFence)
	}
	s := &sessionFence{low: 1}
	v.sessions[id] = s
	return s
}

// advance raises low and forgets what lies below it, whose bits become those of
// numbers one window further on.
func (s *sessionFence) advance(low uint64) {
	if low <= s.low {
		return
	}
	if low-s.low >= windowBits {
		clear(s.ring[:])
		s.low = low
		return
	}
	for s.low < low {
		if s.low%64 == 0 && low-s.low >= 64 {
			s.ring[s.low%windowBits/64] = 0
			s.low += 64
			continue
		}
		s.ring[s.low%windowBits/64] &^= 1 << (s.low % 64)
		s.low++
	}
}

// become takes the content of another fence over.
func (f *fence) become(other *fence) {
	f.mu.Lock()
	f.volumes, f.clock = other.volumes, other.clock
	f.mu.Unlock()
}

// volumeIDs lists the volumes seen.
func (f *fence) volumeIDs() []backend.VolumeID {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Sorted(maps.Keys(f.volumes))
}

// append encodes the fence, the same bytes for the same log:
//
//	clock, number of volumes, of each in order of id:
//	  id, epoch, forgotten, number of sessions, of each in order of id:
//	    id, low, used, n, then n words of 8 bytes: bit i of the words says that
//	    low+i was applied; the last word is not 0
//
// Numbers are uvarints.
func (f *fence) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, f.clock)
	dst = binary.AppendUvarint(dst, uint64(len(f.volumes)))
	for _, id := range f.volumeIDs() {
		v := f.volumes[id]
		dst = binary.AppendUvarint(dst, uint64(id))
		dst = binary.AppendUvarint(dst, v.epoch.Load())
		dst = binary.AppendUvarint(dst, uint64(v.forgotten))
		dst = binary.AppendUvarint(dst, uint64(len(v.sessions)))
		for _, sid := range slices.Sorted(maps.Keys(v.sessions)) {
			dst = v.sessions[sid].append(binary.AppendUvarint(dst, uint64(sid)))
		}
	}
	return dst
}

func (s *sessionFence) append(dst []byte) []byte {
	var words [windowWords]uint64
	n := 0
	for w, word := range s.ring {
		for word != 0 {
			bit := uint64(w*64 + bits.TrailingZeros64(word))
			word &= word - 1
			at := (bit - s.low) % windowBits // how far above low
			words[at/64] |= 1 << (at % 64)
			n = max(n, int(at/64)+1)
		}
	}
	dst = binary.AppendUvarint(dst, s.low)
	dst = binary.AppendUvarint(dst, s.used)
	dst = binary.AppendUvarint(dst, uint64(n))
	for _, word := range words[:n] {
		dst = le.AppendUint64(dst, word)
	}
	return dst
}

// decodeFence reads what append wrote.
func decodeFence(d *decoder) (*fence, error) {
	f := newFence()
	f.clock = d.uvarint("clock")
	n := d.count("volumes", maxVolumes, 4)
	last := backend.VolumeID(0)
	for i := range n {
		id := backend.VolumeID(d.uvarint("volume"))
		if i > 0 && id <= last {
			d.fail("%v after %v", id, last)
		}
		last = id
		v := &volumeFence{}
		v.epoch.Store(d.uvarint("epoch"))
		v.forgotten = backend.SessionID(d.uvarint("forgotten session"))
		v.decodeSessions(d, f.clock)
		if d.err != nil {
			return nil, d.err
		}
		f.volumes[id] = v
	}
	return f, d.err
}

func (v *volumeFence) decodeSessions(d *decoder, clock uint64) {
	last := backend.SessionID(0)
	for range d.count("sessions", maxSessions, 4) {
		id := backend.SessionID(d.uvarint("session"))
		if cmp.Compare(id, last) <= 0 {
			d.fail("session %d after %d", id, last)
		}
		last = id
		s := &sessionFence{low: d.uvarint("low"), used: d.uvarint("last use")}
		if s.low == 0 || s.used > clock {
			d.fail("session with low %d, used at %d of %d", s.low, s.used, clock)
		}
		n := d.count("words", windowWords, 8)
		for w := range n {
			word := d.uint64("word")
			if w == n-1 && word == 0 {
				d.fail("last word of a session is 0")
			}
			for word != 0 {
				seq := s.low + uint64(w*64+bits.TrailingZeros64(word))
				word &= word - 1
				s.ring[seq%windowBits/64] |= 1 << (seq % 64)
			}
		}
		if d.err != nil {
			return
		}
		if v.sessions == nil {
			v.sessions = make(map[backend.SessionID]*sessionFence)
		}
		v.sessions[id] = s
	}
}
