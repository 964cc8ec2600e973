package e2e

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// storedReplica is the chunks of a chunkserver that does not run.
type storedReplica struct {
	name  string
	store *chunkstore.Store
	// volumes says whose each chunk is.
	volumes map[backend.ChunkID]backend.VolumeID

	// loaded is the chunk whose blocks are in data, by number; holes are not.
	loaded backend.ChunkID
	data   map[int64][]byte
}

func (r *storedReplica) Name() string { return r.name }

func (r *storedReplica) Chunks(ctx context.Context) (map[backend.ChunkID]int64, error) {
	ids, err := r.store.ChunkIDs(ctx)
	chunks := map[backend.ChunkID]int64{}
	for _, id := range ids {
		chunks[id] = backend.DefaultChunkSize
	}
	return chunks, err
}

func (r *storedReplica) ReadBlock(ctx context.Context, chunk backend.ChunkID, block int64, p []byte) error {
	if r.loaded != chunk || r.data == nil {
		if err := r.load(ctx, chunk); err != nil {
			return err
		}
	}
	clear(p)
	copy(p, r.data[block])
	return nil
}

func (r *storedReplica) load(ctx context.Context, chunk backend.ChunkID) error {
	r.loaded, r.data = chunk, map[int64][]byte{}
	ref := backend.ChunkRef{ID: chunk, Size: backend.DefaultChunkSize}
	_, err := r.store.Blocks(ctx, ref, r.volumes[chunk], 0, int(ref.Size/chunkstore.BlockSize), nil, func(block int, data []byte) error {
		r.data[int64(block)] = bytes.Clone(data)
		return nil
	})
	return err
}

// compareReplicas stops all chunkservers and holds their chunks against each other.
func (f *fleet) compareReplicas() {
	f.t.Helper()
	volumes, err := f.chunkOwners()
	if err != nil {
		f.t.Fatal(err)
	}
	f.awaitQuiet()
	for _, s := range f.byName() {
		f.terminate(s)
	}
	var replicas []audit.Replica
	for _, s := range f.byName() {
		store, err := chunkstore.Open(disk.OS(), filepath.Join(f.dir, s.name, "chunks"), chunkstore.Options{})
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(func() { store.Close() })
		replicas = append(replicas, &storedReplica{name: s.name, store: store, volumes: volumes})
	}
	c, err := audit.Compare(f.t.Context(), replicas)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.t.Logf("replicas: %d chunks, %d blocks", c.Chunks, c.Blocks); !c.Equal() || c.Chunks == 0 {
		f.t.Error(c)
	}
}

func (f *fleet) chunkOwners() (map[backend.ChunkID]backend.VolumeID, error) {
	owners := map[backend.ChunkID]backend.VolumeID{}
	volumes, err := f.meta.Volumes(f.t.Context(), "")
	for _, v := range volumes {
		segments, err := f.meta.Segments(f.t.Context(), v.ID)
		if err != nil {
			return nil, err
		}
		for _, s := range segments {
			for _, c := range s.Chunks {
				owners[c.ID] = v.ID
			}
		}
	}
	return owners, err
}

// The comparison is worth nothing if it does not see a block that differs.
func TestReplicaCompareSeesABlockThatDiffers(t *testing.T) {
	var replicas []audit.Replica
	for i, name := range []string{"a", "b", "c"} {
		store, err := chunkstore.Open(disk.OS(), filepath.Join(t.TempDir(), "chunks"), chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		block := make([]byte, 4096)
		block[7] = byte(i / 2) // c differs
		op := &backend.Op{
			Kind: backend.OpWrite, Volume: 1, Epoch: 1, Chunk: backend.ChunkRef{ID: 5, Size: backend.DefaultChunkSize},
			Off: 3 * 4096, Len: 4096, Data: block, Done: make(opDone, 1),
		}
		store.Submit(op)
		if <-op.Done.(opDone); op.Err != nil {
			t.Fatal(op.Err)
		}
		replicas = append(replicas, &storedReplica{name: name, store: store, volumes: map[backend.ChunkID]backend.VolumeID{5: 1}})
	}
	c, err := audit.Compare(t.Context(), replicas)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Differences) != 1 || c.Differences[0].Chunk != 5 || c.Differences[0].Block != 3 || c.Differences[0].Blocks != 1 {
		t.Errorf("%v", c)
	}
}

type opDone chan struct{}

func (d opDone) OpDone(*backend.Op) { d <- struct{}{} }
