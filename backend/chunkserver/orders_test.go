package chunkserver

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// leadingServer leads copysets 1 to n, each of which is scripted.
func leadingServer(t *testing.T, n int, script func(backend.CopysetID, *scripted)) *Server {
	t.Helper()
	s := &Server{replicas: newReplicaSet(), dir: &dataDir{}, report: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler)}
	s.dir.identity.Server = 1
	s.hosts.init()
	s.life, s.stop = context.WithCancel(t.Context())
	t.Cleanup(func() { s.stop(); s.background.Wait() })
	for id := backend.CopysetID(1); id <= backend.CopysetID(n); id++ {
		r := &scripted{}
		r.status.Leader, r.status.Voters = 1, []backend.ServerID{2, 1}
		script(id, r)
		s.hosts.set(id, nil)
		s.replicas.set(id, r)
	}
	return s
}

func ordersFor(n int, peers ...backend.ServerID) (o backend.Orders) {
	for id := backend.CopysetID(1); id <= backend.CopysetID(n); id++ {
		o.Replicas = append(o.Replicas, backend.ReplicaOrder{Copyset: id, Peers: peers})
	}
	return o
}

// With more to do than is done at one time, what comes last in the orders must
// have its turn, even if what comes first never gets done.
func TestOrdersTakeTurns(t *testing.T) {
	const n = 5*ordersAtOnce + 1
	var mu sync.Mutex
	tried := make(map[backend.CopysetID]bool)
	s := leadingServer(t, n, func(id backend.CopysetID, r *scripted) {
		r.onReconcile = func(context.Context) {
			mu.Lock()
			defer mu.Unlock()
			tried[id] = true
		}
	})
	for range 6 {
		s.obey(ordersFor(n, 1, 2, 3))
		s.background.Wait()
	}
	if len(tried) != n {
		t.Errorf("%d of %d copysets were looked after in 6 rounds of %d", len(tried), n, ordersAtOnce)
	}
}

func TestOnlyWhatDiffersFromTheOrdersIsATask(t *testing.T) {
	for _, tc := range []struct {
		name   string
		script func(*scripted)
		order  backend.ReplicaOrder
		want   bool
	}{
		{"as ordered", func(*scripted) {}, backend.ReplicaOrder{Peers: []backend.ServerID{1, 2}}, false},
		{"a peer is missing", func(*scripted) {}, backend.ReplicaOrder{Peers: []backend.ServerID{1, 2, 3}}, true},
		{"a voter is too many", func(*scripted) {}, backend.ReplicaOrder{Peers: []backend.ServerID{1}}, true},
		{"another voter", func(*scripted) {}, backend.ReplicaOrder{Peers: []backend.ServerID{1, 3}}, true},
		{"a learner", func(r *scripted) { r.status.Learners = []backend.ServerID{3} }, backend.ReplicaOrder{Peers: []backend.ServerID{1, 2}}, true},
		{"to be rebuilt", func(*scripted) {}, backend.ReplicaOrder{Peers: []backend.ServerID{1, 2}, Rebuild: []backend.ServerID{2}}, true},
		{"another leads", func(r *scripted) { r.status.Leader = 2 }, backend.ReplicaOrder{Peers: []backend.ServerID{1, 2, 3}}, false},
		{"to be forgotten", func(r *scripted) { r.status.Leader = 2 }, backend.ReplicaOrder{Peers: []backend.ServerID{2, 3}, Wipe: true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := leadingServer(t, 1, func(_ backend.CopysetID, r *scripted) { tc.script(r) })
			tc.order.Copyset = 1
			if got := s.concerned(tc.order); got != tc.want {
				t.Errorf("concerned: %v, want %v", got, tc.want)
			}
		})
	}
}
