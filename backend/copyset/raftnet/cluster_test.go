package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is some servers with the same groups, over loopback.
type cluster struct {
	t       testing.TB
	servers []*server
	groups  int
	voters  []backend.ServerID
	dial    func(from, to backend.ServerID) func(ctx context.Context, address string) (net.Conn, error)
	tune    func(*raft.Config)
	opts    func(*Options)
	// sync is how long each write of a term or a vote takes, syncTime what gates say.
	sync, syncTime time.Duration
}

// server is one chunkserver's links and replicas.
type server struct {
	id       backend.ServerID
	address  string
	net      *Net
	replicas []*replica
	wg       sync.WaitGroup
}

type replica struct {
	raft    *raft.Raft
	group   *Group
	log     *raft.InmemStore
	applied atomic.Int64
	stop    chan struct{}
}

// slowStable is on a disk that takes its time.
type slowStable struct {
	raft.StableStore
	sync time.Duration
}

func (s slowStable) Set(key, value []byte) error {
	time.Sleep(s.sync)
	return s.StableStore.Set(key, value)
}

func (s slowStable) SetUint64(key []byte, value uint64) error {
	if string(key) != "LastVoteTerm" { // it is stored together with the candidate
		time.Sleep(s.sync)
	}
	return s.StableStore.SetUint64(key, value)
}

// promptGate is the gate of a log that is durable at once, on such a disk.
type promptGate time.Duration

func (promptGate) Durable() uint64           { return math.MaxUint64 }
func (promptGate) AfterDurable(fn func())    { fn() }
func (d promptGate) SyncTime() time.Duration { return time.Duration(d) }

// ledger is a state machine that counts.
type ledger struct{ n *atomic.Int64 }

func (l ledger) Apply(*raft.Log) any                 { return l.n.Add(1) }
func (l ledger) Snapshot() (raft.FSMSnapshot, error) { return ledgerSnapshot(l.n.Load()), nil }
func (l ledger) Restore(r io.ReadCloser) error {
	defer r.Close()
	var n int64
	_, err := fmt.Fscan(r, &n)
	l.n.Store(n)
	return err
}

type ledgerSnapshot int64

func (s ledgerSnapshot) Persist(sink raft.SnapshotSink) error {
	fmt.Fprint(sink, int64(s))
	return sink.Close()
}
func (ledgerSnapshot) Release() {}

func newCluster(t testing.TB, servers, groups int, change func(*cluster)) *cluster {
	c := &cluster{t: t, groups: groups}
	for i := 1; i <= servers; i++ {
		c.voters = append(c.voters, backend.ServerID(i))
	}
	if change != nil {
		change(c)
	}
	for _, id := range c.voters {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &server{id: id, address: ln.Addr().String()}
		c.start(s, ln)
		c.servers = append(c.servers, s)
	}
	book := c.book()
	for _, s := range c.servers {
		s.net.SetAddresses(book)
	}
	for _, s := range c.servers {
		for i := range groups {
			s.replicas = append(s.replicas, c.replica(s, i, raft.NewInmemStore(), true))
		}
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			c.stop(s)
		}
	})
	return c
}

func (c *cluster) book() map[backend.ServerID]string {
	book := map[backend.ServerID]string{}
	for _, s := range c.servers {
		book[s.id] = s.address
	}
	return book
}

func (c *cluster) start(s *server, ln net.Listener) {
	o := Options{Self: s.id, Cluster: "test", Listener: ln}
	if c.dial != nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			for _, to := range c.servers {
				if to.address == address {
					return c.dial(s.id, to.id)(ctx, address)
				}
			}
			return nil, fmt.Errorf("nobody at %s", address)
		}
	}
	if c.opts != nil {
		c.opts(&o)
	}
	n, err := Start(o)
	if err != nil {
		c.t.Fatal(err)
	}
	s.net = n
}

func (c *cluster) config(id backend.ServerID) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = PeerID(id)
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 250*time.Millisecond
	conf.CommitTimeout = 2 * time.Second
	conf.BatchApplyCh = true
	conf.Logger = hclog.NewNullLogger()
	conf.NoLegacyTelemetry = true
	conf.ShutdownOnRemove = false
	if c.tune != nil {
		c.tune(conf)
	}
	return conf
}

// replica opens group i on a server.
func (c *cluster) replica(s *server, i int, store *raft.InmemStore, found bool) *replica {
	g := s.net.Group(backend.CopysetID(i+1), promptGate(c.syncTime))
	g.Configure(c.voters)
	r := &replica{group: g, log: store, stop: make(chan struct{})}
	conf := c.config(s.id)
	snaps := raft.NewInmemSnapshotStore()
	if found {
		var first raft.Configuration
		for _, id := range c.voters {
			first.Servers = append(first.Servers, raft.Server{ID: PeerID(id), Address: PeerAddress(id)})
		}
		if err := raft.BootstrapCluster(conf, store, store, snaps, g, first); err != nil {
			c.t.Fatal(err)
		}
	}
	var err error
	if r.raft, err = raft.NewRaft(conf, ledger{&r.applied}, store, slowStable{store, c.sync}, snaps, g); err != nil {
		c.t.Fatal(err)
	}
	g.OnPatience(func(d time.Duration) {
		rc := r.raft.ReloadableConfig()
		rc.ElectionTimeout = max(conf.ElectionTimeout, d)
		if err := r.raft.ReloadConfig(rc); err != nil {
			c.t.Error(err)
		}
	})
	s.wg.Go(func() {
		for {
			select {
			case leads := <-r.raft.LeaderCh():
				if leads {
					g.Lead(r.raft.CurrentTerm())
				} else {
					g.Follow()
				}
			case <-r.stop:
				return
			}
		}
	})
	return r
}

// stop ends a server as a crash would: the links first.
func (c *cluster) stop(s *server) {
	if s.net == nil {
		return
	}
	if err := s.net.Close(); err != nil {
		c.t.Error(err)
	}
	var wg sync.WaitGroup
	for _, r := range s.replicas {
		wg.Go(func() {
			if err := r.raft.Shutdown().Error(); err != nil {
				c.t.Error(err)
			}
			close(r.stop)
		})
	}
	wg.Wait()
	s.wg.Wait()
	s.net = nil
}

// restart brings a stopped server back, with its logs.
func (c *cluster) restart(s *server) {
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.start(s, ln)
	s.net.SetAddresses(c.book())
	for i, old := range s.replicas {
		s.replicas[i] = c.replica(s, i, old.log, false)
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, limit time.Duration, what string, cond func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(500 * time.Microsecond)
	}
	return time.Since(start)
}

// leader waits for the leader of group i among the running servers, and for its lease: a
// majority follows it.
func (c *cluster) leader(i int) *server {
	c.t.Helper()
	var found *server
	eventually(c.t, 30*time.Second, fmt.Sprintf("a leader of group %d", i), func() bool {
		for _, s := range c.servers {
			if s.net != nil && s.replicas[i].raft.State() == raft.Leader && s.replicas[i].group.LeaseUntil().After(time.Now()) {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// lease waits until a leader has its lease. Its Group may learn a moment after raft
// that it leads.
func (c *cluster) lease(s *server, i int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	eventually(c.t, 5*time.Second, "a lease", func() bool {
		err := s.replicas[i].group.AwaitLease(ctx)
		if err != nil && !errors.Is(err, backend.ErrNotLeader) {
			c.t.Fatal(err)
		}
		return err == nil
	})
}

func (c *cluster) apply(s *server, i int, data []byte) error {
	return s.replicas[i].raft.Apply(data, time.Second).Error()
}

func TestGroupsElectReplicateAndLease(t *testing.T) {
	c := newCluster(t, 3, 4, nil)
	for i := range 4 {
		l := c.leader(i)
		for range 50 {
			if err := c.apply(l, i, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		c.lease(l, i)
		if left := time.Until(l.replicas[i].group.LeaseUntil()); left <= 0 || left > 150*time.Millisecond {
			t.Fatalf("lease for another %v", left)
		}
	}
	for _, s := range c.servers {
		for i := range 4 {
			eventually(t, 10*time.Second, "every replica applies everything", func() bool { return s.replicas[i].applied.Load() == 50 })
		}
	}
}
