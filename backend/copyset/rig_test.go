package copyset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
	"github.com/opencurve/curve-nbd/backend/disk"
)

const (
	testChunkSize = 64 << 10
	testVolume    = 7
	testTimeout   = 20 * time.Second
)

// memLog is a log that is always durable, and outlives its replica.
type memLog struct{ *raft.InmemStore }

func (memLog) WaitDurable(uint64) error { return nil }

func (l memLog) SetAll(pairs ...raftlog.Pair) (err error) {
	for _, p := range pairs {
		if p.Key == keyVoteTerm || p.Key == keyTerm { // numbers are kept apart in an InmemStore
			err = errors.Join(err, l.SetUint64([]byte(p.Key), binary.LittleEndian.Uint64(p.Val)))
		} else {
			err = errors.Join(err, l.Set([]byte(p.Key), p.Val))
		}
	}
	return err
}
func (memLog) IsMonotonic() bool { return true }
func (memLog) Bytes() int64      { return 0 }

// memNet is raft's in-memory transport, with leases that hold until taken away.
type memNet struct {
	*raft.InmemTransport
	leading  atomic.Bool
	noLease  atomic.Bool
	released atomic.Bool
}

func (n *memNet) Configure([]backend.ServerID)   {}
func (n *memNet) OnPatience(func(time.Duration)) {}
func (n *memNet) Lead(uint64)                    { n.released.Store(false); n.leading.Store(true) }
func (n *memNet) Follow()                        { n.leading.Store(false) }
func (n *memNet) Release(context.Context)        { n.released.Store(true) }

func (n *memNet) LeaseUntil() time.Time {
	if !n.leading.Load() || n.noLease.Load() || n.released.Load() {
		return time.Time{}
	}
	return time.Now().Add(time.Hour)
}

func (n *memNet) AwaitLease(ctx context.Context) error {
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for n.LeaseUntil().IsZero() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
	return nil
}

// member is one server of a rig, with what outlives its replica.
type member struct {
	id    backend.ServerID
	dir   string
	fs    disk.FS
	store *chunkstore.Store
	// Of the real thing, a log directory and links of its own.
	disklog *raftlog.Log
	links   *raftnet.Net
	address string
	log     groupLog
	net     groupNet
	replica atomic.Pointer[Replica]
	failed  chan error
}

// rig is three replicas of a copyset in one process.
type rig struct {
	t       testing.TB
	members map[backend.ServerID]*member
	// fake: in-memory logs and links, which tests can interfere with.
	fake bool
	tune func(*Options)
	fs   disk.FS // of all members
	// exports counts the blocks given to others, by giver.
	exported atomic.Int64

	mu      sync.Mutex
	leaders map[backend.ServerID]uint64 // told by LeaderChanged
}

func newRig(t testing.TB, n int, tune func(*Options)) *rig { return buildRig(t, n, &rig{tune: tune}) }

// newFakeRig is a rig whose links can be cut and whose leases taken away.
func newFakeRig(t testing.TB, n int, tune func(*Options)) *rig {
	return buildRig(t, n, &rig{tune: tune, fake: true})
}

func buildRig(t testing.TB, n int, g *rig) *rig {
	g.t, g.members, g.leaders = t, make(map[backend.ServerID]*member), make(map[backend.ServerID]uint64)
	if g.fs == nil {
		g.fs = disk.OS()
	}
	var found []backend.ServerID
	for i := range n {
		found = append(found, backend.ServerID(i+1))
	}
	for _, id := range found {
		g.start(g.add(id), found)
	}
	t.Cleanup(func() {
		for id := range g.members {
			g.stop(id)
		}
	})
	return g
}

func (g *rig) add(id backend.ServerID) *member {
	m := &member{id: id, dir: g.t.TempDir(), fs: g.fs, failed: make(chan error, 1)}
	g.members[id] = m
	return m
}

func (g *rig) options(m *member, found []backend.ServerID) Options {
	level := slog.LevelError
	if os.Getenv("COPYSET_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	o := Options{
		ID: 5, Self: m.id, Found: found, Store: m.store, FS: m.fs, Dir: m.dir + "/raft",
		Peers: peers{g}, Heartbeat: 500 * time.Millisecond,
		Failed: func(_ backend.CopysetID, err error) { m.failed <- err },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("server", m.id),
		LeaderChanged: func(_ backend.CopysetID, leader backend.ServerID, term uint64) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.leaders[leader] = max(g.leaders[leader], term)
		},
	}
	if g.fake {
		o.Heartbeat = 100 * time.Millisecond
	}
	if g.tune != nil {
		g.tune(&o)
	}
	return o
}

// start opens a member's store and replica, and links it to the others.
func (g *rig) start(m *member, found []backend.ServerID) {
	g.t.Helper()
	g.prepare(m)
	if err := g.open(m, found...); err != nil {
		g.t.Fatalf("open member %d: %v", m.id, err)
	}
}

// prepare opens all of a member but its replica.
func (g *rig) prepare(m *member) {
	g.t.Helper()
	if m.store == nil {
		store, err := chunkstore.Open(m.fs, m.dir+"/chunks", chunkstore.Options{WriteWorkers: 4, ReadWorkers: 4})
		if err != nil {
			g.t.Fatal(err)
		}
		m.store = store
	}
	if g.fake {
		g.startFake(m)
	} else {
		g.startReal(m)
	}
}

func (g *rig) open(m *member, found ...backend.ServerID) error {
	r, err := open(g.options(m, found), m.log, m.net)
	if err == nil {
		m.replica.Store(r)
	}
	return err
}

func (g *rig) startFake(m *member) {
	if m.log == nil {
		m.log = &memLog{raft.NewInmemStore()}
	}
	_, trans := raft.NewInmemTransportWithTimeout(raftnet.PeerAddress(m.id), 500*time.Millisecond)
	m.net = &memNet{InmemTransport: trans}
	for _, o := range g.members {
		if o != m && o.replica.Load() != nil {
			g.link(m, o)
		}
	}
}

func (g *rig) startReal(m *member) {
	log, err := raftlog.Open(m.fs, m.dir+"/log", raftlog.Options{SegmentBytes: 1 << 20})
	if err != nil {
		g.t.Fatal(err)
	}
	if damaged := log.Damaged(); len(damaged) > 0 {
		g.t.Fatalf("log of member %d is damaged: %v", m.id, damaged)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	links, err := raftnet.Start(raftnet.Options{Self: m.id, Cluster: "test", Listener: listener})
	if err != nil {
		g.t.Fatal(err)
	}
	m.disklog, m.links, m.address = log, links, listener.Addr().String()
	group := log.Group(5)
	m.log, m.net = group, links.Group(5, group)
	g.spread()
}

// spread tells all members where the others are.
func (g *rig) spread() {
	book := make(map[backend.ServerID]string)
	for _, m := range g.members {
		if m.address != "" {
			book[m.id] = m.address
		}
	}
	for _, m := range g.members {
		if m.links != nil {
			m.links.SetAddresses(book)
		}
	}
}

func (m *member) fakeNet() *memNet { return m.net.(*memNet) }

func (g *rig) link(a, b *member) {
	a.fakeNet().Connect(raftnet.PeerAddress(b.id), b.fakeNet().InmemTransport)
	b.fakeNet().Connect(raftnet.PeerAddress(a.id), a.fakeNet().InmemTransport)
}

func (g *rig) unlink(a, b *member) {
	a.fakeNet().Disconnect(raftnet.PeerAddress(b.id))
	b.fakeNet().Disconnect(raftnet.PeerAddress(a.id))
}

// isolate cuts a member off, lease included; rejoin undoes that.
func (g *rig) isolate(m *member) {
	m.fakeNet().noLease.Store(true)
	for _, o := range g.members {
		if o != m && o.net != nil {
			g.unlink(m, o)
		}
	}
}

func (g *rig) rejoin(m *member) {
	for _, o := range g.members {
		if o != m && o.replica.Load() != nil {
			g.link(m, o)
		}
	}
	m.fakeNet().noLease.Store(false)
}

// stop closes a member's replica and all else of it.
func (g *rig) stop(id backend.ServerID) {
	m := g.members[id]
	r := m.replica.Swap(nil)
	for _, o := range g.members {
		if g.fake && r != nil && o != m && o.net != nil {
			g.unlink(m, o)
		}
	}
	closed := func(what string, err error) {
		if err != nil {
			g.t.Errorf("close %s of member %d: %v", what, id, err)
		}
	}
	if m.links != nil { // first, so that the others see it go as they would a process
		closed("links", m.links.Close())
		m.links = nil
	}
	if r != nil {
		closed("replica", r.Close())
	}
	if m.disklog != nil {
		closed("log", m.disklog.Close())
		m.disklog = nil
	}
	if m.store != nil {
		closed("store", m.store.Close())
		m.store = nil
	}
}

func (g *rig) restart(id backend.ServerID) *Replica {
	g.t.Helper()
	g.stop(id)
	g.start(g.members[id], nil)
	return g.members[id].replica.Load()
}

// until waits for a condition.
func (g *rig) until(what string, cond func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(testTimeout); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("timed out waiting until %s\n%s", what, g.dump())
		}
	}
}

// dump tells where the members are.
func (g *rig) dump() string {
	var b strings.Builder
	for id, m := range g.members {
		r := m.replica.Load()
		if r == nil {
			continue
		}
		first, _ := m.log.FirstIndex()
		last, _ := m.log.LastIndex()
		snapshot := uint64(0)
		if meta := r.snaps.newest(); meta != nil {
			snapshot = meta.Index
		}
		st := r.Status()
		fmt.Fprintf(&b, "member %d: %s, leader %d in term %d, log %d to %d, snapshot %d, committed %d, applied %d, %s\n",
			id, st.State, st.Leader, st.Term, first, last, snapshot, st.Committed, st.Applied, r.Trouble())
	}
	return b.String()
}

// leader waits for a leader that is ready.
func (g *rig) leader() *member {
	g.t.Helper()
	var found *member
	g.until("there is a leader", func() bool {
		for _, m := range g.members {
			if r := m.replica.Load(); r != nil && r.lead.Load() != nil {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// follower is a running member that does not lead.
func (g *rig) follower() *member {
	l := g.leader()
	for _, m := range g.members {
		if m != l && m.replica.Load() != nil {
			return m
		}
	}
	g.t.Fatal("no follower")
	return nil
}

// settled waits until all running members have applied what the leader has now. A
// follower hears of a commit with the next entry, so entries are made.
func (g *rig) settled() {
	g.t.Helper()
	target := g.leader().replica.Load().Applied()
	g.until("all replicas have applied the same", func() bool {
		behind := false
		for _, m := range g.members {
			r := m.replica.Load()
			behind = behind || r != nil && r.Applied() < target
		}
		if behind {
			g.leader().replica.Load().prop.nudge()
			time.Sleep(5 * time.Millisecond)
		}
		return !behind
	})
}

// peers is a Source that calls the replicas.
type peers struct{ g *rig }

func (p peers) Export(ctx context.Context, server backend.ServerID, _ backend.CopysetID, req ExportRequest, emit func(Block) error) (ExportInfo, error) {
	m := p.g.members[server]
	if m == nil || m.replica.Load() == nil {
		return ExportInfo{}, fmt.Errorf("%w: %v is down", backend.ErrUnreachable, server)
	}
	return m.replica.Load().Export(ctx, req, func(b Block) error {
		p.g.exported.Add(1)
		return emit(b)
	})
}
