package chunkserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// scripted is a replica that does what a test tells it: by default it is the leader
// and serves from chunks.
type scripted struct {
	chunks backend.Chunks

	mu sync.Mutex
	// onSubmit, when set, has every operation instead of chunks.
	onSubmit func(op *backend.Op)
	// refuse, when set, is the outcome of every operation and call.
	refuse error
	// declines makes Try decline.
	declines bool
	// onReconcile, when set, is called by Reconcile.
	onReconcile func(context.Context)
	full        bool
	status      backend.ReplicaStatus
	// transferred are the targets of leadership transfers.
	transferred []backend.ServerID
	export      func(copyset.ExportRequest, func(copyset.Block) error) (copyset.ExportInfo, error)
}

var _ replica = (*scripted)(nil)

func (s *scripted) script(edit func(*scripted)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(s)
}

func (s *scripted) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuse
}

func (s *scripted) Submit(op *backend.Op) {
	s.mu.Lock()
	onSubmit, refuse := s.onSubmit, s.refuse
	s.mu.Unlock()
	switch {
	case refuse != nil:
		op.Err = refuse
		op.Done.OpDone(op)
	case onSubmit != nil:
		onSubmit(op)
	default:
		s.chunks.Submit(op)
	}
}

func (s *scripted) Try(op *backend.Op) bool {
	s.mu.Lock()
	no := s.declines || s.onSubmit != nil || s.refuse != nil
	s.mu.Unlock()
	return !no && s.chunks.Try(op)
}

func (s *scripted) Extents(ctx context.Context, vol backend.VolumeID, ref backend.ChunkRef, off, length int64, dst []backend.Extent) ([]backend.Extent, error) {
	if err := s.refusal(); err != nil {
		return nil, err
	}
	return s.chunks.Extents(ctx, vol, ref, off, length, dst)
}

func (s *scripted) Usage(ctx context.Context, refs []backend.ChunkRef) (int64, error) {
	if err := s.refusal(); err != nil {
		return 0, err
	}
	return s.chunks.Usage(ctx, refs)
}

func (s *scripted) Delete(ctx context.Context, vol backend.VolumeID, refs []backend.ChunkRef) error {
	if err := s.refusal(); err != nil {
		return err
	}
	return s.chunks.Delete(ctx, vol, refs)
}

func (s *scripted) Export(_ context.Context, req copyset.ExportRequest, emit func(copyset.Block) error) (copyset.ExportInfo, error) {
	return s.export(req, emit)
}

func (s *scripted) ChunkIDs() []backend.ChunkID { return nil }

func (s *scripted) Status() backend.ReplicaStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

func (s *scripted) TransferLeadership(_ context.Context, to backend.ServerID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transferred = append(s.transferred, to)
	return s.refuse
}

func (s *scripted) Reconcile(ctx context.Context, _, _ []backend.ServerID) (bool, error) {
	if s.onReconcile != nil {
		s.onReconcile(ctx)
	}
	return true, nil
}
func (s *scripted) Snapshot() error { return s.refusal() }
func (s *scripted) Scrub(context.Context) (copyset.ScrubResult, error) {
	return copyset.ScrubResult{Chunks: 3, Damaged: 2, Repaired: 1}, s.refusal()
}

func (s *scripted) Full(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *scripted) Close() error { return nil }

// ioServer is the chunk service with scripted replicas, behind a real listener.
type ioServer struct {
	*ioService
	address string
	grpc    *grpc.Server
	served  chan struct{}
}

// serveIO starts the service for server id, on address or, if "", any port.
func serveIO(t testing.TB, id backend.ServerID, address string) *ioServer {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	lis, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &ioServer{ioService: newIOService(id), served: make(chan struct{})}
	s.serve(t, lis)
	return s
}

func newIOService(id backend.ServerID) *ioService {
	return &ioService{
		self: id, incarnation: 42, maxStreams: 64, replicas: newReplicaSet(), news: newNews(),
		admission: &admission{maxOps: 4096, maxBytes: 64 << 20}, log: slog.New(slog.DiscardHandler),
	}
}

func (s *ioServer) serve(t testing.TB, lis net.Listener) {
	s.address = lis.Addr().String()
	status := func() *pb.ServerStatus { return &pb.ServerStatus{Server: uint32(s.self)} }
	s.grpc, _ = newGRPC(s.ioService, &control{replicas: s.replicas, status: status})
	go func() {
		defer close(s.served)
		s.grpc.Serve(lis)
	}()
	t.Cleanup(s.stop)
}

// stop ends the service as a process that is killed would: connections break.
func (s *ioServer) stop() {
	s.grpc.Stop()
	<-s.served
	s.senders.Wait()
}

// addressBook is a remote.Resolver of a fixed cluster.
type addressBook struct {
	mu      sync.Mutex
	servers map[backend.ServerID]string
	peers   []backend.ServerID
}

func bookOf(servers ...*ioServer) *addressBook {
	b := &addressBook{servers: make(map[backend.ServerID]string)}
	for _, s := range servers {
		b.servers[s.self] = s.address
		b.peers = append(b.peers, s.self)
	}
	return b
}

func (b *addressBook) Server(_ context.Context, id backend.ServerID) (backend.ServerInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.servers[id] == "" {
		return backend.ServerInfo{}, fmt.Errorf("%w: %v", backend.ErrNotFound, id)
	}
	return backend.ServerInfo{ID: id, Address: b.servers[id]}, nil
}

func (b *addressBook) Copyset(_ context.Context, id backend.CopysetID) (backend.Copyset, error) {
	return backend.Copyset{ID: id, Peers: b.peers}, nil
}

func dialChunks(t testing.TB, book *addressBook, o remote.Options) *remote.Chunks {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Client = "test"
	c := remote.NewChunks(book, o)
	t.Cleanup(func() { c.Close() })
	return c
}

// watcher records what a RouteWatcher hears.
type watcher struct {
	mu     sync.Mutex
	routes map[backend.CopysetID]pb.Route
	lost   map[backend.ServerID]int
	heard  chan struct{} // closed and replaced at each call
}

func newWatcher() *watcher {
	return &watcher{routes: make(map[backend.CopysetID]pb.Route), lost: make(map[backend.ServerID]int), heard: make(chan struct{})}
}

func (w *watcher) LeaderIs(id backend.CopysetID, leader backend.ServerID, term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.routes[id] = pb.Route{Copyset: id, Leader: leader, Term: term}
	w.bang()
}

func (w *watcher) ServerLost(id backend.ServerID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost[id]++
	w.bang()
}

func (w *watcher) bang() {
	close(w.heard)
	w.heard = make(chan struct{})
}

// await waits until ok holds of what was heard.
func (w *watcher) await(t testing.TB, what string, ok func(*watcher) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		w.mu.Lock()
		done, heard := ok(w), w.heard
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-heard:
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Fatalf("waiting for %s: heard routes %v, lost %v", what, w.routes, w.lost)
		}
	}
}
