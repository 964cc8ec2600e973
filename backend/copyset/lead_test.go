package copyset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

func TestNothingIsServedWithoutALease(t *testing.T) {
	g := newFakeRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	m := g.leader()
	m.fakeNet().noLease.Store(true)
	calls := []*call{newCall(c.readOp(1, 0, make([]byte, 512))), newCall(c.readOp(5, 0, make([]byte, 512)))}
	for _, read := range calls {
		if m.replica.Load().Try(&read.Op) {
			t.Fatal("Try served a read without a lease")
		}
		m.replica.Load().Submit(&read.Op)
	}
	time.Sleep(20 * time.Millisecond) // time for a wrong answer
	for _, read := range calls {
		select {
		case <-read.done:
			t.Fatal("a read was served without a lease")
		default:
		}
	}
	m.fakeNet().noLease.Store(false)
	for _, read := range calls {
		<-read.done
		if read.Err != nil {
			t.Error(read.Err)
		}
	}
}

func TestLosingLeadershipAnswersEverything(t *testing.T) {
	g := newFakeRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	m := g.leader()
	g.isolate(m)
	var calls []*call
	for i := range 500 { // more than are in flight at once: some are never sent
		calls = append(calls, newCall(c.change(backend.OpWrite, 1, int64(i%8)*512, pattern(2, 512), 512)), newCall(c.readOp(1, 0, make([]byte, 512))))
	}
	for _, one := range calls {
		m.replica.Load().Submit(&one.Op)
	}
	seen := map[string]int{}
	for _, one := range calls {
		select {
		case <-one.done:
		case <-time.After(testTimeout):
			t.Fatal("an operation was never answered")
		}
		switch {
		case one.Kind == backend.OpRead && errors.Is(one.Err, backend.ErrNotLeader):
			seen["read"]++
		case one.Kind == backend.OpWrite && errors.Is(one.Err, backend.ErrOutcomeUnknown):
			seen["unknown"]++
		case one.Kind == backend.OpWrite && errors.Is(one.Err, backend.ErrNotLeader):
			seen["never sent"]++
		default:
			t.Fatalf("%v: %v", one.Kind, one.Err)
		}
	}
	if seen["read"] != 500 || seen["unknown"] == 0 || seen["never sent"] == 0 {
		t.Errorf("%v", seen)
	}
	m.replica.Load().prop.mu.Lock()
	if ops, bytes := m.replica.Load().prop.ops, m.replica.Load().prop.bytes; ops != 0 || bytes != 0 {
		t.Errorf("%d operations and %d bytes still counted as pending", ops, bytes)
	}
	m.replica.Load().prop.mu.Unlock()
	if n := m.replica.Load().reads.open.Load(); n != 0 {
		t.Errorf("%d reads still counted", n)
	}
	g.until("another leads", func() bool { return g.leader() != m })
	g.rejoin(m)
	c.want(1, 0, pattern(1, 4096)) // or one of the unknown ones: isolated, none can have been committed
	g.wantSameChunks()
}

func TestTooManyPendingChangesAreRefused(t *testing.T) {
	g := newFakeRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	m := g.leader()
	r := m.replica.Load()
	r.prop.hold(true)
	var calls []*call
	overloaded := 0
	for range maxPendingOps + 10 {
		one := newCall(c.change(backend.OpTrim, 1, 0, nil, 512))
		r.Submit(&one.Op)
		select {
		case <-one.done:
			if !errors.Is(one.Err, backend.ErrOverload) {
				t.Fatal(one.Err)
			}
			overloaded++
		default:
			calls = append(calls, one)
		}
	}
	if overloaded != 10 {
		t.Errorf("%d changes refused, expected 10", overloaded)
	}
	r.prop.hold(false)
	for _, one := range calls {
		<-one.done
		if one.Err != nil {
			t.Fatal(one.Err)
		}
	}
	c.write(1, 0, pattern(2, 512))
}

func TestTransferUnderLoadLosesNothing(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	var longest, writes atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			own := &client{g: g, epoch: 1, session: backend.SessionID(100 + w)}
			for i := 0; ctx.Err() == nil; i++ {
				began := time.Now()
				op := own.change(backend.OpWrite, backend.ChunkID(10+w), int64(i%16)*4096, pattern(byte(i), 4096), 4096)
				if err := own.do(op); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				longest.Store(max(longest.Load(), int64(time.Since(began))))
				writes.Add(1)
				last := own.read(backend.ChunkID(10+w), int64(i%16)*4096, 4096)
				if !slices.Equal(last, pattern(byte(i), 4096)) {
					t.Errorf("read after write sees something else")
					return
				}
			}
		})
	}
	var stalls []time.Duration
	for i := range 6 {
		from := g.leader()
		to := backend.ServerID(0)
		if i%2 == 0 {
			to = g.follower().id
		}
		longest.Store(0)
		began := time.Now()
		if err := from.replica.Load().TransferLeadership(t.Context(), to); err != nil {
			t.Errorf("transfer %d: %v", i, err)
		}
		took := time.Since(began)
		now := g.leader()
		if now == from || to != 0 && now.id != to {
			t.Errorf("transfer %d from %d to %d: %d leads", i, from.id, to, now.id)
		}
		n := writes.Load()
		g.until("writes go on", func() bool { return writes.Load() > n+8 })
		stalls = append(stalls, took, time.Duration(longest.Load()))
	}
	cancel()
	wg.Wait()
	t.Logf("transfer took, longest write meanwhile: %v", stalls)
	g.wantSameChunks()
}

// Raft tells of changes of its leader on several goroutines, so that an older one may
// be heard of last.
func TestLeaderIsKnownThoughAnOlderChangeIsHeardOfLast(t *testing.T) {
	g := newRig(t, 3, nil)
	m := g.leader()
	r := m.replica.Load()
	want, term := r.life.known()
	if want == 0 {
		t.Fatal("the leader does not know that it leads")
	}
	r.life.observe(&raft.Observation{Raft: r.raft.Load(), Data: raft.LeaderObservation{}})
	if leader, now := r.life.known(); leader != want || now != term {
		t.Errorf("%v leads in term %d, known is %v in term %d", want, term, leader, now)
	}
}

func TestTransferToSomebodyElseIsRefused(t *testing.T) {
	g := newRig(t, 3, nil)
	l, f := g.leader(), g.follower()
	if err := l.replica.Load().TransferLeadership(t.Context(), 9); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("to a stranger: %v", err)
	}
	if err := f.replica.Load().TransferLeadership(t.Context(), l.id); !errors.Is(err, backend.ErrNotLeader) {
		t.Errorf("by a follower: %v", err)
	}
	if err := l.replica.Load().TransferLeadership(t.Context(), l.id); err != nil {
		t.Errorf("to itself: %v", err)
	}
}

func TestTransferToADeadServerLeavesTheLeaderServing(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	l, f := g.leader(), g.follower()
	g.stop(f.id)
	if err := l.replica.Load().TransferLeadership(t.Context(), f.id); err == nil {
		t.Error("leadership was handed to a dead server")
	}
	c.write(1, 0, pattern(2, 4096))
	c.want(1, 0, pattern(2, 4096))
	if g.leader() != l {
		t.Error("another leads")
	}
}

func TestFullDiskRefusesWhatTakesSpaceOnly(t *testing.T) {
	g := newFakeRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 8192))
	for _, m := range g.members {
		m.replica.Load().Full(true)
	}
	if err := c.do(c.change(backend.OpWrite, 1, 0, pattern(2, 512), 512)); !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("write: %v", err)
	}
	if err := c.do(c.change(backend.OpTrim, 1, 0, nil, 4096)); err != nil {
		t.Errorf("trim: %v", err)
	}
	c.want(1, 0, append(make([]byte, 4096), pattern(1, 8192)[4096:]...))
	for _, m := range g.members {
		m.replica.Load().Full(false)
	}
	c.write(1, 0, pattern(2, 512))
}

func TestDeleteFreesChunksEverywhere(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	var refs []backend.ChunkRef
	for id := range backend.ChunkID(300) { // more than a wave holds
		c.write(id, 0, pattern(byte(id), 512))
		refs = append(refs, chunkRef(id))
	}
	if n, err := g.leader().replica.Load().Usage(t.Context(), refs); err != nil || n < 300*512 {
		t.Errorf("usage %d, %v", n, err)
	}
	if err := g.leader().replica.Load().Delete(t.Context(), testVolume, refs[:299]); err != nil {
		t.Fatal(err)
	}
	g.wantSameChunks()
	for _, m := range g.members {
		if ids := m.replica.Load().ChunkIDs(); !slices.Equal(ids, []backend.ChunkID{299}) {
			t.Errorf("member %d holds %v", m.id, ids)
		}
		if ids, err := m.store.ChunkIDs(t.Context()); err != nil || len(ids) != 1 {
			t.Errorf("store of member %d holds %v, %v", m.id, ids, err)
		}
	}
	if err := g.follower().replica.Load().Delete(t.Context(), testVolume, refs); !errors.Is(err, backend.ErrNotLeader) {
		t.Errorf("delete on a follower: %v", err)
	}
}

func TestReconcileAddsAndRemovesMembers(t *testing.T) {
	g := newRig(t, 3, func(o *Options) { o.TrailingLogs = 1 })
	c := g.client(1)
	for i := range 8 {
		c.write(1, int64(i)*8192, pattern(byte(i), 8192))
	}
	g.snapshotAll()
	leave := g.follower().id // before there is a fourth to choose
	g.start(g.add(4), nil)
	want := []backend.ServerID{4}
	for id := range backend.ServerID(3) {
		if id+1 != leave {
			want = append(want, id+1)
		}
	}
	reconcile := func(want, rebuild []backend.ServerID) {
		t.Helper()
		g.until("the configuration is as wanted", func() bool {
			done, err := g.leader().replica.Load().Reconcile(t.Context(), want, rebuild)
			if err != nil && !retriable(err) && !errors.Is(err, backend.ErrBusy) {
				t.Logf("reconcile: %v", err)
			}
			return done
		})
	}
	reconcile(want, nil)
	g.stop(leave)
	delete(g.members, leave)
	st := g.leader().replica.Load().Status()
	slices.Sort(st.Voters)
	slices.Sort(want)
	if !slices.Equal(st.Voters, want) || len(st.Learners) != 0 {
		t.Errorf("voters %v and learners %v, expected %v", st.Voters, st.Learners, want)
	}
	if g.members[4].replica.Load().Pulled() == 0 {
		t.Error("the new member has pulled nothing")
	}
	g.wantSameChunks()

	// The leader itself is to go: it hands over and is then removed.
	g.start(g.add(5), nil)
	old := g.leader().id
	want = append(slices.DeleteFunc(want, func(id backend.ServerID) bool { return id == old }), 5)
	reconcile(want, nil)
	if now := g.leader().id; now == old {
		t.Error("the removed leader leads")
	}
	g.stop(old)
	delete(g.members, old)
	c.write(1, 0, pattern(99, 512))
	c.want(1, 0, pattern(99, 512))
	c.want(1, 8192, pattern(1, 8192))
	g.wantSameChunks()
}

func TestReconcileKeepsAMajority(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 512))
	g.settled()
	down := g.follower()
	g.stop(down.id)
	other := g.follower()
	_, err := g.leader().replica.Load().Reconcile(t.Context(), []backend.ServerID{1, 2, 3}, []backend.ServerID{other.id})
	if !errors.Is(err, backend.ErrBusy) {
		t.Errorf("removing one of two that are left: %v, expected ErrBusy", err)
	}
	if done, err := other.replica.Load().Reconcile(t.Context(), []backend.ServerID{1}, nil); done || err != nil {
		t.Errorf("on a follower: %v, %v", done, err)
	}
}

func TestReplicaStopsWhenItsDiskFails(t *testing.T) {
	g := newRig(t, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, 4096))
	g.settled()
	m := g.leader()
	if err := m.store.Close(); err != nil { // every change fails from now on
		t.Fatal(err)
	}
	c.write(1, 4096, pattern(2, 4096)) // goes on under another leader
	select {
	case err := <-m.failed:
		if !errors.Is(err, backend.ErrClosed) {
			t.Errorf("failed with %v", err)
		}
	case <-time.After(testTimeout):
		t.Fatal("Options.Failed was not called")
	}
	g.until("another leads", func() bool { return m.replica.Load().lead.Load() == nil })
	c.want(1, 4096, pattern(2, 4096))
	if m.replica.Load().Trouble() == "" || m.replica.Load().Status().State == backend.ReplicaOK {
		t.Error("the failed replica says that it is well")
	}
	if err := m.replica.Load().Snapshot(); err == nil {
		t.Error("a failed replica took a raft snapshot")
	}
	m.store = nil
	g.restart(m.id)
	g.wantSameChunks()
}

func TestLeaderNewsComeOncePerTerm(t *testing.T) {
	var mu sync.Mutex
	var news []string
	g := newRig(t, 3, func(o *Options) {
		if o.Self == 1 {
			o.LeaderChanged = func(id backend.CopysetID, leader backend.ServerID, term uint64) {
				mu.Lock()
				defer mu.Unlock()
				news = append(news, fmt.Sprintf("%d:%d", term, leader))
			}
		}
	})
	c := g.client(1)
	for range 3 {
		c.write(1, 0, pattern(1, 512))
		_ = g.leader().replica.Load().TransferLeadership(t.Context(), 0)
	}
	c.write(1, 0, pattern(1, 512))
	l := g.leader()
	g.until("member 1 knows", func() bool {
		mu.Lock()
		defer mu.Unlock()
		_, term := l.replica.Load().life.known()
		return len(news) > 0 && news[len(news)-1] == fmt.Sprintf("%d:%d", term, l.id)
	})
	mu.Lock()
	defer mu.Unlock()
	if len(slices.Compact(slices.Clone(news))) != len(news) {
		t.Errorf("the same news twice: %v", news)
	}
}
