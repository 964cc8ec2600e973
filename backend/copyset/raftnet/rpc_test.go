package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
)

// valve is a Gate that tests open.
type valve struct {
	mu      sync.Mutex
	durable uint64
	waiting []func()
}

func (v *valve) Durable() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.durable
}

func (v *valve) AfterDurable(fn func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.waiting = append(v.waiting, fn)
}

func (v *valve) SyncTime() time.Duration { return 0 }

func (v *valve) held() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.waiting)
}

// pair is two Nets, 1 and 2, with copyset 1 on both.
type pair struct {
	nets   [2]*Net
	groups [2]*Group
}

func newPair(t testing.TB, gates [2]Gate) *pair {
	var p pair
	book := map[backend.ServerID]string{}
	for i := range p.nets {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		book[backend.ServerID(i+1)] = ln.Addr().String()
		if p.nets[i], err = Start(Options{Self: backend.ServerID(i + 1), Listener: ln}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.nets[i].Close() })
		p.groups[i] = p.nets[i].Group(1, gates[i])
		p.groups[i].Configure([]backend.ServerID{1, 2})
	}
	for i, n := range p.nets {
		n.SetAddresses(book)
		peer := n.peer(backend.ServerID(2 - i))
		eventually(t, 5*time.Second, "links", func() bool { return peer.control.Load() != nil && peer.data.Load() != nil })
	}
	return &p
}

// follow answers requests on the second net as a raft would, until the test ends.
func (p *pair) follow(t testing.TB, seen func(any)) {
	done := make(chan struct{})
	g := p.groups[1]
	go func() {
		defer close(done)
		for {
			select {
			case r := <-g.Consumer():
				if seen != nil {
					seen(r.Command)
				}
				switch a := r.Command.(type) {
				case *raft.AppendEntriesRequest:
					r.Respond(&raft.AppendEntriesResponse{Term: a.Term, LastLog: a.PrevLogEntry + uint64(len(a.Entries)), Success: true}, nil)
				case *raft.InstallSnapshotRequest:
					data, err := io.ReadAll(r.Reader)
					r.Respond(&raft.InstallSnapshotResponse{Term: a.Term, Success: err == nil && bytes.Equal(data, []byte("state"))}, nil)
				default:
					r.Respond(nil, errors.New("no"))
				}
			case <-g.closed:
				return
			}
		}
	}()
	t.Cleanup(func() { g.Close(); <-done })
}

func request(index uint64, data []byte) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: headerOf(1), Term: 1, PrevLogEntry: index - 1, PrevLogTerm: 1, LeaderCommitIndex: index - 1,
		Entries: []*raft.Log{{Index: index, Term: 1, Data: data}}}
}

func TestAnswersWaitForDurabilityAndKeepTheirOrder(t *testing.T) {
	gate := &valve{}
	p := newPair(t, [2]Gate{nil, gate})
	p.follow(t, nil)
	pipe, err := p.groups[0].AppendEntriesPipeline("2", "2")
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	for i := range uint64(3) {
		if _, err := pipe.AppendEntries(request(i+1, []byte("x")), &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 5*time.Second, "three answers at the gate", func() bool { return gate.held() == 3 })
	gate.waiting[2]()
	gate.waiting[1]()
	select {
	case f := <-pipe.Consumer():
		t.Fatalf("entry %d was acknowledged before entry 1 was durable", f.Request().PrevLogEntry+1)
	case <-time.After(20 * time.Millisecond): // a wrong answer takes far less
	}
	gate.waiting[0]()
	for i := range uint64(3) {
		f := <-pipe.Consumer()
		if err := f.Error(); err != nil || !f.Response().Success || f.Response().LastLog != i+1 {
			t.Fatalf("answer %d: %+v, %v", i, f.Response(), err)
		}
	}
}

func TestFollowersHearOfNoCommitThatTheLeaderMayLose(t *testing.T) {
	gate := &valve{durable: 5}
	p := newPair(t, [2]Gate{gate, nil})
	commits := make(chan uint64, 4)
	p.follow(t, func(c any) { commits <- c.(*raft.AppendEntriesRequest).LeaderCommitIndex })
	var resp raft.AppendEntriesResponse
	for _, c := range []struct{ sent, want uint64 }{{4, 4}, {9, 5}} {
		a := request(c.sent+1, nil)
		if err := p.groups[0].AppendEntries("2", "2", a, &resp); err != nil {
			t.Fatal(err)
		}
		if got := <-commits; got != c.want {
			t.Errorf("commit index %d with %d durable arrived as %d", c.sent, 5, got)
		}
		if a.LeaderCommitIndex != c.sent {
			t.Error("the caller's request was changed")
		}
	}
}

func TestBrokenLinkFailsWhatIsInFlightAtOnce(t *testing.T) {
	for _, inFlight := range []int{0, 10} {
		gate := &valve{}
		p := newPair(t, [2]Gate{nil, gate})
		p.follow(t, nil)
		pipe, err := p.groups[0].AppendEntriesPipeline("2", "2")
		if err != nil {
			t.Fatal(err)
		}
		for i := range inFlight {
			if _, err := pipe.AppendEntries(request(uint64(i+1), []byte("x")), &raft.AppendEntriesResponse{}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 5*time.Second, "all of it arrives", func() bool { return gate.held() == inFlight })
		p.nets[0].peer(2).data.Load().conn.Close()
		for range max(1, inFlight) { // raft is told even if nothing was in flight
			f := <-pipe.Consumer()
			if err := f.Error(); !errors.Is(err, backend.ErrUnreachable) || f.Response().Success {
				t.Fatalf("%+v, %v", f.Response(), err)
			}
		}
		if _, err := pipe.AppendEntries(request(11, nil), &raft.AppendEntriesResponse{}); err == nil {
			t.Error("the pipeline outlived its link")
		}
		pipe.Close()
		// The next request waits for the link to come up again.
		var resp raft.AppendEntriesResponse
		done := make(chan error, 1)
		go func() { done <- p.groups[0].AppendEntries("2", "2", request(11, nil), &resp) }()
		eventually(t, 5*time.Second, "the request arrives", func() bool { return gate.held() > inFlight })
		gate.mu.Lock()
		for _, fn := range gate.waiting {
			fn()
		}
		gate.mu.Unlock()
		if err := <-done; err != nil || !resp.Success {
			t.Errorf("%+v, %v", resp, err)
		}
	}
}

func TestRequestsThatCannotBeServedAreAnsweredWithErrors(t *testing.T) {
	p := newPair(t, [2]Gate{})
	other := p.nets[0].Group(7, nil)
	var resp raft.AppendEntriesResponse
	start := time.Now()
	if err := other.AppendEntries("2", "2", request(1, nil), &resp); err == nil {
		t.Error("AppendEntries for a copyset that is not there succeeded")
	}
	if err := other.AppendEntries("2", "2", heartbeatFrom(1, 1), &resp); !errors.Is(err, backend.ErrNoCopyset) {
		t.Errorf("heartbeat for a copyset that is not there: %v", err)
	}
	if err := other.RequestVote("2", "2", &raft.RequestVoteRequest{Term: 1}, &raft.RequestVoteResponse{}); err == nil {
		t.Error("RequestVote for a copyset that is not there succeeded")
	}
	if err := other.AppendEntries("9", "9", request(1, nil), &resp); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("peer that is not in the address book: %v", err)
	}
	if took := time.Since(start); took > askTimeout {
		t.Errorf("errors took %v", took)
	}
	// Nobody takes the messages of copyset 1 at 2: its inbox fills, and only its.
	errs := make(chan error, 3*inboxCount)
	for range cap(errs) {
		go func() {
			var resp raft.AppendEntriesResponse
			errs <- p.groups[0].AppendEntries("2", "2", request(1, nil), &resp)
		}()
	}
	for range cap(errs) - inboxCount {
		if err := <-errs; err == nil {
			t.Fatal("a request was answered by nobody")
		}
	}
	p.groups[1].Close()
	for range inboxCount {
		if err := <-errs; err == nil {
			t.Fatal("a request was answered by nobody")
		}
	}
	if err := p.groups[0].AppendEntries("2", "2", request(1, nil), &resp); err == nil {
		t.Error("a closed group answered")
	}
	p.groups[1] = p.nets[1].Group(1, nil) // and it is back
	p.follow(t, nil)
	if err := p.groups[0].AppendEntries("2", "2", request(1, nil), &resp); err != nil {
		t.Error(err)
	}
}

func TestSnapshotArrivesWhole(t *testing.T) {
	p := newPair(t, [2]Gate{})
	p.follow(t, nil)
	var resp raft.InstallSnapshotResponse
	req := &raft.InstallSnapshotRequest{RPCHeader: headerOf(1), Term: 3, SnapshotVersion: 1, Size: 5}
	if err := p.groups[0].InstallSnapshot("2", "2", req, &resp, bytes.NewReader([]byte("state"))); err != nil || !resp.Success || resp.Term != 3 {
		t.Errorf("%+v, %v", resp, err)
	}
	req.Size = maxSnapshotBytes + 1
	if err := p.groups[0].InstallSnapshot("2", "2", req, &resp, bytes.NewReader(nil)); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("too large a snapshot: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	p := newPair(t, [2]Gate{})
	address := p.nets[0].opts.Listener.Addr().String()
	for name, h := range map[string]hello{
		"another cluster":  {version: wireVersion, kind: kindData, from: 3, to: 1, incarnation: 5, cluster: 77},
		"another receiver": {version: wireVersion, kind: kindData, from: 3, to: 4, incarnation: 5, cluster: p.nets[0].cluster},
		"itself":           {version: wireVersion, kind: kindData, from: 1, to: 1, incarnation: 5, cluster: p.nets[0].cluster},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		b := h.encode()
		conn.Write(b[:])
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if got, err := readHello(conn); err != nil || got.verdict == verdictOK {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if n, err := conn.Read(b[:]); n != 0 || err != io.EOF {
			t.Errorf("%s: connection stays open: %d, %v", name, n, err)
		}
		conn.Close()
	}
}

func TestLeaseOfOneVoterAndOfNone(t *testing.T) {
	p := newPair(t, [2]Gate{})
	g := p.groups[0]
	g.Configure([]backend.ServerID{1})
	if !g.LeaseUntil().IsZero() {
		t.Error("a lease without leading")
	}
	if err := g.AwaitLease(t.Context()); !errors.Is(err, backend.ErrNotLeader) {
		t.Error(err)
	}
	g.Lead(1)
	if err := g.AwaitLease(t.Context()); err != nil || !g.LeaseUntil().After(time.Now()) {
		t.Errorf("the only voter has no lease: %v", err)
	}
	g.Configure([]backend.ServerID{1, 2}) // 2 does not answer for its raft
	if !g.LeaseUntil().IsZero() {
		t.Error("a lease without the second voter")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.AwaitLease(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestMetricsDescribeThemselves(t *testing.T) {
	p := newPair(t, [2]Gate{})
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(p.nets[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a ping gap", func() bool {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "curve_raftnet_ping_gap_max_seconds" && len(f.Metric) == 1 && f.Metric[0].Gauge.GetValue() > 0 {
				return true
			}
		}
		return false
	})
}

func BenchmarkAppendEntries4K(b *testing.B) {
	for _, depth := range []int{1, 32} {
		b.Run(map[int]string{1: "one at a time", 32: "32 in flight"}[depth], func(b *testing.B) {
			p := newPair(b, [2]Gate{})
			p.follow(b, nil)
			pipe, err := p.groups[0].AppendEntriesPipeline("2", "2")
			if err != nil {
				b.Fatal(err)
			}
			defer pipe.Close()
			data := make([]byte, 4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			sent := 0
			for done := range b.N {
				for ; sent < b.N && sent-done < depth; sent++ {
					if _, err := pipe.AppendEntries(request(uint64(sent+1), data), &raft.AppendEntriesResponse{}); err != nil {
						b.Fatal(err)
					}
				}
				if f := <-pipe.Consumer(); f.Error() != nil {
					b.Fatal(f.Error())
				}
			}
		})
	}
}
