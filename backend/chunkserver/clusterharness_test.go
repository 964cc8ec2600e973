package chunkserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// fakeMDS is a Topology that a test edits. It gives out orders like the real one's.
type fakeMDS struct {
	mu      sync.Mutex
	down    bool
	servers []backend.ServerInfo
	orders  map[backend.CopysetID]backend.ReplicaOrder
	// wipe are the servers whose replica of a copyset shall be forgotten.
	wipe    map[backend.CopysetID]backend.ServerID
	reports map[backend.ServerID]backend.Report
	beats   map[backend.ServerID]int
	started map[backend.CopysetID]bool
	heard   chan struct{} // closed and replaced at each report
}

func newFakeMDS() *fakeMDS {
	return &fakeMDS{
		orders: make(map[backend.CopysetID]backend.ReplicaOrder), wipe: make(map[backend.CopysetID]backend.ServerID),
		reports: make(map[backend.ServerID]backend.Report), beats: make(map[backend.ServerID]int),
		started: make(map[backend.CopysetID]bool), heard: make(chan struct{}),
	}
}

var errMDSDown = fmt.Errorf("%w: the MDS", backend.ErrUnreachable)

func (m *fakeMDS) Register(_ context.Context, info backend.ServerInfo) (backend.ServerInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return info, errMDSDown
	}
	for i, s := range m.servers {
		if s.UUID == info.UUID {
			info.ID = s.ID
			m.servers[i] = info
			return info, nil
		}
	}
	info.ID = backend.ServerID(len(m.servers) + 1)
	m.servers = append(m.servers, info)
	return info, nil
}

func (m *fakeMDS) Heartbeat(_ context.Context, r backend.Report) (backend.Orders, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return backend.Orders{}, errMDSDown
	}
	if !slices.ContainsFunc(m.servers, func(s backend.ServerInfo) bool { return s.ID == r.Server && s.UUID == r.UUID }) {
		return backend.Orders{}, fmt.Errorf("%w: %v", backend.ErrNotFound, r.Server)
	}
	m.reports[r.Server] = r
	m.beats[r.Server]++
	for _, st := range r.Replicas {
		if len(st.Voters) > 0 && st.Leader != 0 {
			m.started[st.Copyset] = true
		}
	}
	o := backend.Orders{Servers: slices.Clone(m.servers)}
	for id, order := range m.orders {
		order.Founding = !m.started[id]
		order.Wipe = m.wipe[id] == r.Server && slices.ContainsFunc(r.Replicas, func(st backend.ReplicaStatus) bool { return st.Copyset == id })
		o.Replicas = append(o.Replicas, order)
	}
	close(m.heard)
	m.heard = make(chan struct{})
	return o, nil
}

func (m *fakeMDS) Servers(context.Context) ([]backend.ServerInfo, error)   { return nil, nil }
func (m *fakeMDS) Copysets(context.Context) ([]backend.CopysetInfo, error) { return nil, nil }
func (m *fakeMDS) CreateCopysets(_ context.Context, n, replicas int) error { return nil }
func (m *fakeMDS) edit(f func(*fakeMDS))                                   { m.mu.Lock(); defer m.mu.Unlock(); f(m) }
func (m *fakeMDS) Server(_ context.Context, id backend.ServerID) (info backend.ServerInfo, err error) {
	m.edit(func(m *fakeMDS) {
		err = backend.ErrNotFound
		for _, s := range m.servers {
			if s.ID == id {
				info, err = s, nil
			}
		}
	})
	return info, err
}

func (m *fakeMDS) Copyset(_ context.Context, id backend.CopysetID) (c backend.Copyset, err error) {
	m.edit(func(m *fakeMDS) { c = backend.Copyset{ID: id, Peers: m.orders[id].Peers} })
	return c, nil
}

// await waits until ok holds of what was reported.
func (m *fakeMDS) await(t testing.TB, what string, ok func(*fakeMDS) bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		m.mu.Lock()
		done, heard := ok(m), m.heard
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-heard:
		case <-deadline:
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Fatalf("waiting for %s: reports are %+v", what, m.reports)
		}
	}
}

// leaderOf is who says that it leads, 0 for none or several.
func (m *fakeMDS) leaderOf(id backend.CopysetID) backend.ServerID {
	var leader backend.ServerID
	term := uint64(0)
	for server, r := range m.reports {
		for _, st := range r.Replicas {
			if st.Copyset == id && st.Leader == server && st.Term > term {
				leader, term = server, st.Term
			}
		}
	}
	return leader
}

// cluster is some chunkservers in this process, on file systems in memory.
type cluster struct {
	t       testing.TB
	mds     *fakeMDS
	servers []*Server
	disks   []*crashfs.FS
	options func(i int, o *Options)
}

func testLogger(t testing.TB) *slog.Logger {
	if os.Getenv("CURVE_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startCluster starts n servers, each with a replica of the copysets 1 to copysets,
// and waits until all have a leader.
func startCluster(t testing.TB, n, copysets int, options func(i int, o *Options)) *cluster {
	t.Helper()
	c := &cluster{t: t, mds: newFakeMDS(), options: options, servers: make([]*Server, n)}
	for i := range n {
		c.disks = append(c.disks, crashfs.New(crashfs.Options{Unit: 4096}))
		c.start(i)
	}
	var peers []backend.ServerID
	for id := range n {
		peers = append(peers, backend.ServerID(id+1))
	}
	c.mds.edit(func(m *fakeMDS) {
		for id := 1; id <= copysets; id++ {
			m.orders[backend.CopysetID(id)] = backend.ReplicaOrder{Copyset: backend.CopysetID(id), Peers: peers}
		}
	})
	t.Cleanup(func() {
		for i := range c.servers {
			c.kill(i)
		}
	})
	c.awaitLeaders()
	return c
}

func (c *cluster) awaitLeaders() {
	c.t.Helper()
	c.mds.await(c.t, "leaders", func(m *fakeMDS) bool {
		for id := range m.orders {
			if m.leaderOf(id) == 0 {
				return false
			}
		}
		return len(m.orders) > 0
	})
}

// start starts server i, on a disk as it is.
func (c *cluster) start(i int) *Server {
	c.t.Helper()
	o := Options{
		Topology: c.mds, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", NoLock: true,
		Log:         raftlog.Options{SegmentBytes: 1 << 20},
		Space:       func() (int64, int64, error) { return 100 << 30, 200 << 30, nil },
		ReportEvery: 50 * time.Millisecond, Logger: testLogger(c.t),
		Fatal: func(err error) { c.t.Errorf("server %d: fatal: %v", i+1, err) },
	}
	if c.options != nil {
		c.options(i, &o)
	}
	s, err := Open(c.disks[i], "/data", o)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := s.Start(c.t.Context()); err != nil {
		c.t.Fatal(errors.Join(err, s.Close()))
	}
	c.servers[i] = s
	return s
}

// kill closes server i without draining, and forgets what it reported.
func (c *cluster) kill(i int) {
	c.t.Helper()
	s := c.servers[i]
	if s == nil {
		return
	}
	c.servers[i] = nil
	if err := s.Close(); err != nil {
		c.t.Errorf("close server %d: %v", i+1, err)
	}
	c.mds.edit(func(m *fakeMDS) { delete(m.reports, backend.ServerID(i+1)) })
}

var _ disk.FS = (*crashfs.FS)(nil)

// router is the least of a volume: it sends operations to the leader it hears of, and
// again until they have an outcome.
type router struct {
	*remote.Chunks
	t    testing.TB
	mds  *fakeMDS
	news *watcher
	mu   sync.Mutex
	seq  uint64
}

func (c *cluster) dial() *router {
	r := &router{Chunks: remote.NewChunks(c.mds, remote.Options{Client: "test", Logger: testLogger(c.t)}), t: c.t, mds: c.mds, news: newWatcher()}
	r.Watch(r.news)
	c.t.Cleanup(func() { r.Close() })
	return r
}

// do runs op to its end, and returns how many attempts it took.
func (r *router) do(op *backend.Op) (attempts int) {
	r.t.Helper()
	op.Session = 1
	if op.Kind.Changes() {
		r.mu.Lock()
		r.seq++
		op.Seq, op.Low = r.seq, r.seq
		r.mu.Unlock()
	}
	peers, _ := r.mds.Copyset(r.t.Context(), op.Chunk.Copyset)
	deadline := time.Now().Add(patience)
	for {
		attempts++
		r.news.mu.Lock()
		heard := r.news.heard
		op.Server = r.news.routes[op.Chunk.Copyset].Leader
		r.news.mu.Unlock()
		if op.Server != 0 {
			err := r.attempt(op)
			if err == nil {
				return attempts
			}
			if errors.Is(err, backend.ErrStaleEpoch) || errors.Is(err, backend.ErrInvalid) || time.Now().After(deadline) {
				r.t.Fatalf("%v: %v", op.Kind, err)
			}
		}
		for _, id := range peers.Peers {
			r.Ask(id, op.Chunk.Copyset)
		}
		select {
		case <-heard:
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%v: no leader of %v is found: %v", op.Kind, op.Chunk.Copyset, r.news.routes)
		}
	}
}

// attempt sends op, and gives up on it when another leader becomes known: what a
// server that hangs does not answer is sent to the next one.
func (r *router) attempt(op *backend.Op) error {
	done := start(r.Chunks, op)
	late := time.NewTicker(100 * time.Millisecond)
	defer late.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case op := <-done:
			return op.Err
		case <-late.C:
		}
		r.news.mu.Lock()
		now := r.news.routes[op.Chunk.Copyset].Leader
		r.news.mu.Unlock()
		if now != 0 && now != op.Server {
			r.Cancel(op)
		}
	}
	r.t.Errorf("%v of %v does not complete at %v", op.Kind, op.Chunk.Copyset, op.Server)
	r.Cancel(op)
	return (<-done).Err
}

func (r *router) op(kind backend.OpKind, copyset backend.CopysetID, chunk backend.ChunkID, off, length int64) *backend.Op {
	op := newOp(kind, off, length)
	op.Chunk = backend.ChunkRef{ID: chunk, Copyset: copyset, Size: 1 << 20}
	return op
}

func (r *router) write(copyset backend.CopysetID, chunk backend.ChunkID, off int64, b byte) {
	r.t.Helper()
	op := r.op(backend.OpWrite, copyset, chunk, off, 4096)
	op.Data = bytes.Repeat([]byte{b}, 4096)
	r.do(op)
}

func (r *router) wantBlock(copyset backend.CopysetID, chunk backend.ChunkID, off int64, b byte) {
	r.t.Helper()
	op := r.op(backend.OpRead, copyset, chunk, off, 4096)
	r.do(op)
	if !bytes.Equal(op.Data, bytes.Repeat([]byte{b}, 4096)) {
		r.t.Fatalf("%v, chunk %d, at %d: got %d..., want %d", copyset, chunk, off, op.Data[0], b)
	}
}
