package copyset

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// waits lists the stable values that were waited for, each wait with its keys.
type waits struct {
	groupLog
	list [][]string
}

func (w *waits) SetUint64(key []byte, val uint64) error {
	return w.SetAll(raftlog.Uint64(string(key), val))
}

func (w *waits) Set(key, val []byte) error { return w.SetAll(raftlog.Pair{Key: string(key), Val: val}) }

func (w *waits) SetAll(pairs ...raftlog.Pair) error {
	var keys []string
	for _, p := range pairs {
		keys = append(keys, p.Key)
	}
	w.list = append(w.list, keys)
	return w.groupLog.SetAll(pairs...)
}

// voter is a raft of three that nobody but a test talks to.
type voter struct {
	t     *testing.T
	store *waits
	raft  *raft.Raft
	net   *raft.InmemTransport
	stop  func()
}

func newVoter(t *testing.T, dir string) *voter {
	l, err := raftlog.Open(disk.OS(), dir, raftlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v := &voter{t: t, store: &waits{groupLog: l.Group(5)}}
	_, v.net = raft.NewInmemTransport(raftnet.PeerAddress(1))
	conf := (&Replica{opts: Options{Self: 1, Heartbeat: time.Hour}}).raftConfig()
	conf.Logger = newRaftLogger(slog.New(slog.DiscardHandler))
	snaps := raft.NewInmemSnapshotStore()
	var first raft.Configuration
	for id := range backend.ServerID(3) {
		first.Servers = append(first.Servers, raft.Server{ID: raftnet.PeerID(id + 1), Address: raftnet.PeerAddress(id + 1)})
	}
	if has, err := raft.HasExistingState(v.store, v.store, snaps); err != nil {
		t.Fatal(err)
	} else if !has {
		if err := raft.BootstrapCluster(conf, v.store, v.store, snaps, v.net, first); err != nil {
			t.Fatal(err)
		}
	}
	if v.raft, err = raft.NewRaft(conf, &raft.MockFSM{}, v.store, &ballots{groupLog: v.store}, snaps, v.net); err != nil {
		t.Fatal(err)
	}
	v.stop = func() {
		if err := v.raft.Shutdown().Error(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	return v
}

// vote asks for a vote as a candidate with a newer log would.
func (v *voter) vote(from backend.ServerID, term uint64) bool {
	v.t.Helper()
	_, net := raft.NewInmemTransport(raftnet.PeerAddress(from))
	net.Connect(raftnet.PeerAddress(1), v.net)
	addr := []byte(raftnet.PeerAddress(from))
	var resp raft.RequestVoteResponse
	err := net.RequestVote(raftnet.PeerID(1), raftnet.PeerAddress(1), &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: addr, Addr: addr},
		Term:      term, LastLogIndex: 100, LastLogTerm: term - 1,
	}, &resp)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp.Granted
}

// A vote waits for the disk twice, for the term and for whom it is given to; is on the
// disk when it is granted; and holds in the next life.
func TestVoteIsStoredWholeAndWithTwoWaits(t *testing.T) {
	dir := t.TempDir()
	for life, c := range []struct {
		term, other         uint64
		candidate, opponent backend.ServerID
	}{{7, 7, 2, 3}, {8, 7, 3, 2}} {
		v := newVoter(t, dir)
		v.store.list = nil
		if !v.vote(c.candidate, c.term) {
			t.Fatalf("life %d: no vote for %d in term %d", life, c.candidate, c.term)
		}
		want := [][]string{{"CurrentTerm"}, {keyVoteCandidate, keyVoteTerm}}
		if !slices.EqualFunc(v.store.list, want, slices.Equal) {
			t.Errorf("life %d: waited for %v, want %v", life, v.store.list, want)
		}
		v.store.list = nil
		if v.vote(c.opponent, c.term) || !v.vote(c.candidate, c.term) || len(v.store.list) > 0 {
			t.Errorf("life %d: in a term that is known already: waited for %v, or another outcome", life, v.store.list)
		}
		term, err1 := v.store.GetUint64([]byte(keyVoteTerm))
		who, err2 := v.store.Get([]byte(keyVoteCandidate))
		if err1 != nil || err2 != nil || term != c.term || string(who) != string(raftnet.PeerAddress(c.candidate)) {
			t.Errorf("life %d: stored %d, %q, %v, %v", life, term, who, err1, err2)
		}
		v.stop()
		v = newVoter(t, dir)
		if v.vote(c.opponent, c.term) || v.vote(c.opponent, c.other) {
			t.Errorf("life %d: after a restart another vote in term %d", life, c.term)
		}
		if !v.vote(c.candidate, c.term) {
			t.Errorf("life %d: after a restart the vote is forgotten", life)
		}
		v.stop()
	}
}

// Raft stores its term again whenever it becomes a follower.
func TestTermIsStoredOnce(t *testing.T) {
	w := &waits{groupLog: &memLog{raft.NewInmemStore()}}
	b := &ballots{groupLog: w}
	for _, c := range []struct {
		term  uint64
		waits int
	}{{1, 1}, {1, 1}, {2, 2}, {2, 2}, {2, 2}, {5, 3}} {
		if err := b.SetUint64([]byte(keyTerm), c.term); err != nil {
			t.Fatal(err)
		}
		if got, err := b.GetUint64([]byte(keyTerm)); len(w.list) != c.waits || err != nil || got != c.term {
			t.Errorf("term %d: %d waits, stored %d, %v; want %d waits", c.term, len(w.list), got, err, c.waits)
		}
	}
	// Somebody else's write came in between: what was stored does not hold any more.
	if err := w.SetUint64([]byte(keyTerm), 4); err != nil {
		t.Fatal(err)
	}
	if err := b.SetUint64([]byte(keyTerm), 5); err != nil || len(w.list) != 5 {
		t.Errorf("%d waits, %v; want 5", len(w.list), err)
	}
	if next := (&ballots{groupLog: w}); next.SetUint64([]byte(keyTerm), 5) != nil || len(w.list) != 6 {
		t.Error("a new life takes for durable what it has not stored itself")
	}
}
