package chunkserver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
)

// replica is what the server needs of a *copyset.Replica.
type replica interface {
	Submit(op *backend.Op)
	Try(op *backend.Op) bool
	Extents(ctx context.Context, vol backend.VolumeID, chunk backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error)
	Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error)
	Delete(ctx context.Context, vol backend.VolumeID, chunks []backend.ChunkRef) error
	Export(ctx context.Context, req copyset.ExportRequest, emit func(copyset.Block) error) (copyset.ExportInfo, error)
	ChunkIDs() []backend.ChunkID
	Status() backend.ReplicaStatus
	TransferLeadership(ctx context.Context, to backend.ServerID) error
	Reconcile(ctx context.Context, want, rebuild []backend.ServerID) (done bool, err error)
	Snapshot() error
	Scrub(ctx context.Context) (copyset.ScrubResult, error)
	Full(full bool)
	Close() error
}

var _ replica = (*copyset.Replica)(nil)

// replicaSet is the replicas that serve. Lookups take no lock.
type replicaSet struct {
	mu  sync.Mutex // held while all is replaced
	all atomic.Pointer[map[backend.CopysetID]replica]
}

func newReplicaSet() *replicaSet {
	s := &replicaSet{}
	s.all.Store(&map[backend.CopysetID]replica{})
	return s
}

// get returns a copyset's replica, nil if there is none.
func (s *replicaSet) get(id backend.CopysetID) replica { return (*s.all.Load())[id] }

// find is get with an error for none.
func (s *replicaSet) find(id backend.CopysetID) (replica, error) {
	if r := s.get(id); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("%w: %v", backend.ErrNoCopyset, id)
}

// set puts a replica in, or takes it out if it is nil.
func (s *replicaSet) set(id backend.CopysetID, r replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.all.Load())
	if r == nil {
		delete(next, id)
	} else {
		next[id] = r
	}
	s.all.Store(&next)
}

// ids lists the copysets in order.
func (s *replicaSet) ids() []backend.CopysetID {
	return slices.Sorted(maps.Keys(*s.all.Load()))
}
