package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// hostedName is the record, in a copyset's directory, that says that the server
// holds a replica. A directory without it is what a removed replica left.
const hostedName = "replica"

type hostedRecord struct {
	Copyset backend.CopysetID `json:"copyset"`
	// Found is the group's first configuration, until the replica's log has it.
	Found []backend.ServerID `json:"found,omitempty"`
	// Removing: the replica is being removed, which a crash has interrupted.
	Removing bool `json:"removing,omitempty"`
}

// hosting is which replicas the server has, those that are damaged included.
type hosting struct {
	mu sync.Mutex
	// all has the reason why a replica does not serve, nil for one that does.
	all map[backend.CopysetID]error
	// links are the raft links of those that serve.
	links map[backend.CopysetID]*raftnet.Group
	// busy are the copysets that a task is working on.
	busy map[backend.CopysetID]bool
	// slots has a token for each task.
	slots chan struct{}
	// turn is the order that the next heartbeat's are looked at from. Only the
	// goroutine that reports uses it.
	turn int
}

func (h *hosting) init() {
	h.all = make(map[backend.CopysetID]error)
	h.links = make(map[backend.CopysetID]*raftnet.Group)
	h.busy = make(map[backend.CopysetID]bool)
	h.slots = make(chan struct{}, ordersAtOnce)
}

func (h *hosting) set(id backend.CopysetID, damage error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[id] = damage
}

func (h *hosting) remove(id backend.CopysetID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, id)
	delete(h.links, id)
}

func (h *hosting) setLink(id backend.CopysetID, link *raftnet.Group) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links[id] = link
}

func (h *hosting) link(id backend.CopysetID) *raftnet.Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[id]
}

func (h *hosting) has(id backend.CopysetID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.all[id]
	return ok
}

func (h *hosting) ids() []backend.CopysetID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.all))
}

// begin claims a copyset for a task; false when another has it.
func (h *hosting) begin(id backend.CopysetID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy[id] {
		return false
	}
	h.busy[id] = true
	return true
}

func (h *hosting) end(id backend.CopysetID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, id)
}

// openReplicas opens what the data directory holds. A replica that cannot be trusted
// is kept shut and reported as damaged; the others serve.
func (s *Server) openReplicas() error {
	names, err := s.fs.ReadDir(s.dir.copysetsDir())
	if err != nil {
		return disk.Error("list "+s.dir.copysetsDir(), err)
	}
	for _, name := range names {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != name {
			s.log.Warn("not a copyset's directory, left alone", "path", s.dir.copysetsDir()+"/"+name)
			continue
		}
		if err := s.openReplica(backend.CopysetID(n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) openReplica(id backend.CopysetID) error {
	var r hostedRecord
	found, err := getRecord(s.fs, s.dir.copysetDir(id), hostedName, &r)
	switch {
	case err != nil:
		return err
	case !found:
		return nil
	case r.Removing:
		return s.finishRemoval(id)
	}
	if err := s.damage(id); err != nil {
		s.keepShut(id, err)
		return nil
	}
	if err := s.host(r); err != nil {
		if errors.Is(err, backend.ErrChecksum) {
			s.keepShut(id, err)
			return nil
		}
		return err
	}
	return nil
}

// damage is why a replica's log cannot be trusted, nil if it can.
func (s *Server) damage(id backend.CopysetID) error {
	if err := s.raftLog.Damaged()[id]; err != nil {
		return err
	}
	// A log that lost records and cannot say whose may have lost all of a group's.
	if err := s.raftLog.Lost(); err != nil && !slices.Contains(s.raftLog.Groups(), id) {
		return err
	}
	return nil
}

func (s *Server) keepShut(id backend.CopysetID, err error) {
	s.log.Error("replica is damaged and does not serve: it will be made again from the others", "copyset", uint32(id), "err", err)
	s.hosts.set(id, err)
}

// host opens a replica and lets it serve.
func (s *Server) host(rec hostedRecord) error {
	id := rec.Copyset
	group := s.raftLog.Group(id)
	link := s.net.Group(id, group)
	r, err := copyset.Open(copyset.Options{
		ID: id, Self: s.ID(), Found: rec.Found,
		Store: s.store, Log: group, Net: link,
		FS: s.fs, Dir: s.dir.copysetDir(id), Peers: s.peers,
		Heartbeat:     s.opts.Heartbeat,
		TrailingBytes: s.trailingBytes,
		LeaderChanged: s.leaderChanged,
		Failed:        s.replicaFailed,
		Throttle:      s.limiter,
		Unfenced:      s.opts.Unfenced,
		Logger:        s.log,
	})
	if err != nil {
		return err
	}
	if len(rec.Found) > 0 {
		// Once the log has the configuration it must not come from anywhere else: a
		// replica that lost its log must not found the group again.
		if err := s.settleFounding(id, group); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	r.Full(s.space.full.Load())
	s.hosts.set(id, nil)
	s.hosts.setLink(id, link)
	s.replicas.set(id, r)
	return nil
}

func (s *Server) settleFounding(id backend.CopysetID, group interface {
	LastIndex() (uint64, error)
	WaitDurable(index uint64) error
}) error {
	last, err := group.LastIndex()
	if err != nil {
		return err
	}
	if err := group.WaitDurable(last); err != nil {
		return err
	}
	return putRecord(s.fs, s.dir.copysetDir(id), hostedName, hostedRecord{Copyset: id})
}

// create makes a new replica: a founding one, or one that waits to be added.
func (s *Server) create(id backend.CopysetID, found []backend.ServerID) error {
	dir := s.dir.copysetDir(id)
	if err := s.fs.MkdirAll(dir); err != nil {
		return disk.Error("make "+dir, err)
	}
	if err := s.fs.SyncDir(s.dir.copysetsDir()); err != nil {
		return disk.Error("sync "+s.dir.copysetsDir(), err)
	}
	rec := hostedRecord{Copyset: id, Found: found}
	if err := putRecord(s.fs, dir, hostedName, rec); err != nil {
		return err
	}
	s.log.Info("new replica", "copyset", uint32(id), "founding", found)
	return s.host(rec)
}

// remove makes the server forget a replica: chunks, log, votes and all.
func (s *Server) remove(ctx context.Context, id backend.CopysetID, chunks bool) error {
	if err := putRecord(s.fs, s.dir.copysetDir(id), hostedName, hostedRecord{Copyset: id, Removing: true}); err != nil {
		return err
	}
	if r := s.replicas.get(id); r != nil {
		refs := chunkRefs(id, r.ChunkIDs())
		s.replicas.set(id, nil)
		if err := r.Close(); err != nil {
			s.log.Warn("closing a replica that goes away", "copyset", uint32(id), "err", err)
		}
		if chunks {
			if err := s.store.Delete(ctx, 0, refs); err != nil {
				return err
			}
		}
	}
	s.news.forget(id)
	return s.finishRemoval(id)
}

func chunkRefs(id backend.CopysetID, chunks []backend.ChunkID) []backend.ChunkRef {
	refs := make([]backend.ChunkRef, len(chunks))
	for i, c := range chunks {
		refs[i] = backend.ChunkRef{ID: c, Copyset: id}
	}
	return refs
}

// finishRemoval removes what is left of a replica, its record last.
func (s *Server) finishRemoval(id backend.CopysetID) error {
	if err := s.raftLog.Group(id).Delete(); err != nil {
		return fmt.Errorf("forget the log of %v: %w", id, err)
	}
	dir := s.dir.copysetDir(id)
	names, err := s.fs.ReadDir(dir)
	if err != nil {
		return disk.Error("list "+dir, err)
	}
	kept := recordVersions(names, hostedName)
	for _, name := range names {
		if slices.ContainsFunc(kept, func(n uint64) bool { return recordPath(dir, hostedName, n) == dir+"/"+name }) {
			continue
		}
		if err := s.fs.Remove(dir + "/" + name); err != nil && !disk.NotExist(err) {
			return disk.Error("remove "+dir+"/"+name, err)
		}
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return disk.Error("sync "+dir, err)
	}
	if err := dropRecord(s.fs, dir, hostedName); err != nil {
		return err
	}
	s.hosts.remove(id)
	s.log.Info("replica removed", "copyset", uint32(id))
	return nil
}

// closeReplicas closes all, several at once.
func (s *Server) closeReplicas() error {
	var mu sync.Mutex
	var errs []error
	var closing sync.WaitGroup
	for _, id := range s.replicas.ids() {
		r := s.replicas.get(id)
		s.replicas.set(id, nil)
		closing.Go(func() {
			if err := r.Close(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("close %v: %w", id, err))
			}
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}

// leaderChanged is copyset.Options.LeaderChanged.
func (s *Server) leaderChanged(id backend.CopysetID, leader backend.ServerID, term uint64) {
	s.news.leaderChanged(id, leader, term)
	s.reportSoon()
	if leader == s.ID() {
		s.watch.poke()
	}
}

// replicaFailed is copyset.Options.Failed.
func (s *Server) replicaFailed(id backend.CopysetID, err error) {
	s.trouble.set("replica "+id.String(), fmt.Sprintf("%v has failed: %v", id, err))
	s.fail(fmt.Errorf("%v has failed: %w", id, err))
}
