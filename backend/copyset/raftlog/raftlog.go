package raftlog

import (
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Options of a Log. Zero values stand for the defaults.
type Options struct {
	// SegmentBytes is the size of a segment file. Default 64 MiB.
	SegmentBytes int64
	// CacheBytes bounds the entries kept in memory for followers, all groups
	// together. Default 64 MiB.
	CacheBytes int64
	// Blocking makes StoreLogs wait for the sync. Otherwise it returns when the
	// entries are queued, and whoever needs them durable asks AfterDurable.
	Blocking bool
	// Failed is told once when the log cannot be written any more: nothing that
	// was queued and not reported durable may be relied on, and the process must
	// stop serving. Called on a goroutine of the log.
	Failed func(error)
	Logger *slog.Logger
}

// Log is an open log directory.
type Log struct{}

// Open opens or makes the log in dir.
func Open(fsys disk.FS, dir string, opts Options) (*Log, error) { panic("skeleton") }

// Damaged lists the groups whose records were damaged where they had been
// durable: their replicas must not vote or serve (backend.ReplicaDamaged) until
// Group.Delete. The others are whole.
func (l *Log) Damaged() map[backend.CopysetID]error { panic("skeleton") }

// Groups lists the groups that the log holds anything of.
func (l *Log) Groups() []backend.CopysetID { panic("skeleton") }

// Group returns the part of one copyset, empty if it is new.
func (l *Log) Group(id backend.CopysetID) *Group { panic("skeleton") }

// Bytes is the disk space of all segments in use.
func (l *Log) Bytes() int64 { panic("skeleton") }

// Pinning returns the group with the oldest live entry and how many bytes of the
// log would be freed were that group's entries gone: whom to ask for a raft
// snapshot when the log grows.
func (l *Log) Pinning() (id backend.CopysetID, bytes int64) { panic("skeleton") }

// Close syncs and closes. No call may follow.
func (l *Log) Close() error { panic("skeleton") }

// Group is one copyset's log and stable store.
type Group struct{}

var (
	_ raft.LogStore          = (*Group)(nil)
	_ raft.StableStore       = (*Group)(nil)
	_ raft.MonotonicLogStore = (*Group)(nil)
)

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps.
func (g *Group) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (g *Group) FirstIndex() (uint64, error) { panic("skeleton") }

// LastIndex implements raft.LogStore.
func (g *Group) LastIndex() (uint64, error) { panic("skeleton") }

// GetLog implements raft.LogStore. raft.ErrLogNotFound.
func (g *Group) GetLog(index uint64, log *raft.Log) error { panic("skeleton") }

// StoreLog implements raft.LogStore.
func (g *Group) StoreLog(log *raft.Log) error { panic("skeleton") }

// StoreLogs implements raft.LogStore. The entries' Data is kept by reference.
func (g *Group) StoreLogs(logs []*raft.Log) error { panic("skeleton") }

// DeleteRange implements raft.LogStore for prefixes and suffixes.
func (g *Group) DeleteRange(min, max uint64) error { panic("skeleton") }

// Set implements raft.StableStore; durable when it returns.
func (g *Group) Set(key, val []byte) error { panic("skeleton") }

// Get implements raft.StableStore. An error that says "not found".
func (g *Group) Get(key []byte) ([]byte, error) { panic("skeleton") }

// SetUint64 implements raft.StableStore; durable when it returns.
func (g *Group) SetUint64(key []byte, val uint64) error { panic("skeleton") }

// GetUint64 implements raft.StableStore. An error that says "not found".
func (g *Group) GetUint64(key []byte) (uint64, error) { panic("skeleton") }

// Durable is the index up to which the group's entries are on stable storage.
func (g *Group) Durable() uint64 { panic("skeleton") }

// AfterDurable calls fn once everything that the group has appended so far is on
// stable storage: at once on the caller's goroutine if it is, else on a goroutine
// of the log, which fn must not block. Never called after the log failed.
func (g *Group) AfterDurable(fn func()) { panic("skeleton") }

// WaitDurable waits until index is durable. backend.ErrIO when the log failed.
func (g *Group) WaitDurable(index uint64) error { panic("skeleton") }

// Bytes is the size of the group's live entries.
func (g *Group) Bytes() int64 { panic("skeleton") }

// Delete forgets the group: entries, votes and damage; durable when it returns.
// The Group is empty and usable afterwards.
func (g *Group) Delete() error { panic("skeleton") }
