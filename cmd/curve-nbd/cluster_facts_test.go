package main

import (
	"reflect"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// Without an MDS the chunkservers are asked; those that were cut off from the
// others say old things.
func TestChunkserversAreBelievedByTheNewestTerm(t *testing.T) {
	file := sampleCluster()
	file.Members = append(file.Members, newChunkserver(3, []int{6730, 6731, 6732}))
	replica := func(leader uint32, term, applied uint64) *pb.ServerStatus {
		return &pb.ServerStatus{
			Pid: 7, UsedBytes: 4096,
			Replicas: []*pb.ServerStatus_Replica{{
				Copyset: 4, State: "ok", Leader: leader, Term: term, Voters: []uint32{3, 1, 2}, Applied: applied, Committed: applied,
			}},
		}
	}
	for _, c := range []struct {
		name    string
		said    map[backend.ServerID]*pb.ServerStatus
		leader  backend.ServerID
		term    uint64
		applied uint64
		leaders []int
	}{
		{"all agree", map[backend.ServerID]*pb.ServerStatus{1: replica(2, 5, 40), 2: replica(2, 5, 50), 3: replica(2, 5, 45)}, 2, 5, 50, []int{0, 1, 0}},
		{"the old leader still thinks that it leads", map[backend.ServerID]*pb.ServerStatus{1: replica(1, 4, 60), 2: replica(3, 5, 50), 3: replica(3, 5, 55)}, 3, 5, 55, []int{1, 0, 1}},
		{"newest said first", map[backend.ServerID]*pb.ServerStatus{1: replica(1, 6, 70), 2: replica(2, 5, 80)}, 1, 6, 70, []int{1, 1}},
		{"one has not heard of its leader yet", map[backend.ServerID]*pb.ServerStatus{1: replica(1, 6, 70), 2: replica(0, 6, 60)}, 1, 6, 70, []int{1, 0}},
		{"the leader does not answer", map[backend.ServerID]*pb.ServerStatus{2: replica(1, 6, 60)}, 1, 6, 60, []int{0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := clusterFacts{members: &file}
			f.believe(c.said)
			if len(f.copysets) != 1 || len(f.servers) != len(c.said) {
				t.Fatalf("%d copysets, %d servers; want 1, %d", len(f.copysets), len(f.servers), len(c.said))
			}
			got := f.copysets[0]
			if got.Leader != c.leader || got.Term != c.term || got.Applied != c.applied {
				t.Errorf("leader %d, term %d, applied %d; want %d, %d, %d", got.Leader, got.Term, got.Applied, c.leader, c.term, c.applied)
			}
			if want := []backend.ServerID{1, 2, 3}; !reflect.DeepEqual(got.Peers, want) {
				t.Errorf("peers %v, want %v", got.Peers, want)
			}
			var leaders []int
			for _, s := range f.servers {
				leaders = append(leaders, s.Leaders)
			}
			if !reflect.DeepEqual(leaders, c.leaders) {
				t.Errorf("leaders %v, want %v", leaders, c.leaders)
			}
			if f.servers[0].Address == "" || f.servers[0].PID != 7 {
				t.Errorf("server %+v: want its address and pid", f.servers[0])
			}
		})
	}
}
