package chunkserver

import (
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// snapshotTick is how often the snapshotter looks whether one is due.
const snapshotTick = time.Second

// snapshotter has raft snapshots taken: of each copyset now and then, staggered so
// that they do not all sync at once, and of the one that keeps the log from shrinking
// when it has grown too large.
type snapshotter struct {
	// due and applied are when each copyset's next one is due, and how far it had
	// applied at the last one. Only the loop uses them.
	due     map[backend.CopysetID]time.Time
	applied map[backend.CopysetID]uint64

	// mu guards under: at most one is taken at a time.
	mu    sync.Mutex
	under bool
	// done gets a token when one has let go of the log's oldest segment.
	done chan struct{}
}

// runSnapshots is the snapshotter's loop.
func (s *Server) runSnapshots() {
	ticker := time.NewTicker(snapshotTick)
	defer ticker.Stop()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	n := &s.snaps
	n.due = make(map[backend.CopysetID]time.Time)
	n.applied = make(map[backend.CopysetID]uint64)
	n.done = make(chan struct{}, 1)
	for {
		select {
		case <-s.life.Done():
			return
		case <-ticker.C:
		case <-n.done: // while the log is too large, the next one at once
			if s.logBytes() <= s.opts.LogLimit {
				continue
			}
		}
		id, ok := s.nextSnapshot(time.Now())
		if !ok || !n.begin() {
			continue
		}
		r := s.replicas.get(id)
		if r == nil {
			n.end(false)
			continue
		}
		n.applied[id] = r.Status().Applied
		tasks.Go(func() {
			before := s.pinning()
			defer func() { n.end(s.pinning() != before) }()
			begin := time.Now()
			if err := r.Snapshot(); err != nil {
				if s.life.Err() == nil {
					s.log.Warn("raft snapshot", "copyset", uint32(id), "err", err)
				}
				return
			}
			s.log.Debug("raft snapshot", "copyset", uint32(id), "took", time.Since(begin))
		})
	}
}

func (n *snapshotter) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.under {
		return false
	}
	n.under = true
	return true
}

// end lets the next one begin, and asks for it at once if this one helped.
func (n *snapshotter) end(helped bool) {
	n.mu.Lock()
	n.under = false
	n.mu.Unlock()
	if !helped {
		return
	}
	select {
	case n.done <- struct{}{}:
	default:
	}
}

// maxTrailing is what a raft snapshot leaves of a copyset's log at most, in bytes.
const maxTrailing = 16 << 20

// trailingBytes is what each copyset may keep so that all together need half of
// what the log may have.
func (s *Server) trailingBytes() int64 {
	return min(maxTrailing, s.opts.LogLimit/int64(2*max(1, len(s.replicas.ids()))))
}

// pinning is the copyset that keeps the log from shrinking, 0 for none.
func (s *Server) pinning() backend.CopysetID {
	id, _ := s.raftLog.Pinning()
	return id
}

// nextSnapshot chooses the copyset to take one of now.
func (s *Server) nextSnapshot(now time.Time) (backend.CopysetID, bool) {
	if s.logBytes() > s.opts.LogLimit {
		// Often several share the oldest segment, and it is free after the last of
		// them only.
		if id := s.pinning(); s.replicas.get(id) != nil {
			return id, true
		}
	}
	n := &s.snaps
	ids := s.replicas.ids()
	for i, id := range ids {
		due, known := n.due[id]
		if !known {
			// Spread over the period by the position among those here.
			n.due[id] = now.Add(s.opts.SnapshotEvery * time.Duration(i+1) / time.Duration(len(ids)))
			continue
		}
		if now.Before(due) {
			continue
		}
		n.due[id] = now.Add(s.opts.SnapshotEvery)
		if r := s.replicas.get(id); r != nil && r.Status().Applied != n.applied[id] {
			return id, true
		}
	}
	return 0, false
}
