package raftnet

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// Options of a Net. Zero durations stand for the defaults.
type Options struct {
	Self backend.ServerID
	// Listener accepts the links of the other chunkservers. Net closes it.
	Listener net.Listener
	// Ping is the time between two pings to a peer. Default 30 ms.
	Ping time.Duration
	// Lease is for how long after a ping was sent its answer entitles a leader to
	// read locally. Default 150 ms. Promise is for how long after a ping arrived
	// the follower grants no vote; longer than Lease by the clock drift allowed
	// for. Default 220 ms.
	Lease, Promise time.Duration
	// Suspect is the silence after which a leader's chunkserver is taken for dead
	// and its followers campaign. Longer than Promise. Default 350 ms.
	Suspect time.Duration
	Logger  *slog.Logger
}

// Net is the links of one chunkserver.
type Net struct{}

// Start serves the listener and keeps links to the peers.
func Start(o Options) (*Net, error) { panic("skeleton") }

// SetAddresses replaces the address book: where each chunkserver's peer listener is.
func (n *Net) SetAddresses(book map[backend.ServerID]string) { panic("skeleton") }

// Alive says how long ago peer was last heard of.
func (n *Net) Alive(peer backend.ServerID) (silence time.Duration, known bool) { panic("skeleton") }

// Close ends all links and waits for the goroutines.
func (n *Net) Close() error { panic("skeleton") }

// Gate holds messages back until what they promise is durable; *raftlog.Group.
type Gate interface {
	// Durable is the index up to which the group's log is on stable storage.
	Durable() uint64
	// AfterDurable calls fn once all that was appended so far is.
	AfterDurable(fn func())
}

// Group joins a copyset to the net. gate may be nil for a log that is always
// durable.
func (n *Net) Group(id backend.CopysetID, gate Gate) *Group { panic("skeleton") }

// Group is the raft.Transport of one copyset. Server ids and addresses are both
// the decimal ServerID; the Net's address book knows the rest.
type Group struct{}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
)

// PeerID and PeerAddress spell a chunkserver as raft wants it; ParsePeer reads
// either, 0 for what is none.
func PeerID(id backend.ServerID) raft.ServerID           { panic("skeleton") }
func PeerAddress(id backend.ServerID) raft.ServerAddress { panic("skeleton") }
func ParsePeer[T ~string](s T) backend.ServerID          { panic("skeleton") }

// Configure tells the Group who votes.
func (g *Group) Configure(voters []backend.ServerID) { panic("skeleton") }

// Lead says that this replica leads in term: from now on pings ask the followers
// for promises, whose answers make the lease.
func (g *Group) Lead(term uint64) { panic("skeleton") }

// Follow says that this replica does not lead (any more).
func (g *Group) Follow() { panic("skeleton") }

// LeaseUntil is when the lease ends, by the monotonic clock; zero for no lease.
// A read is good if it began and ended before that.
func (g *Group) LeaseUntil() time.Time { panic("skeleton") }

// AwaitLease pings at once if there is no lease and waits for one.
func (g *Group) AwaitLease(ctx context.Context) error { panic("skeleton") }

// Release gives the lease up and frees the followers from their promises, before
// a leadership transfer. Lead takes it up again.
func (g *Group) Release(ctx context.Context) { panic("skeleton") }

// Close implements raft.WithClose: the Net forgets the group.
func (g *Group) Close() error { panic("skeleton") }

func (g *Group) Consumer() <-chan raft.RPC                           { panic("skeleton") }
func (g *Group) LocalAddr() raft.ServerAddress                       { panic("skeleton") }
func (g *Group) EncodePeer(raft.ServerID, raft.ServerAddress) []byte { panic("skeleton") }
func (g *Group) DecodePeer([]byte) raft.ServerAddress                { panic("skeleton") }
func (g *Group) SetHeartbeatHandler(func(raft.RPC))                  { panic("skeleton") }
func (g *Group) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	panic("skeleton")
}
func (g *Group) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	panic("skeleton")
}
func (g *Group) RequestVote(raft.ServerID, raft.ServerAddress, *raft.RequestVoteRequest, *raft.RequestVoteResponse) error {
	panic("skeleton")
}
func (g *Group) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	panic("skeleton")
}
func (g *Group) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	panic("skeleton")
}
func (g *Group) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	panic("skeleton")
}
