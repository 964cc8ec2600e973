package mds

import (
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// replicaView is a replica as its chunkserver last reported it.
type replicaView struct {
	status backend.ReplicaStatus
	// beat is the heartbeat that brought it, before that server's previous one,
	// 0 for none. Heartbeats are counted over all servers.
	beat, before uint64
	// unwanted is the heartbeat since which the replica is known to be damaged, or
	// on a server that is not among the peers of generation; 0 for one that is
	// wanted as it is.
	unwanted, generation uint64
}

// judge sets unwanted; was is the replica as reported before, nil for none. That
// a replica is damaged is believed when it is said twice: one that is just being
// opened or closed may say so once, and rebuilding it would copy all its chunks.
func (r *replicaView) judge(record copysetRecord, server backend.ServerID, was *replicaView) {
	damaged := r.status.State == backend.ReplicaDamaged
	peer := slices.Contains(record.Peers, server)
	switch {
	case peer && !damaged:
		return
	case peer && (was == nil || was.status.State != backend.ReplicaDamaged):
		return
	case was != nil && was.unwanted != 0 && was.generation == record.Generation:
		r.unwanted, r.generation = was.unwanted, was.generation
	default:
		r.unwanted, r.generation = r.beat, record.Generation
	}
}

// orderFor decides what a server is told of a copyset, ok false for nothing.
// It is a function of what is stored and what was reported, nothing else.
//
// The way of a replica that is damaged, or on a server that is no longer a peer:
//
//	reported so, twice    leader: take it out (Rebuild, or not among Peers)
//	out for certain       its server: Wipe, see forgotten
//	reported sound, empty leader: take it in again, if it is among Peers
//	not reported at all   nothing more, if it is not
func orderFor(record copysetRecord, replicas map[backend.ServerID]*replicaView, server backend.ServerID) (o backend.ReplicaOrder, ok bool) {
	mine := replicas[server]
	peer := slices.Contains(record.Peers, server)
	if mine == nil && !peer {
		return backend.ReplicaOrder{}, false
	}
	o = backend.ReplicaOrder{Copyset: record.ID, Peers: slices.Clone(record.Peers), Founding: peer && !record.Started}
	for id, r := range replicas {
		if r.status.State == backend.ReplicaDamaged && r.unwanted != 0 {
			o.Rebuild = append(o.Rebuild, id)
		}
	}
	slices.Sort(o.Rebuild)
	o.Wipe = mine != nil && mine.unwanted != 0 && mine.generation == record.Generation && forgotten(replicas, server)
	return o, true
}

// forgotten says whether a replica that is not wanted is out of its group's
// configuration for certain: only then may it forget its log and its votes,
// which the others may count on.
//
// The leader alone may be wrong: it may lead no more, or not have committed the
// change. A majority of its voters that follows it in its term, and has the same
// configuration, makes the change committed. And all that must have been said
// after the leader was first told, in answer to a heartbeat, that the replica is
// not wanted, so that it is not just taking it in for an order given earlier.
func forgotten(replicas map[backend.ServerID]*replicaView, server backend.ServerID) bool {
	since := replicas[server].unwanted
	leader := leaderOf(replicas)
	if leader == nil || isMember(leader.status, server) {
		return false
	}
	agreed := 0
	for _, voter := range leader.status.Voters {
		r := replicas[voter]
		if r == nil || r.status.Term != leader.status.Term || r.status.Leader != leader.status.Leader {
			continue
		}
		if r.before >= since && !isMember(r.status, server) {
			agreed++
		} else if r == leader {
			return false
		}
	}
	return 2*agreed > len(leader.status.Voters)
}

// leaderOf returns the replica that says it leads, in the newest term where
// several do, nil if none does.
func leaderOf(replicas map[backend.ServerID]*replicaView) *replicaView {
	var leader *replicaView
	for id, r := range replicas {
		if r.status.Leader != id || r.status.State == backend.ReplicaDamaged {
			continue
		}
		if leader == nil || r.status.Term > leader.status.Term {
			leader = r
		}
	}
	return leader
}

func isMember(s backend.ReplicaStatus, server backend.ServerID) bool {
	return slices.Contains(s.Voters, server) || slices.Contains(s.Learners, server)
}

// settled says whether the group's configuration is what is wanted: no peer is
// missing, none is too many, and none is still learning.
func settled(record copysetRecord, replicas map[backend.ServerID]*replicaView) bool {
	leader := leaderOf(replicas)
	if leader == nil || len(leader.status.Learners) > 0 || len(leader.status.Voters) != len(record.Peers) {
		return false
	}
	for _, p := range record.Peers {
		if !slices.Contains(leader.status.Voters, p) {
			return false
		}
	}
	return true
}
