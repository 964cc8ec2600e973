package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// subdirs is how many directories share the chunk files.
const subdirs = 256

// pendingSlots is a power of two, large enough that two busy chunks rarely
// share one; sharing only makes Try decline.
const pendingSlots = 1024

// Store is a directory of chunk files.
type Store struct {
	fs   disk.FS
	dir  string
	opts Options
	log  *slog.Logger

	index   *index
	volumes volumes
	// pending counts submitted changes by hashed chunk id; while one of a chunk
	// is in flight, Try leaves that chunk alone.
	pending [pendingSlots]atomic.Int32
	// tick is the cleaner's clock.
	tick      atomic.Uint32
	clockHand atomic.Uint32
	counters  counters
	// dirFailed has the failed sync of each directory.
	dirFailed [subdirs]atomic.Pointer[poisonError]

	// gate is held shared by whoever sends to a queue, and exclusively by Close
	// to set closed: after that nobody sends.
	gate   sync.RWMutex
	closed atomic.Bool
	// orderly: Close has made everything durable.
	orderly bool

	// One queue for each writer keeps the changes of a chunk in order.
	writers  []chan *backend.Op
	readers  chan *backend.Op
	flushers chan *volume
	syncers  chan syncJob
	// flushSlots bounds the flushes that wait or run.
	flushSlots chan struct{}

	writeDone, readDone, flushDone, syncDone, cleanDone sync.WaitGroup
	stopClean                                           chan struct{}
	cleanTicker                                         *time.Ticker
}

var _ backend.Chunks = (*Store)(nil)

// Open opens the store in dir, making the directory if need be. Close ends it.
func Open(fsys disk.FS, dir string, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	s := &Store{
		fs: fsys, dir: dir, opts: opts, log: opts.Logger,
		index:   newIndex(),
		volumes: volumes{byID: make(map[backend.VolumeID]*volume)},
	}
	if opts.Inherited != nil {
		s.inherit(opts.Inherited)
		s.start()
		return s, nil
	}
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	if !opts.planted.skipOpenSync {
		// For the directories just made, up to the root; and because a process
		// that was killed has left acknowledged changes in the page cache that
		// this one would not know to flush.
		if err := fsys.SyncAll(dir); err != nil {
			return nil, disk.Error("sync what an earlier process may have left", err)
		}
	}
	if err := s.scan(); err != nil {
		return nil, err
	}
	s.start()
	return s, nil
}

func (s *Store) makeDirs() error {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return disk.Error("make the chunk directory "+s.dir, err)
	}
	have, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return disk.Error("list the chunk directory "+s.dir, err)
	}
	found := make(map[string]bool, len(have))
	for _, name := range have {
		found[name] = true
	}
	for i := range subdirs {
		dir, _ := chunkName(backend.ChunkID(i))
		if found[dir] {
			continue
		}
		if err := s.fs.MkdirAll(s.dir + "/" + dir); err != nil {
			return disk.Error("make the chunk directory "+s.dir+"/"+dir, err)
		}
	}
	return nil
}

// scan learns which chunks there are.
func (s *Store) scan() error {
	for i := range subdirs {
		dir, _ := chunkName(backend.ChunkID(i))
		names, err := s.fs.ReadDir(s.dir + "/" + dir)
		if err != nil {
			return disk.Error("list the chunk directory "+s.dir+"/"+dir, err)
		}
		for _, name := range names {
			id, ok := parseChunkName(dir, name)
			if !ok {
				s.log.Warn("not a chunk file, left alone", "path", s.dir+"/"+dir+"/"+name)
				continue
			}
			s.index.setFile(id, true)
			s.counters.chunks.Add(1)
		}
	}
	return nil
}

func (s *Store) start() {
	s.readers = make(chan *backend.Op, s.opts.QueueDepth)
	s.flushers = make(chan *volume, s.opts.FlushWorkers)
	s.syncers = make(chan syncJob, s.opts.SyncWorkers)
	s.flushSlots = make(chan struct{}, s.opts.QueueDepth)
	s.writers = make([]chan *backend.Op, s.opts.WriteWorkers)
	for i := range s.writers {
		s.writers[i] = make(chan *backend.Op, s.opts.QueueDepth)
		s.writeDone.Add(1)
		go s.writeWorker(s.writers[i])
	}
	startAll := func(n int, done *sync.WaitGroup, worker func()) {
		for range n {
			done.Add(1)
			go worker()
		}
	}
	startAll(s.opts.ReadWorkers, &s.readDone, s.readWorker)
	startAll(s.opts.FlushWorkers, &s.flushDone, s.flushWorker)
	startAll(s.opts.SyncWorkers, &s.syncDone, s.syncWorker)
	s.stopClean = make(chan struct{})
	s.cleanTicker = time.NewTicker(max(s.opts.CleanAfter/cleanTicks, 1))
	startAll(1, &s.cleanDone, s.cleaner)
}

// stop ends intake and lets every stage drain into the next. It reports false
// when that was done before.
func (s *Store) stop() bool {
	s.gate.Lock()
	if s.closed.Swap(true) {
		s.gate.Unlock()
		return false
	}
	s.gate.Unlock()
	for _, q := range s.writers {
		close(q)
	}
	close(s.readers)
	close(s.flushers)
	s.writeDone.Wait()
	s.readDone.Wait()
	s.flushDone.Wait()
	close(s.syncers) // flush workers were the last to send to it
	s.syncDone.Wait()
	s.cleanTicker.Stop()
	close(s.stopClean)
	s.cleanDone.Wait()
	return true
}

// Close implements backend.Chunks. A second Close does nothing.
func (s *Store) Close() error {
	if !s.stop() {
		return nil
	}
	if err := s.eachShard(s.closeShard); err != nil {
		return fmt.Errorf("close chunk store: %w", err)
	}
	s.orderly = true
	return nil
}

// eachShard works on all shards of the index, some of them at a time.
func (s *Store) eachShard(work func(shard int) error) error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	shards := make(chan int)
	for range min(s.opts.SyncWorkers, indexShards) {
		wg.Go(func() {
			for i := range shards {
				if err := work(i); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range s.index.shards {
		shards <- i
	}
	close(shards)
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Store) closeShard(i int) error {
	var errs []error
	for _, c := range s.index.appendOpen(nil, i) {
		if err := s.cleanNow(c); err != nil {
			errs = append(errs, err)
		}
		c.sync.Lock()
		c.mu.Lock()
		if !c.gone {
			s.forget(c)
		}
		c.mu.Unlock()
		c.sync.Unlock()
	}
	return errors.Join(errs...)
}

// use holds the gate for a call that works on its caller's goroutine.
func (s *Store) use(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.gate.RLock()
	if s.closed.Load() {
		s.gate.RUnlock()
		return errClosed
	}
	return nil
}

var errClosed = fmt.Errorf("chunk store: %w", backend.ErrClosed)

// Extents implements backend.Chunks.
func (s *Store) Extents(ctx context.Context, vol backend.VolumeID, ref backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	if err := s.use(ctx); err != nil {
		return dst, err
	}
	defer s.gate.RUnlock()
	if err := ref.CheckRange(off, length); err != nil {
		return dst, err
	}
	c, err := s.lockForRead(ref, vol)
	if err != nil {
		return dst, err
	}
	if c == nil {
		return backend.AppendExtent(dst, length, true), nil
	}
	defer c.mu.RUnlock()
	return c.extents(off, length, dst), nil
}

// Usage implements backend.Chunks.
func (s *Store) Usage(ctx context.Context, chunks []backend.ChunkRef) (int64, error) {
	if err := s.use(ctx); err != nil {
		return 0, err
	}
	defer s.gate.RUnlock()
	var total int64
	for _, ref := range chunks {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		dir, name := chunkName(ref.ID)
		n, err := s.fs.Allocated(s.dir + "/" + dir + "/" + name)
		if err != nil && !disk.NotExist(err) {
			return 0, disk.Error("size of "+ref.ID.String(), err)
		}
		total += n
	}
	return total, nil
}

// ChunkIDs returns the chunks that have a file, in order. Those that no segment
// refers to are left from a crash between their deletion and its record.
func (s *Store) ChunkIDs(ctx context.Context) ([]backend.ChunkID, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	defer s.gate.RUnlock()
	return s.index.ids(), nil
}
