package chunkserver

import (
	"os"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// statusMessage is the server's own view of itself.
func (s *Server) statusMessage() *pb.ServerStatus {
	used, free := s.space.figures()
	m := &pb.ServerStatus{
		Server: uint32(s.ID()), Uuid: s.UUID(), Incarnation: s.io.incarnation, Zone: s.opts.Zone,
		Pid: int64(os.Getpid()), Trouble: s.troubleText(), Draining: s.draining.Load(),
		UsedBytes: used, FreeBytes: free, LogBytes: s.raftLog.Bytes(),
	}
	for _, id := range s.hosts.ids() {
		m.Replicas = append(m.Replicas, replicaMessage(s.replicaStatus(id)))
	}
	return m
}

func replicaMessage(st backend.ReplicaStatus) *pb.ServerStatus_Replica {
	return &pb.ServerStatus_Replica{
		Copyset: uint32(st.Copyset), State: string(st.State), Leader: uint32(st.Leader), Term: st.Term,
		Voters: serverNumbers(st.Voters), Learners: serverNumbers(st.Learners),
		Committed: st.Committed, Applied: st.Applied,
	}
}

func serverNumbers(ids []backend.ServerID) []uint32 {
	numbers := make([]uint32, len(ids))
	for i, id := range ids {
		numbers[i] = uint32(id)
	}
	return numbers
}
