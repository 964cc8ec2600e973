package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
	"github.com/opencurve/curve-nbd/backend/remote"
)

const (
	// topologyPatience is how long a status waits for the MDS of a cluster on this
	// machine before it makes do with what the chunkservers say, and serverPatience
	// how long it waits for those.
	topologyPatience = 3 * time.Second
	serverPatience   = 2 * time.Second
)

// gatherFacts asks the MDS, or, when it does not answer and members says where
// they are, the chunkservers themselves.
func gatherFacts(ctx context.Context, client *topologyClient, members *clusterFile, mds []string) clusterFacts {
	f := clusterFacts{members: members, alive: processID.alive, mds: mds}
	if members == nil {
		f.topologyErr = f.askTopology(ctx, client)
		return f
	}
	if gone := members.gone(roleMDS); gone != nil {
		f.topologyErr = fmt.Errorf("%w: %s does not run", backend.ErrUnreachable, strings.Join(gone, ", "))
	} else {
		patient, cancel := context.WithTimeout(ctx, topologyPatience)
		f.topologyErr = f.askTopology(patient, client)
		cancel()
	}
	if f.topologyErr != nil {
		f.askServers(ctx)
	}
	return f
}

func (f *clusterFacts) askTopology(ctx context.Context, client *topologyClient) (err error) {
	if f.servers, err = client.Servers(ctx); err != nil {
		return err
	}
	f.copysets, err = client.Copysets(ctx)
	return err
}

// gone names the members of a role if none of them runs.
func (f *clusterFile) gone(role memberRole) []string {
	var ids []string
	for _, m := range f.of(role) {
		if m.Process.alive() {
			return nil
		}
		ids = append(ids, m.ID)
	}
	return ids
}

// askServers asks each chunkserver for its own view. What none of them says stays
// unknown.
func (f *clusterFacts) askServers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	chunks := remote.NewChunks(memberResolver{f.members}, remote.Options{Client: "status on " + hostName()})
	defer chunks.Close()
	var all sync.WaitGroup
	var mu sync.Mutex // guards said
	said := map[backend.ServerID]*pb.ServerStatus{}
	for _, m := range f.members.of(roleChunkserver) {
		if !m.Process.alive() {
			continue
		}
		all.Go(func() {
			status, err := chunks.ServerStatus(ctx, m.serverID())
			if err != nil {
				return // it stays unknown, and is shown as that
			}
			mu.Lock()
			defer mu.Unlock()
			said[m.serverID()] = status
		})
	}
	all.Wait()
	f.believe(said)
}

// believe takes what chunkservers say of themselves for the facts.
func (f *clusterFacts) believe(said map[backend.ServerID]*pb.ServerStatus) {
	copysets := map[backend.CopysetID]*backend.CopysetInfo{}
	for _, id := range slices.Sorted(maps.Keys(said)) {
		s := said[id]
		info := backend.ServerInfo{
			ID: id, UUID: s.GetUuid(), Zone: s.GetZone(), PID: int(s.GetPid()), State: backend.ServerOnline,
			UsedBytes: s.GetUsedBytes(), FreeBytes: s.GetFreeBytes(), Trouble: s.GetTrouble(), Copysets: len(s.GetReplicas()),
		}
		if m, err := f.members.member(serverName(id)); err == nil {
			info.Address, info.PeerAddress = m.Address, m.PeerAddress
		}
		for _, r := range s.GetReplicas() {
			if backend.ServerID(r.GetLeader()) == id {
				info.Leaders++
			}
			c := copysets[backend.CopysetID(r.GetCopyset())]
			if c == nil {
				c = &backend.CopysetInfo{
					Copyset:  backend.Copyset{ID: backend.CopysetID(r.GetCopyset())},
					Replicas: map[backend.ServerID]backend.ReplicaStatus{},
				}
				copysets[c.ID] = c
			}
			believeReplica(c, id, r)
		}
		f.servers = append(f.servers, info)
	}
	for _, id := range slices.Sorted(maps.Keys(copysets)) {
		f.copysets = append(f.copysets, *copysets[id])
	}
}

// believeReplica adds what one replica says to its copyset: the newest term knows
// the leader and the members.
func believeReplica(c *backend.CopysetInfo, server backend.ServerID, r *pb.ServerStatus_Replica) {
	status := backend.ReplicaStatus{
		Copyset: c.ID, State: backend.ReplicaState(r.GetState()), Leader: backend.ServerID(r.GetLeader()),
		Term: r.GetTerm(), Committed: r.GetCommitted(), Applied: r.GetApplied(),
	}
	for _, v := range r.GetVoters() {
		status.Voters = append(status.Voters, backend.ServerID(v))
	}
	c.Replicas[server] = status
	if len(c.Peers) > 0 && (status.Term < c.Term || status.Term == c.Term && status.Leader == 0) {
		return
	}
	c.Term, c.Leader, c.Peers = status.Term, status.Leader, status.Voters
	slices.SortFunc(c.Peers, cmp.Compare[backend.ServerID])
	if leader, ok := c.Replicas[c.Leader]; ok {
		c.Applied = leader.Applied
	} else {
		c.Applied = status.Applied
	}
}

// memberResolver finds the chunkservers of a cluster on this machine.
type memberResolver struct{ file *clusterFile }

// Server implements remote.Resolver.
func (r memberResolver) Server(_ context.Context, id backend.ServerID) (backend.ServerInfo, error) {
	m, err := r.file.member(serverName(id))
	if err != nil {
		return backend.ServerInfo{}, err
	}
	return backend.ServerInfo{ID: id, Address: m.Address, PeerAddress: m.PeerAddress}, nil
}

// Copyset implements remote.Resolver.
func (r memberResolver) Copyset(_ context.Context, id backend.CopysetID) (backend.Copyset, error) {
	return backend.Copyset{}, fmt.Errorf("%w: %v: only the MDS knows", backend.ErrNotFound, id)
}
