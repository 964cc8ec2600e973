package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Server is one chunkserver.
type Server struct {
	opts Options
	log  *slog.Logger
	fs   disk.FS
	lock *os.File
	dir  *dataDir

	listener, peerListener net.Listener
	address, peerAddress   string

	store   *chunkstore.Store
	raftLog *raftlog.Log
	// logBytes is raftLog.Bytes.
	logBytes func() int64
	net      *raftnet.Net // from Start on
	peers    *peers
	book     book

	io      *ioService
	grpc    *grpc.Server
	health  *health.Server
	serving sync.WaitGroup

	replicas *replicaSet
	hosts    hosting
	news     *news
	trouble  troubles
	limiter  *rate.Limiter
	watch    watchdog
	space    spaceGuard
	snaps    snapshotter
	metrics  *metrics

	// report has a token when the MDS should hear of something.
	report   chan struct{}
	draining atomic.Bool
	fatal    sync.Once

	// life ends with Close; background are the Server's goroutines.
	life       context.Context
	stop       context.CancelFunc
	background sync.WaitGroup

	// mu guards started and closed.
	mu              sync.Mutex
	started, closed bool
}

// Open opens the data directory dir, making it if it is missing or empty, and the
// listeners. Start makes the server serve; Close ends it.
//
// backend.ErrBusy when another process has the directory, backend.ErrInvalid when it
// is not a chunkserver's or parts of it are missing, backend.ErrNotSupported when a
// newer program wrote it.
func Open(fsys disk.FS, dir string, o Options) (_ *Server, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, log: o.Logger, fs: fsys,
		replicas: newReplicaSet(), news: newNews(), report: make(chan struct{}, 1),
	}
	s.life, s.stop = context.WithCancel(context.Background())
	s.hosts.init()
	s.watch.init()
	s.trouble = troubles{log: s.log, changed: s.reportSoon}
	s.peers = newPeers(s.book.address)
	if o.CatchUpRate > 0 {
		// A burst holds the largest message of an export.
		s.limiter = rate.NewLimiter(rate.Limit(o.CatchUpRate), int(max(o.CatchUpRate, maxControlMessage)))
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if !o.NoLock {
		if s.lock, err = lockDir(dir); err != nil {
			return nil, err
		}
	}
	if s.dir, err = openDataDir(fsys, dir, o.Cluster); err != nil {
		return nil, err
	}
	if err := s.book.load(s.dir); err != nil {
		return nil, err
	}
	if err := s.openListeners(); err != nil {
		return nil, err
	}
	if err := s.openDisk(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) openListeners() (err error) {
	if s.listener, err = listen(s.opts.Listener, s.opts.Listen); err != nil {
		return err
	}
	if s.peerListener, err = listen(s.opts.PeerListener, s.opts.PeerListen); err != nil {
		return err
	}
	if s.address, err = advertised(s.opts.Advertise, s.listener); err != nil {
		return err
	}
	s.peerAddress, err = advertised(s.opts.AdvertisePeer, s.peerListener)
	return err
}

func (s *Server) openDisk() (err error) {
	chunks := s.opts.Chunks
	chunks.Logger = s.log
	if s.store, err = chunkstore.Open(s.fs, s.dir.chunksDir(), chunks); err != nil {
		return err
	}
	log := s.opts.Log
	log.Logger = s.log
	log.Failed = s.logFailed
	if s.raftLog, err = raftlog.Open(s.fs, s.dir.logDir(), log); err != nil {
		return err
	}
	s.logBytes = s.raftLog.Bytes
	return nil
}

// ID is the chunkserver's id, 0 before the first Start has asked the MDS for one.
func (s *Server) ID() backend.ServerID { return s.dir.identity.Server }

// UUID is the identity of the data directory.
func (s *Server) UUID() string { return s.dir.identity.UUID }

// Address and PeerAddress are what others are told.
func (s *Server) Address() string { return s.address }

// PeerAddress is where the raft links of others come in.
func (s *Server) PeerAddress() string { return s.peerAddress }

// Start serves. Close must not be called before it has returned; ctx makes it return. A
// chunkserver that never was registered waits for the MDS to give
// it an id, until ctx is done; one that was does without the MDS.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.closed {
		s.mu.Unlock()
		return fmt.Errorf("%w: the chunkserver was started or closed before", backend.ErrInvalid)
	}
	s.started = true
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	registered := false
	if s.ID() == 0 {
		if err := s.registerFirst(ctx); err != nil {
			return err
		}
		registered = true
	}
	s.log = s.log.With("server", uint32(s.ID()))
	if err := s.startNet(); err != nil {
		return err
	}
	if err := s.openReplicas(); err != nil {
		return err
	}
	s.startService()
	s.startMetrics()
	for _, task := range []func(){
		func() { s.runReports(registered) }, s.runWatchdog, s.runProbe, s.runSpaceGuard, s.runSnapshots,
	} {
		s.background.Go(task)
	}
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	s.log.Info("chunkserver serves", "address", s.address, "peers", s.peerAddress, "uuid", s.UUID(), "copysets", len(s.hosts.ids()))
	return nil
}

func (s *Server) startNet() error {
	o := s.opts.Net
	o.Self, o.Listener, o.Logger = s.ID(), s.peerListener, s.log
	n, err := raftnet.Start(o)
	if err != nil {
		return err
	}
	s.net = n
	s.net.SetAddresses(s.book.peerAddresses())
	return nil
}

func (s *Server) startService() {
	s.io = &ioService{
		self: s.ID(), incarnation: rand.Uint64(), cluster: s.dir.identity.Cluster,
		maxStreams: s.opts.MaxStreams, replicas: s.replicas, news: s.news,
		admission: &admission{maxOps: s.opts.MaxOps, maxBytes: s.opts.MaxBytes}, log: s.log,
	}
	s.grpc, s.health = newGRPC(s.io, &control{replicas: s.replicas, status: s.statusMessage})
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	s.serving.Go(func() {
		if err := s.grpc.Serve(s.listener); err != nil && s.life.Err() == nil {
			s.fail(fmt.Errorf("chunk service: %w", err))
		}
	})
}

// logFailed is raftlog.Options.Failed: nothing that this server says may be relied on
// any more.
func (s *Server) logFailed(err error) {
	s.fail(fmt.Errorf("the raft log cannot be written: %w", err))
}

// fail says, once, that the process should end. It does not block.
func (s *Server) fail(err error) {
	s.fatal.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed {
			return
		}
		s.background.Go(func() {
			s.trouble.set("fatal", err.Error())
			s.opts.Fatal(err)
		})
	})
}

// Close stops serving at once, without handing leaderships over, and releases
// everything. A second Close does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.stop()
	if s.grpc != nil {
		s.health.Shutdown()
		s.grpc.Stop() // breaks the clients' streams: they look elsewhere at once
		s.serving.Wait()
		s.io.senders.Wait()
	}
	s.background.Wait()
	err := s.closeReplicas()
	if s.io != nil {
		s.io.requests.Wait()
	}
	if s.net != nil {
		err = errors.Join(err, s.net.Close())
		s.peerListener = nil
	}
	s.stopMetrics()
	return errors.Join(err, s.release())
}

// release gives back what Open took.
func (s *Server) release() error {
	s.stop()
	s.peers.close()
	var err error
	if s.raftLog != nil {
		err = errors.Join(err, s.raftLog.Close())
	}
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	for _, lis := range []net.Listener{s.listener, s.peerListener} {
		if lis != nil {
			lis.Close() // those that served are closed already
		}
	}
	return errors.Join(err, unlockDir(s.lock))
}
