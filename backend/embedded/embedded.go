package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/memory"
)

const (
	// DefaultRecycleKeep is how long a removed volume can be recovered.
	DefaultRecycleKeep = mds.DefaultRecycleKeep
	// PurgeAtOnce, as Options.RecycleKeep, deletes removed volumes right away.
	PurgeAtOnce = mds.PurgeAtOnce
)

// Options of a Backend. The zero value is good.
type Options struct {
	// Owner is what holds the data directory, in words for whoever finds it in
	// use. Default "gateway".
	Owner string
	// RecycleKeep is how long removed volumes stay recoverable. 0 is
	// DefaultRecycleKeep, below 0 is PurgeAtOnce.
	RecycleKeep time.Duration
	// Chunks configures the chunk store of a data directory.
	Chunks chunkstore.Options
	// Log is slog.Default() by default.
	Log *slog.Logger
	// Legacy is what the Backend that had the directory until just now leaves: it
	// spares Open looking for itself. One of another directory is not used.
	Legacy []byte
	// Metrics gets the chunk store's counters; nil for none.
	Metrics prometheus.Registerer
}

// Backend is an open data directory, or its like in RAM.
type Backend struct {
	dir    *dataDir  // nil in RAM
	store  mds.Store // of the directory
	mds    *mds.MDS
	chunks backend.Chunks
	log    *slog.Logger

	purger *mds.Purger

	// background is done once Close begins; the work waits in running.
	background context.Context
	stop       context.CancelFunc
	running    sync.WaitGroup

	close    sync.Once
	closeErr error
	legacy   []byte
}

// Open opens the data directory dir, making it if it is missing or empty.
//
// backend.ErrBusy when another process has it open, backend.ErrInvalid when it
// is not a data directory or parts of it are missing, backend.ErrNotSupported
// when a newer program wrote it, backend.ErrChecksum when it is damaged,
// backend.ErrReadOnly and backend.ErrNoSpace.
func Open(dir string, opts Options) (_ *Backend, err error) {
	var opened []func() error
	defer func() {
		for i := len(opened) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, opened[i]())
		}
	}()

	d, err := openDataDir(dir, cmp.Or(opts.Owner, "gateway"))
	if err != nil {
		return nil, err
	}
	opened = append(opened, d.close)
	store, err := mds.OpenBolt(d.metaFile())
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	opened = append(opened, store.Close)
	opts.Chunks.Inherited = d.inherit(store, opts.Legacy)
	m, err := mds.New(store, mds.Options{StoreID: d.identity.UUID})
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	if opts.Chunks.Logger == nil {
		opts.Chunks.Logger = opts.Log
	}
	chunks, err := chunkstore.Open(disk.OS(), d.chunksDir(), opts.Chunks)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: chunks: %w", dir, err)
	}
	opened = append(opened, chunks.Close)

	if opts.Metrics != nil {
		if err := opts.Metrics.Register(chunks); err != nil {
			return nil, err
		}
	}

	b := newBackend(m, chunks, opts)
	b.dir, b.store = d, store
	opened = append(opened, func() error { b.stop(); return nil })
	candidates, err := b.takeOver(chunks)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	b.running.Go(func() { b.purger.Run(b.background) })
	b.running.Go(func() { b.deleteOrphans(candidates) })
	return b, nil
}

// OpenMemory returns an empty Backend in RAM, for tests, benchmarks and
// throw-away volumes.
func OpenMemory(opts Options) (*Backend, error) {
	m, err := mds.New(mds.NewMemStore(), mds.Options{})
	if err != nil {
		return nil, err
	}
	b := newBackend(m, memory.New(), opts)
	b.running.Go(func() { b.purger.Run(b.background) })
	return b, nil
}

func newBackend(m *mds.MDS, chunks backend.Chunks, opts Options) *Backend {
	ctx, stop := context.WithCancel(context.Background())
	b := &Backend{mds: m, chunks: chunks, log: opts.Log, background: ctx, stop: stop}
	if b.log == nil {
		b.log = slog.Default()
	}
	b.purger = mds.NewPurger(m, mds.PurgeOptions{Keep: opts.RecycleKeep, Delete: chunks.Delete, Log: b.log})
	return b
}

// takeOver ends what the last process left open, and returns the chunks that
// the store holds now, to look for orphans among them.
func (b *Backend) takeOver(chunks chunkLister) ([]backend.ChunkID, error) {
	released, err := b.mds.ReleaseAll(b.background)
	if err != nil {
		return nil, err
	}
	if released > 0 {
		b.log.Info("leases of the last gateway released", "volumes", released)
	}
	return b.orphanCandidates(chunks)
}

// Meta returns the metadata half. Backend.Close closes it.
func (b *Backend) Meta() backend.Meta { return fencingMeta{MDS: b.mds, b: b} }

// Chunks returns the data half. Backend.Close closes it.
func (b *Backend) Chunks() backend.Chunks { return b.chunks }

// Dir is the data directory, "" in RAM.
func (b *Backend) Dir() string {
	if b.dir == nil {
		return ""
	}
	return b.dir.path
}

// Usage returns the bytes of disk that a volume's chunks take.
func (b *Backend) Usage(ctx context.Context, id backend.VolumeID) (int64, error) {
	segments, err := b.mds.Segments(ctx, id)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, s := range segments {
		n, err := b.chunks.Usage(ctx, s.Chunks)
		if err != nil {
			return 0, fmt.Errorf("usage of segment %d of %s: %w", s.Index, id, err)
		}
		total += n
	}
	return total, nil
}

// Close stops the background work, makes everything durable and lets the data
// directory go. Repeated calls return the first one's error.
func (b *Backend) Close() error {
	b.close.Do(func() {
		b.stop()
		b.running.Wait()
		// Data before metadata: nothing may be in flight when the store that
		// says where it belongs is gone. The lock last: until then nobody else
		// may look.
		b.closeErr = b.chunks.Close()
		b.legacy = b.bequeath()
		b.closeErr = errors.Join(b.closeErr, b.mds.Close())
		if b.dir != nil {
			b.closeErr = errors.Join(b.closeErr, b.dir.close())
		}
	})
	return b.closeErr
}
