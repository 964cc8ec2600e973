package copyset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// snapshots is the raft.SnapshotStore of a replica.
type snapshots struct {
	fs      disk.FS
	dir     string
	copyset backend.CopysetID

	// mu guards the fields below and serializes writing.
	mu sync.Mutex
	// meta is of the newest snapshot, nil for none; its ID is the file's name.
	meta *raft.SnapshotMeta
	// installing is what came from a leader and does not count yet.
	installing *raft.SnapshotMeta
	// leftover: an installation, of entry leftIndex if that is known, was cut short
	// by a restart.
	leftover  bool
	leftIndex uint64
	// unreadable is why a snapshot file could not be read, nil if all could.
	unreadable error
	number     uint64
}

var _ raft.SnapshotStore = (*snapshots)(nil)

// openSnapshots loads the newest snapshot and removes what else there is, but for
// the mark of an unfinished installation.
func openSnapshots(fsys disk.FS, dir string, id backend.CopysetID, log *slog.Logger) (*snapshots, *state, error) {
	s := &snapshots{fs: fsys, dir: dir, copyset: id}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, nil, disk.Error("make "+dir, err)
	}
	// The log will be cut for what is in dir: dir itself must be there then.
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, nil, disk.Error("sync the directory that holds "+dir, err)
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, nil, disk.Error("list "+dir, err)
	}
	var best *state
	for _, name := range names {
		if strings.HasPrefix(name, installingPrefix) {
			s.leftover = true
			if meta, _, err := s.read(name); err == nil {
				s.leftIndex = max(s.leftIndex, meta.Index)
			}
		}
		n, ok := snapshotNumber(name)
		if !ok {
			continue
		}
		s.number = max(s.number, n)
		if !strings.HasPrefix(name, snapshotPrefix) {
			continue
		}
		meta, data, err := s.read(name)
		var st *state
		if err == nil {
			st, err = decodeState(data)
		}
		switch {
		case err != nil:
			log.Warn("raft snapshot is unreadable", "file", name, "err", err)
			s.unreadable = err
		case s.meta == nil || meta.Index >= s.meta.Index:
			s.meta, best = meta, st
		}
	}
	return s, best, nil
}

func snapshotNumber(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, snapshotPrefix)
	if !ok {
		digits, ok = strings.CutPrefix(name, installingPrefix)
	}
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}

func (s *snapshots) newest() *raft.SnapshotMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta
}

// pending says that an installation is under way, or was when the server stopped,
// and of which entry.
func (s *snapshots) pending() (index uint64, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.installing != nil {
		return s.installing.Index, true
	}
	return s.leftIndex, s.leftover
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	if m := s.newest(); m != nil {
		copied := *m
		return []*raft.SnapshotMeta{&copied}, nil
	}
	return nil, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	meta, data, err := s.read(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, io.NopCloser(bytes.NewReader(data)), nil
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return &sink{s: s, meta: raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: fmt.Sprintf("%s%016x", installingPrefix, s.number),
		Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex,
	}, number: s.number}, nil
}

// sink takes the state of a snapshot. One that raft fills from a leader's message
// becomes an installation when it is closed; one that was made here counts at once.
type sink struct {
	s      *snapshots
	meta   raft.SnapshotMeta
	number uint64
	local  bool
	data   []byte
}

func (k *sink) ID() string    { return k.meta.ID }
func (k *sink) Cancel() error { return nil }

func (k *sink) Write(p []byte) (int, error) {
	if len(k.data)+len(p) > maxStateBytes {
		return 0, fmt.Errorf("%w: raft snapshot of more than %d bytes", backend.ErrInvalid, maxStateBytes)
	}
	k.data = append(k.data, p...)
	return len(p), nil
}

func (k *sink) Close() error {
	k.meta.Size = int64(len(k.data))
	if k.local {
		return k.s.publish(&k.meta, k.data, k.number)
	}
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if err := k.s.write(k.meta.ID, &k.meta, k.data); err != nil {
		return err
	}
	k.s.installing = &k.meta
	return nil
}

// installed makes the installation under way the newest snapshot.
func (s *snapshots) installed(data []byte) error {
	s.mu.Lock()
	if s.installing == nil {
		s.mu.Unlock()
		return fmt.Errorf("%w: no raft snapshot is being installed", backend.ErrInvalid)
	}
	meta := *s.installing
	s.number++
	number := s.number
	s.mu.Unlock()
	return s.publish(&meta, data, number)
}

// publish makes a snapshot the newest, durably, and removes all others.
func (s *snapshots) publish(meta *raft.SnapshotMeta, data []byte, number uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta != nil && meta.Index < s.meta.Index {
		return fmt.Errorf("%w: raft snapshot at %d was overtaken by one at %d", backend.ErrInvalid, meta.Index, s.meta.Index)
	}
	meta.ID, meta.Size = fmt.Sprintf("%s%016x", snapshotPrefix, number), int64(len(data))
	if err := s.write(meta.ID, meta, data); err != nil {
		return err
	}
	keep := ""
	if s.installing != nil && s.installing.Index <= meta.Index {
		s.installing, s.leftover, s.leftIndex = nil, false, 0
	} else if s.installing != nil {
		keep = s.installing.ID
	}
	s.meta = meta
	return s.removeOthers(meta.ID, keep)
}

func (s *snapshots) removeOthers(keep ...string) error {
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return disk.Error("list "+s.dir, err)
	}
	for _, name := range names {
		if _, ok := snapshotNumber(name); !ok || name == keep[0] || name == keep[1] {
			continue
		}
		if s.leftover && strings.HasPrefix(name, installingPrefix) {
			continue
		}
		if err := s.fs.Remove(s.dir + "/" + name); err != nil && !disk.NotExist(err) {
			return disk.Error("remove "+name, err)
		}
	}
	return nil
}

// caughtUp removes the mark of an installation that came to nothing, and was
// overtaken by the log, which has reached index.
func (s *snapshots) caughtUp(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.installing != nil && s.installing.Index > index {
		return nil
	}
	s.installing, s.leftover, s.leftIndex = nil, false, 0
	keep := ""
	if s.meta != nil {
		keep = s.meta.ID
	}
	return s.removeOthers(keep, "")
}

// write makes a durable file.
func (s *snapshots) write(name string, meta *raft.SnapshotMeta, data []byte) error {
	raw := encodeSnapshot(s.copyset, meta, data)
	f, err := s.fs.Create(s.dir + "/" + name)
	if err != nil {
		return disk.Error("create "+name, err)
	}
	_, err = f.WriteAt(raw, 0)
	if err == nil {
		err = f.SyncData()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return disk.Error("write "+name, err)
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return disk.Error("sync "+s.dir, err)
	}
	return nil
}

func (s *snapshots) read(name string) (*raft.SnapshotMeta, []byte, error) {
	f, err := s.fs.Open(s.dir + "/" + name)
	if err != nil {
		return nil, nil, disk.Error("open "+name, err)
	}
	defer f.Close()
	raw := make([]byte, snapshotHeaderSize)
	if _, err := f.ReadAt(raw, 0); err != nil {
		return nil, nil, disk.Error("read "+name, err)
	}
	rest, err := snapshotRest(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	raw = append(raw, make([]byte, rest)...)
	if _, err := f.ReadAt(raw[snapshotHeaderSize:], snapshotHeaderSize); err != nil {
		return nil, nil, disk.Error("read "+name, err)
	}
	id, meta, data, err := decodeSnapshot(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if id != s.copyset {
		return nil, nil, fmt.Errorf("%w: %s is of %v, expected %v", backend.ErrChecksum, name, id, s.copyset)
	}
	meta.ID = name
	return meta, data, nil
}

// capture is the state at one index, on its way to a snapshot.
type capture struct {
	r       *Replica
	data    []byte
	volumes []backend.VolumeID
}

// Persist implements raft.FSMSnapshot: first the chunks, up to the index at least,
// then the file that says so.
func (c *capture) Persist(to raft.SnapshotSink) error {
	k, ok := to.(*sink)
	if !ok {
		return fmt.Errorf("%w: raft snapshot into a foreign sink", backend.ErrInvalid)
	}
	k.local = true
	if err := c.r.flush(c.volumes); err != nil {
		if errors.Is(err, backend.ErrIO) {
			c.r.fail(fmt.Errorf("flush the chunks: %w", err))
		}
		return err
	}
	if err := c.r.log.WaitDurable(k.meta.Index); err != nil {
		return err
	}
	_, err := k.Write(c.data)
	return err
}

func (c *capture) Release() {}

// flush makes the chunks of volumes durable.
func (r *Replica) flush(volumes []backend.VolumeID) error {
	for _, id := range volumes {
		if err := r.do(&backend.Op{Kind: backend.OpFlush, Volume: id, Epoch: storeEpoch}); err != nil {
			return err
		}
	}
	return nil
}

// waiter waits for one operation.
type waiter chan struct{}

// OpDone implements backend.Completer.
func (w waiter) OpDone(*backend.Op) { close(w) }

// do runs an operation on the store to its end.
func (r *Replica) do(op *backend.Op) error {
	if r.store.Try(op) {
		return op.Err
	}
	done := make(waiter)
	op.Done = done
	r.store.Submit(op)
	<-done
	return op.Err
}

// trail bounds what the snapshot leaves in the log, for followers that are a little
// behind, by its bytes: entries are of a few hundred bytes or of a megabyte.
func (r *Replica) trail(rf *raft.Raft) error {
	first, err := r.log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := r.log.LastIndex()
	if err != nil {
		return err
	}
	bytes := r.log.Bytes()
	if r.opts.TrailingLogs != 0 || last <= first || bytes <= 0 {
		return nil
	}
	conf := rf.ReloadableConfig()
	keep := float64(r.opts.TrailingBytes()) / float64(bytes)
	conf.TrailingLogs = max(minTrailing, uint64(float64(last-first+1)*keep))
	return rf.ReloadConfig(conf)
}

// minTrailing is how many entries stay in any case.
const minTrailing = 16

// Snapshot makes the chunks durable up to what is applied and cuts the log.
func (r *Replica) Snapshot() error {
	if err := r.failure(); err != nil {
		return err
	}
	rf := r.raft.Load()
	if err := r.trail(rf); err != nil {
		return err
	}
	err := rf.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// awaitApplied waits until the replica has applied index.
func (r *Replica) awaitApplied(ctx context.Context, index uint64) error {
	for {
		news := r.appliedNews.wait()
		if r.applied.Load() >= index {
			return nil
		}
		if err := r.failure(); err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%v has applied %d, not yet %d: %w", r.opts.Self, r.applied.Load(), index, ctx.Err())
		case <-r.closing:
			return errClosing
		}
	}
}
