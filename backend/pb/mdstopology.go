package pb

import (
	"fmt"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
)

// idsOf are chunkservers as they go over the wire.
func idsOf(ids []backend.ServerID) []uint32 {
	if len(ids) == 0 {
		return nil
	}
	wire := make([]uint32, len(ids))
	for i, id := range ids {
		wire[i] = uint32(id)
	}
	return wire
}

func serverIDs(wire []uint32) []backend.ServerID {
	if len(wire) == 0 {
		return nil
	}
	ids := make([]backend.ServerID, len(wire))
	for i, id := range wire {
		ids[i] = backend.ServerID(id)
	}
	return ids
}

// CopysetOf is a copyset as it goes over the wire.
func CopysetOf(c backend.Copyset) *Copyset {
	return &Copyset{Id: uint32(c.ID), Peers: idsOf(c.Peers)}
}

// Words is the copyset in words of package backend. ErrIO.
func (m *Copyset) Words() (backend.Copyset, error) {
	c := backend.Copyset{ID: backend.CopysetID(m.GetId()), Peers: serverIDs(m.GetPeers())}
	if c.ID == 0 || len(c.Peers) == 0 {
		return backend.Copyset{}, fmt.Errorf("%w: the MDS answered with %s of %d peers", backend.ErrIO, c.ID, len(c.Peers))
	}
	return c, nil
}

// ServerOf is a chunkserver as it goes over the wire.
func ServerOf(s backend.ServerInfo) *Server {
	return &Server{
		Id: uint32(s.ID), Uuid: s.UUID, Address: s.Address, PeerAddress: s.PeerAddress, Zone: s.Zone, Pid: int64(s.PID),
		State: string(s.State), UsedBytes: s.UsedBytes, FreeBytes: s.FreeBytes, Trouble: s.Trouble,
		Copysets: int64(s.Copysets), Leaders: int64(s.Leaders),
	}
}

// ServersOf is ServerOf of each.
func ServersOf(infos []backend.ServerInfo) []*Server {
	wire := make([]*Server, len(infos))
	for i, s := range infos {
		wire[i] = ServerOf(s)
	}
	return wire
}

// Info is the chunkserver in words of package backend. ErrIO.
func (m *Server) Info() (backend.ServerInfo, error) {
	s := backend.ServerInfo{
		ID: backend.ServerID(m.GetId()), UUID: m.GetUuid(), Address: m.GetAddress(), PeerAddress: m.GetPeerAddress(),
		Zone: m.GetZone(), PID: int(m.GetPid()),
		State: backend.ServerState(m.GetState()), UsedBytes: m.GetUsedBytes(), FreeBytes: m.GetFreeBytes(), Trouble: m.GetTrouble(),
		Copysets: int(m.GetCopysets()), Leaders: int(m.GetLeaders()),
	}
	if s.ID == 0 || s.Address == "" {
		return backend.ServerInfo{}, fmt.Errorf("%w: the MDS answered with %s at %.80q", backend.ErrIO, s.ID, s.Address)
	}
	return s, nil
}

// ServerInfos is Info of each.
func ServerInfos(wire []*Server) ([]backend.ServerInfo, error) {
	infos := make([]backend.ServerInfo, len(wire))
	for i, m := range wire {
		var err error
		if infos[i], err = m.Info(); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// ReplicaOf is a replica's status as it goes over the wire.
func ReplicaOf(s backend.ReplicaStatus) *ReplicaReport {
	return &ReplicaReport{
		Copyset: uint32(s.Copyset), State: string(s.State), Leader: uint32(s.Leader), Term: s.Term,
		Voters: idsOf(s.Voters), Learners: idsOf(s.Learners), Committed: s.Committed, Applied: s.Applied,
	}
}

// Words is the status in words of package backend, not checked.
func (m *ReplicaReport) Words() backend.ReplicaStatus {
	return backend.ReplicaStatus{
		Copyset: backend.CopysetID(m.GetCopyset()), State: backend.ReplicaState(m.GetState()),
		Leader: backend.ServerID(m.GetLeader()), Term: m.GetTerm(),
		Voters: serverIDs(m.GetVoters()), Learners: serverIDs(m.GetLearners()),
		Committed: m.GetCommitted(), Applied: m.GetApplied(),
	}
}

// HeartbeatOf is a report as it goes over the wire.
func HeartbeatOf(r backend.Report) *HeartbeatRequest {
	m := &HeartbeatRequest{
		Server: uint32(r.Server), Uuid: r.UUID, UsedBytes: r.UsedBytes, FreeBytes: r.FreeBytes,
		// Words of an operating system: made valid rather than refused.
		Trouble: strings.ToValidUTF8(r.Trouble, "?"), Draining: r.Draining, Replicas: make([]*ReplicaReport, len(r.Replicas)),
	}
	for i, s := range r.Replicas {
		m.Replicas[i] = ReplicaOf(s)
	}
	return m
}

// Words is the report in words of package backend, not checked.
func (m *HeartbeatRequest) Words() backend.Report {
	r := backend.Report{
		Server: backend.ServerID(m.GetServer()), UUID: m.GetUuid(), UsedBytes: m.GetUsedBytes(), FreeBytes: m.GetFreeBytes(),
		Trouble: m.GetTrouble(), Draining: m.GetDraining(), Replicas: make([]backend.ReplicaStatus, len(m.GetReplicas())),
	}
	for i, s := range m.GetReplicas() {
		r.Replicas[i] = s.Words()
	}
	return r
}

// OrdersOf are orders as they go over the wire.
func OrdersOf(o backend.Orders) *HeartbeatReply {
	m := &HeartbeatReply{Servers: ServersOf(o.Servers), Orders: make([]*ReplicaOrder, len(o.Replicas))}
	for i, r := range o.Replicas {
		m.Orders[i] = &ReplicaOrder{
			Copyset: uint32(r.Copyset), Peers: idsOf(r.Peers), Founding: r.Founding, Rebuild: idsOf(r.Rebuild), Wipe: r.Wipe,
		}
	}
	return m
}

// Words are the orders in words of package backend. ErrIO: an order without a
// copyset or peers would make a chunkserver drop what it holds.
func (m *HeartbeatReply) Words() (backend.Orders, error) {
	servers, err := ServerInfos(m.GetServers())
	if err != nil {
		return backend.Orders{}, err
	}
	o := backend.Orders{Servers: servers, Replicas: make([]backend.ReplicaOrder, len(m.GetOrders()))}
	for i, r := range m.GetOrders() {
		if r.GetCopyset() == 0 || len(r.GetPeers()) == 0 {
			return backend.Orders{}, fmt.Errorf("%w: the MDS ordered copyset %d to have %d peers", backend.ErrIO, r.GetCopyset(), len(r.GetPeers()))
		}
		o.Replicas[i] = backend.ReplicaOrder{
			Copyset: backend.CopysetID(r.GetCopyset()), Peers: serverIDs(r.GetPeers()), Founding: r.GetFounding(),
			Rebuild: serverIDs(r.GetRebuild()), Wipe: r.GetWipe(),
		}
	}
	return o, nil
}

// CopysetsOf are descriptions of copysets as they go over the wire.
func CopysetsOf(infos []backend.CopysetInfo) *CopysetList {
	m := &CopysetList{Copysets: make([]*CopysetDescription, len(infos))}
	for i, c := range infos {
		d := &CopysetDescription{
			Copyset: CopysetOf(c.Copyset), Leader: uint32(c.Leader), Term: c.Term, Applied: c.Applied,
			Replicas: make([]*ReplicaReport, len(c.Peers)), Chunks: c.Chunks,
		}
		for j, p := range c.Peers {
			d.Replicas[j] = ReplicaOf(c.Replicas[p])
		}
		m.Copysets[i] = d
	}
	return m
}

// Words are the descriptions in words of package backend. ErrIO.
func (m *CopysetList) Words() ([]backend.CopysetInfo, error) {
	infos := make([]backend.CopysetInfo, len(m.GetCopysets()))
	for i, d := range m.GetCopysets() {
		c, err := d.GetCopyset().Words()
		if err != nil {
			return nil, err
		}
		if len(d.GetReplicas()) != len(c.Peers) {
			return nil, fmt.Errorf("%w: the MDS answered with %d replicas of the %d peers of %s", backend.ErrIO, len(d.GetReplicas()), len(c.Peers), c.ID)
		}
		infos[i] = backend.CopysetInfo{
			Copyset: c, Leader: backend.ServerID(d.GetLeader()), Term: d.GetTerm(), Applied: d.GetApplied(),
			Replicas: make(map[backend.ServerID]backend.ReplicaStatus, len(c.Peers)), Chunks: d.GetChunks(),
		}
		for j, p := range c.Peers {
			infos[i].Replicas[p] = d.GetReplicas()[j].Words()
		}
	}
	return infos, nil
}
