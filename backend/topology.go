package backend

import "context"

// ServerState is what the MDS thinks of a chunkserver.
type ServerState string

const (
	// ServerOnline: heartbeats arrive.
	ServerOnline ServerState = "online"
	// ServerUnstable: heartbeats were missed, or the server says that it is
	// unwell. Nothing new is placed there.
	ServerUnstable ServerState = "unstable"
	// ServerOffline: not heard of for long; its replicas are to be made again
	// elsewhere.
	ServerOffline ServerState = "offline"
	// ServerRetiring: its replicas are being moved away.
	ServerRetiring ServerState = "retiring"
)

// ServerInfo describes a chunkserver.
type ServerInfo struct {
	ID ServerID
	// UUID is the identity of its data directory.
	UUID string
	// Address serves the chunk protocol, PeerAddress the raft links: HOST:PORT.
	Address, PeerAddress string
	// Zone is the failure domain; replicas of a copyset lie in different ones
	// where there are enough.
	Zone string
	PID  int

	// The rest is as of the last heartbeat.
	State                ServerState
	UsedBytes, FreeBytes int64
	// Trouble says in words what is wrong with the server, "" for nothing.
	Trouble  string
	Copysets int
	Leaders  int
}

// ReplicaState is what a chunkserver says of one of its replicas.
type ReplicaState string

const (
	// ReplicaOK serves and follows.
	ReplicaOK ReplicaState = "ok"
	// ReplicaCatchingUp is receiving what it missed.
	ReplicaCatchingUp ReplicaState = "catching-up"
	// ReplicaDamaged cannot be trusted (its log or its fence is corrupt): it
	// neither votes nor serves, and must be rebuilt by copy.
	ReplicaDamaged ReplicaState = "damaged"
)

// ReplicaStatus is one replica of a copyset, as its chunkserver reports it.
type ReplicaStatus struct {
	Copyset CopysetID
	State   ReplicaState
	// Leader that it knows of, 0 for none, and in which term.
	Leader ServerID
	Term   uint64
	// Voters and Learners are the raft configuration as this replica knows it.
	Voters, Learners []ServerID
	Committed        uint64
	Applied          uint64
}

// Report is a chunkserver's heartbeat.
type Report struct {
	Server               ServerID
	UUID                 string
	UsedBytes, FreeBytes int64
	Trouble              string
	// Draining: the server is stopping and gives its leaderships away.
	Draining bool
	Replicas []ReplicaStatus
}

// ReplicaOrder is what the MDS wants of one copyset on the server that it answers.
type ReplicaOrder struct {
	Copyset CopysetID
	// Peers are the servers that shall hold the copyset. A server that is among
	// them and has no replica makes one; the leader adds and removes members, one
	// at a time, until the raft configuration says the same; a server not among
	// them deletes its replica once the configuration has lost it.
	Peers []ServerID
	// Founding: the copyset is new; its replicas start with Peers as their first
	// configuration. Otherwise a new replica starts empty and waits to be added.
	Founding bool
	// Rebuild are damaged replicas: the leader takes each out of the
	// configuration first, so that it may forget what it promised.
	Rebuild []ServerID
	// Wipe: this server's replica is out of the configuration and shall start
	// again empty.
	Wipe bool
}

// Orders answer a Report.
type Orders struct {
	// Servers is the address book.
	Servers  []ServerInfo
	Replicas []ReplicaOrder
}

// CopysetInfo describes a copyset as the MDS knows it.
type CopysetInfo struct {
	Copyset
	Leader  ServerID
	Term    uint64
	Applied uint64
	// Replicas as last reported, in the order of Peers; those never heard of have
	// only their server in Voters.
	Replicas map[ServerID]ReplicaStatus
	Chunks   int64
}

// Topology is the part of the metadata that chunkservers and operators talk to.
type Topology interface {
	// Register makes a chunkserver known, or known again under its UUID, which
	// keeps its ID. ErrInvalid, ErrBusy when the UUID is alive at another address.
	Register(ctx context.Context, info ServerInfo) (ServerInfo, error)
	// Heartbeat reports and fetches orders. ErrNotFound: register again.
	Heartbeat(ctx context.Context, r Report) (Orders, error)
	// Servers and Copysets list the cluster, in order of their ids.
	Servers(ctx context.Context) ([]ServerInfo, error)
	Copysets(ctx context.Context) ([]CopysetInfo, error)
	// CreateCopysets places n new copysets of so many replicas each. Idempotent
	// as far as it can be: with n copysets or more there already it does nothing.
	CreateCopysets(ctx context.Context, n, replicas int) error
}
