package mds_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// clock is a time.Now that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newClock() *clock { return &clock{now: time.Unix(1_700_000_000, 0)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// quiet drops what the MDS logs.
var quiet = slog.New(slog.DiscardHandler)

func newCluster(t *testing.T, store mds.Store, now *clock, cluster mds.ClusterOptions) *mds.MDS {
	t.Helper()
	return newMDS(t, store, mds.Options{Now: now.Now, Log: quiet, Cluster: &cluster})
}

// serverOf describes chunkserver n of a test in a zone.
func serverOf(n int, zone string) backend.ServerInfo {
	return backend.ServerInfo{
		UUID: fmt.Sprintf("uuid-%d", n), Address: fmt.Sprintf("10.0.0.%d:6800", n), PeerAddress: fmt.Sprintf("10.0.0.%d:6801", n),
		Zone: zone, PID: 100 + n,
	}
}

func register(t *testing.T, m *mds.MDS, info backend.ServerInfo) backend.ServerInfo {
	t.Helper()
	s, err := m.Register(t.Context(), info)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// registerMany registers n servers, each in a zone of its own.
func registerMany(t *testing.T, m *mds.MDS, n int) []backend.ServerInfo {
	t.Helper()
	servers := make([]backend.ServerInfo, n)
	for i := range servers {
		servers[i] = register(t, m, serverOf(i+1, fmt.Sprint("zone-", i+1)))
	}
	return servers
}

// report is a heartbeat with space left.
func report(s backend.ServerInfo, replicas ...backend.ReplicaStatus) backend.Report {
	return backend.Report{Server: s.ID, UUID: s.UUID, UsedBytes: 1 << 30, FreeBytes: 1 << 40, Replicas: replicas}
}

func beat(t *testing.T, m *mds.MDS, r backend.Report) backend.Orders {
	t.Helper()
	orders, err := m.Heartbeat(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return orders
}

func createCopysets(t *testing.T, m *mds.MDS, n, replicas int) {
	t.Helper()
	if err := m.CreateCopysets(t.Context(), n, replicas); err != nil {
		t.Fatal(err)
	}
}

func copysets(t *testing.T, m *mds.MDS) []backend.CopysetInfo {
	t.Helper()
	infos, err := m.Copysets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

func states(t *testing.T, m *mds.MDS) string {
	t.Helper()
	infos, err := m.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, s := range infos {
		words = append(words, fmt.Sprintf("%d:%s", s.ID, s.State))
	}
	return strings.Join(words, " ")
}

func TestServersKeepTheirIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	now := newClock()
	m := newCluster(t, openBolt(t, path), now, mds.ClusterOptions{})
	first := register(t, m, serverOf(1, "a"))
	second := register(t, m, serverOf(2, "b"))
	if first.ID != 1 || second.ID != 2 {
		t.Fatalf("ids %d and %d, want 1 and 2", first.ID, second.ID)
	}
	createCopysets(t, m, 3, 2)
	before := copysets(t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}

	m = newCluster(t, openBolt(t, path), now, mds.ClusterOptions{})
	if got := copysets(t, m); !reflect.DeepEqual(got, before) {
		t.Errorf("copysets after reopening: %+v, want %+v", got, before)
	}
	moved := serverOf(1, "c")
	moved.Address, moved.PID = "10.0.0.99:6800", 7
	again := register(t, m, moved)
	if again.ID != first.ID || again.Address != moved.Address || again.Zone != "c" || again.PID != 7 {
		t.Errorf("registered again: %+v", again)
	}
	if third := register(t, m, serverOf(3, "a")); third.ID != 3 {
		t.Errorf("id %d, want 3", third.ID)
	}
	got, err := m.Servers(t.Context())
	if err != nil || len(got) != 3 || got[0].Address != moved.Address || got[1].UUID != "uuid-2" {
		t.Errorf("servers: %+v, %v", got, err)
	}
}

func TestCopiedIdentityIsBusyWhileTheFirstOneLives(t *testing.T) {
	now := newClock()
	m := newCluster(t, mds.NewMemStore(), now, mds.ClusterOptions{})
	s := register(t, m, serverOf(1, "a"))
	twin := serverOf(1, "a")
	twin.Address = "10.0.0.2:6800"
	if _, err := m.Register(t.Context(), twin); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), s.Address) {
		t.Errorf("twin of a living server: %v, want ErrBusy that names %s", err, s.Address)
	}
	register(t, m, serverOf(1, "a")) // the same one, restarted
	now.advance(5 * time.Second)
	if got := register(t, m, twin); got.ID != s.ID {
		t.Errorf("moved when the first was silent: id %d, want %d", got.ID, s.ID)
	}
	beat(t, m, backend.Report{Server: s.ID, UUID: s.UUID, Draining: true})
	if got := register(t, m, serverOf(1, "a")); got.ID != s.ID { // it said that it stops
		t.Errorf("moved after draining: id %d, want %d", got.ID, s.ID)
	}
}

func TestBadServersAndReportsAreRefused(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{})
	for name, change := range map[string]func(*backend.ServerInfo){
		"uuid is empty":     func(s *backend.ServerInfo) { s.UUID = "" },
		"uuid of":           func(s *backend.ServerInfo) { s.UUID = strings.Repeat("u", 65) },
		"zone":              func(s *backend.ServerInfo) { s.Zone = "a\n" },
		"address \"\"":      func(s *backend.ServerInfo) { s.Address = "" },
		"address \":6800\"": func(s *backend.ServerInfo) { s.Address = ":6800" },
		"address \"h:0\"":   func(s *backend.ServerInfo) { s.Address = "h:0" },
		"peer address":      func(s *backend.ServerInfo) { s.PeerAddress = "h:http" },
		"pid":               func(s *backend.ServerInfo) { s.PID = -1 },
	} {
		bad := serverOf(1, "a")
		change(&bad)
		if _, err := m.Register(t.Context(), bad); !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want ErrInvalid that says so", name, err)
		}
	}
	s := register(t, m, serverOf(1, "a"))
	ok := backend.ReplicaStatus{Copyset: 1, State: backend.ReplicaOK}
	for name, c := range map[string]struct {
		r    backend.Report
		want error
	}{
		"no id":           {backend.Report{UUID: s.UUID}, backend.ErrInvalid},
		"unknown id":      {backend.Report{Server: 9, UUID: s.UUID}, backend.ErrNotFound},
		"another uuid":    {backend.Report{Server: s.ID, UUID: "other"}, backend.ErrNotFound},
		"negative space":  {backend.Report{Server: s.ID, UUID: s.UUID, FreeBytes: -1}, backend.ErrInvalid},
		"a novel":         {backend.Report{Server: s.ID, UUID: s.UUID, Trouble: strings.Repeat("t", 1023) + "\u00fc"}, nil},
		"a replica twice": {report(s, ok, ok), backend.ErrInvalid},
		"copyset 0":       {report(s, backend.ReplicaStatus{State: backend.ReplicaOK}), backend.ErrInvalid},
		"unknown state":   {report(s, backend.ReplicaStatus{Copyset: 1, State: "sleepy"}), backend.ErrInvalid},
		"many voters":     {report(s, backend.ReplicaStatus{Copyset: 1, State: backend.ReplicaOK, Voters: make([]backend.ServerID, 100)}), backend.ErrInvalid},
	} {
		if _, err := m.Heartbeat(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	infos, err := m.Servers(t.Context())
	if err != nil || infos[0].Trouble != strings.Repeat("t", 1023) {
		t.Errorf("a novel is kept as %d bytes, %v, want the first 1023 that are whole", len(infos[0].Trouble), err)
	}
}

func TestServerStatesFollowSilence(t *testing.T) {
	now := newClock()
	store := mds.NewMemStore()
	m := newCluster(t, store, now, mds.ClusterOptions{})
	s := registerMany(t, m, 2)
	expect := func(when, want string) {
		t.Helper()
		if got := states(t, m); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expect("registered", "1:online 2:online")
	beat(t, m, backend.Report{Server: s[0].ID, UUID: s[0].UUID, Trouble: "disk hangs"})
	expect("trouble", "1:unstable 2:online")
	beat(t, m, report(s[0]))
	expect("trouble over", "1:online 2:online")
	now.advance(5*time.Second - 1)
	beat(t, m, report(s[0]))
	now.advance(1)
	expect("5 s of silence", "1:online 2:unstable")
	if err := m.Retire(t.Context(), s[0].ID); err != nil {
		t.Fatal(err)
	}
	expect("retired", "1:retiring 2:unstable")
	now.advance(5*time.Minute - 5*time.Second)
	expect("5 min of silence", "1:retiring 2:offline")
	now.advance(time.Minute)
	expect("all silent", "1:offline 2:offline")
	beat(t, m, report(s[1]))
	expect("back", "1:offline 2:online")

	// A restart of the MDS must not take anybody for dead.
	m = newCluster(t, store, now, mds.ClusterOptions{})
	expect("MDS restarted", "1:retiring 2:unstable")
	if err := m.Retire(t.Context(), 9); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("retire a stranger: %v, want ErrNotFound", err)
	}
}

func TestCopysetsAreCreatedOnce(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{})
	registerMany(t, m, 2)
	if err := m.CreateCopysets(t.Context(), 6, 3); !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), "found 2 of 2") {
		t.Errorf("3 replicas on 2 servers: %v, want ErrInvalid that counts them", err)
	}
	register(t, m, serverOf(3, "zone-3"))
	for _, bad := range [][2]int{{0, 3}, {-1, 3}, {1 << 20, 3}, {6, 0}, {6, 8}} {
		if err := m.CreateCopysets(t.Context(), bad[0], bad[1]); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%d copysets of %d: %v, want ErrInvalid", bad[0], bad[1], err)
		}
	}
	createCopysets(t, m, 4, 3)
	before := copysets(t, m)
	createCopysets(t, m, 4, 3)
	createCopysets(t, m, 2, 3)
	if got := copysets(t, m); !reflect.DeepEqual(got, before) || len(got) != 4 {
		t.Errorf("created again: %+v, want the same 4", got)
	}
	createCopysets(t, m, 6, 3)
	got := copysets(t, m)
	if len(got) != 6 || !reflect.DeepEqual(got[:4], before) {
		t.Errorf("two more: %+v", got)
	}
	leaders := map[backend.ServerID]int{}
	for i, c := range got {
		leaders[c.Peers[0]]++
		if c.ID != backend.CopysetID(i+1) || len(c.Peers) != 3 || len(c.Replicas) != 3 {
			t.Errorf("copyset %d: %+v", i+1, c)
		}
		one, err := m.Copyset(t.Context(), c.ID)
		if err != nil || !reflect.DeepEqual(one, c.Copyset) {
			t.Errorf("Copyset(%d): %+v, %v, want %+v", c.ID, one, err, c.Copyset)
		}
	}
	for id, n := range leaders {
		if n != 2 {
			t.Errorf("server %d is first in %d of 6 copysets, want 2", id, n)
		}
	}
}

func TestFirstCopysetsAreMadeWhenEnoughServersAreThere(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{Auto: mds.AutoCopysets{MinServers: 3}})
	s := registerMany(t, m, 2)
	beat(t, m, report(s[0]))
	if n := len(copysets(t, m)); n != 0 {
		t.Fatalf("%d copysets with 2 of 3 servers", n)
	}
	third := register(t, m, serverOf(3, "zone-3"))
	if n := len(copysets(t, m)); n != 6 {
		t.Fatalf("%d copysets with 3 servers, want 2 for each", n)
	}
	orders := beat(t, m, report(third))
	if len(orders.Servers) != 3 || len(orders.Replicas) != 6 {
		t.Fatalf("told of %d servers and %d replicas, want 3 and 6", len(orders.Servers), len(orders.Replicas))
	}
	for _, o := range orders.Replicas {
		if !o.Founding || len(o.Peers) != 3 || o.Wipe || len(o.Rebuild) != 0 {
			t.Errorf("first order %+v", o)
		}
	}
	register(t, m, serverOf(4, "zone-4"))
	if n := len(copysets(t, m)); n != 6 {
		t.Errorf("%d copysets after a fourth server, want the 6 that there were", n)
	}
}

func TestFoundingEndsForGoodWithTheFirstLeader(t *testing.T) {
	store := mds.NewMemStore()
	now := newClock()
	m := newCluster(t, store, now, mds.ClusterOptions{})
	s := registerMany(t, m, 3)
	createCopysets(t, m, 1, 3)
	founding := func(i int, status ...backend.ReplicaStatus) bool {
		t.Helper()
		orders := beat(t, m, report(s[i], status...))
		if len(orders.Replicas) != 1 {
			t.Fatalf("orders %+v", orders.Replicas)
		}
		return orders.Replicas[0].Founding
	}
	alone := backend.ReplicaStatus{Copyset: 1, State: backend.ReplicaOK, Term: 1, Voters: []backend.ServerID{1, 2, 3}}
	if !founding(0) || !founding(0, alone) || !founding(1) {
		t.Error("founding ended although no majority was founded")
	}
	led := alone
	led.Leader = s[0].ID
	if founding(1, led) || founding(2) {
		t.Error("a replica is to be founded although the group has a leader")
	}
	m = newCluster(t, store, now, mds.ClusterOptions{})
	if founding(2) {
		t.Error("a replica is to be founded again after a restart of the MDS")
	}
}

func TestCopysetsTellWhatWasReported(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{})
	s := registerMany(t, m, 3)
	createCopysets(t, m, 1, 3)
	voters := []backend.ServerID{1, 2, 3}
	mine := func(i int, leader backend.ServerID, term uint64) {
		beat(t, m, report(s[i], backend.ReplicaStatus{
			Copyset: 1, State: backend.ReplicaOK, Leader: leader, Term: term, Voters: voters, Committed: 70, Applied: uint64(60 + i),
		}))
	}
	mine(0, 1, 4)
	mine(1, 1, 4)
	c := copysets(t, m)[0]
	if c.Leader != 1 || c.Term != 4 || c.Applied != 60 || c.Replicas[2].Applied != 61 {
		t.Errorf("copyset %+v", c)
	}
	if never := c.Replicas[3]; never.State != "" || !slices.Equal(never.Voters, []backend.ServerID{3}) {
		t.Errorf("replica never heard of: %+v", never)
	}
	mine(1, 0, 5)
	if c := copysets(t, m)[0]; c.Leader != 0 || c.Term != 5 {
		t.Errorf("election seen: leader %d in term %d, want none in 5", c.Leader, c.Term)
	}
	mine(2, 3, 5)
	if c := copysets(t, m)[0]; c.Leader != 3 || c.Term != 5 || c.Applied != 62 {
		t.Errorf("new leader: %d in term %d, applied %d", c.Leader, c.Term, c.Applied)
	}
	infos, err := m.Servers(t.Context())
	if err != nil || infos[2].Leaders != 1 || infos[2].Copysets != 1 || infos[1].Leaders != 0 || infos[0].UsedBytes != 1<<30 {
		t.Errorf("servers %+v, %v", infos, err)
	}
}

func TestMetadataOfOneMachineAndOfAClusterAreNotMixed(t *testing.T) {
	store := mds.NewMemStore()
	one := newMDS(t, store, mds.Options{})
	if _, err := one.Servers(t.Context()); !errors.Is(err, backend.ErrNotSupported) {
		t.Errorf("servers of one machine: %v, want ErrNotSupported", err)
	}
	if _, err := one.CreateVolume(t.Context(), backend.VolumeSpec{Name: "v", Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	lease, err := one.OpenVolume(t.Context(), "v", "gw", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, 0); err != nil {
		t.Fatal(err)
	}
	cluster := newCluster(t, store, newClock(), mds.ClusterOptions{})
	if _, err := cluster.Register(t.Context(), serverOf(1, "a")); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("chunkserver for one machine's metadata: %v, want ErrInvalid", err)
	}

	store = mds.NewMemStore()
	defer store.Close()
	register(t, newCluster(t, store, newClock(), mds.ClusterOptions{}), serverOf(1, "a"))
	if _, err := mds.New(store, mds.Options{}); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("a cluster's metadata opened for one machine: %v, want ErrInvalid", err)
	}
}

func TestWaitingForTheTopologyEndsWithItsContext(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Register(ctx, serverOf(1, "a")); !errors.Is(err, context.Canceled) {
		t.Errorf("register under a cancelled context: %v", err)
	}
	if _, err := m.Servers(t.Context()); err != nil {
		t.Error(err)
	}
}
