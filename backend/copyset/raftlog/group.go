package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

type raftEntry = raft.Log

// Group is one copyset's log and stable store. Methods may be called
// concurrently.
type Group struct {
	parent *Log
	id     backend.CopysetID

	// The following are guarded by parent.mu.

	// Entries first to last are slots; none when first is last+1.
	first, last uint64
	slots       ring
	bytes       int64
	// cached is the first entry that is in memory.
	cached uint64
	stable map[string]*value
	// num counts the group's records, those queued included.
	num uint64
	// round holds the newest record.
	round uint64
	// writing is what durable becomes when the round being written is durable.
	writing uint64
	damage  error
	// unmovable: an entry could not be read when it was to be written again.
	unmovable bool

	// durable is changed under parent.mu.
	durable atomic.Uint64

	// wnum and wdamaged are what a roster at the writer's place in the log says.
	// They belong to the writer.
	wnum     uint64
	wdamaged bool
}

// value is a stable value. Its key and val do not change.
type value struct {
	key  string
	val  []byte
	seg  *segment // once written
	off  uint32
	size int64
	// replaces is the value that is dead once this one is written.
	replaces *value
	// dead: the group was deleted.
	dead bool
}

var (
	_ raft.LogStore          = (*Group)(nil)
	_ raft.StableStore       = (*Group)(nil)
	_ raft.MonotonicLogStore = (*Group)(nil)
)

// errNoValue is compared by its text in package raft.
var errNoValue = errors.New("not found")

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (g *Group) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (g *Group) FirstIndex() (uint64, error) {
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	if g.damage != nil || g.slots.n == 0 {
		return 0, g.damage
	}
	return g.first, nil
}

// LastIndex implements raft.LogStore.
func (g *Group) LastIndex() (uint64, error) {
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	if g.damage != nil || g.slots.n == 0 {
		return 0, g.damage
	}
	return g.last, nil
}

// slot returns an entry's slot, nil if there is none. Caller holds parent.mu.
func (g *Group) slot(index uint64) *slot {
	if g.slots.n == 0 || index < g.first || index > g.last {
		return nil
	}
	return g.slots.at(int(index - g.first))
}

// GetLog implements raft.LogStore. raft.ErrLogNotFound; backend.ErrChecksum when
// the entry rotted on the disk.
func (g *Group) GetLog(index uint64, log *raft.Log) error {
	for {
		g.parent.mu.Lock()
		s := g.slot(index)
		if g.damage != nil || s == nil {
			err := g.damage
			g.parent.mu.Unlock()
			if err == nil {
				err = raft.ErrLogNotFound
			}
			return err
		}
		if s.log != nil {
			*log = *s.log
			g.parent.mu.Unlock()
			return nil
		}
		was := *s
		g.parent.mu.Unlock()

		r, err := was.seg.read(was.off, was.size, g.parent.opts.planted.skipChecksum)
		if err == nil && r.kind == recordEntry && r.copyset == g.id && r.index == index {
			*log = entryOf(r)
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%w: raft log at %v holds another record", backend.ErrChecksum, at(was.seg.seq, int64(was.off)))
		}
		g.parent.mu.Lock()
		s = g.slot(index)
		same := s != nil && s.seg == was.seg && s.off == was.off
		g.parent.mu.Unlock()
		if same { // else the entry moved or went, and its segment was used again
			return fmt.Errorf("entry %d of %v: %w", index, g.id, err)
		}
	}
}

func entryOf(r record) raft.Log {
	log := raft.Log{Index: r.index, Term: r.term, Type: raft.LogType(r.logType), AppendedAt: timeOf(r.appended)}
	if len(r.data) > 0 {
		log.Data = r.data
	}
	if len(r.head) > 0 {
		log.Extensions = r.head
	}
	return log
}

// SyncTime is how long a sync takes at the moment: the mean of the last few, or the
// one under way if that is longer. It implements raftnet.Gate.
func (g *Group) SyncTime() time.Duration {
	return max(time.Duration(g.parent.meanSync.Load()), g.parent.Stalled())
}

// Get implements raft.StableStore. An error that says "not found".
func (g *Group) Get(key []byte) ([]byte, error) {
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	if g.damage != nil {
		return nil, g.damage
	}
	v := g.stable[string(key)]
	if v == nil {
		return nil, errNoValue
	}
	return append([]byte(nil), v.val...), nil
}

// GetUint64 implements raft.StableStore. An error that says "not found".
func (g *Group) GetUint64(key []byte) (uint64, error) {
	val, err := g.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, fmt.Errorf("%w: stable value %q of %v has %d bytes, a number has 8", backend.ErrInvalid, key, g.id, len(val))
	}
	return binary.LittleEndian.Uint64(val), nil
}

// Bytes is the size of the group's live entries.
func (g *Group) Bytes() int64 {
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	return g.bytes
}
