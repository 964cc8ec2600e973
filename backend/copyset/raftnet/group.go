package raftnet

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// Gate holds messages back until what they promise is durable; *raftlog.Group.
type Gate interface {
	// Durable is the index up to which the group's log is on stable storage.
	Durable() uint64
	// AfterDurable calls fn once all that was appended so far is.
	AfterDurable(fn func())
	// SyncTime is how long the disk takes for a sync at the moment.
	SyncTime() time.Duration
}

// Group is the raft.Transport of one copyset. Server ids and addresses are both
// the decimal ServerID; the Net's address book knows the rest.
type Group struct {
	net  *Net
	id   backend.CopysetID
	gate Gate
	// self is EncodePeer's answer for this chunkserver.
	self []byte
	// closed ends every wait; done is closed when respond has ended.
	closed    chan struct{}
	closeOnce sync.Once
	done      chan struct{}
	heartbeat atomic.Pointer[func(raft.RPC)]
	// lease is the instant at which the lease ends, 0 for none.
	lease atomic.Int64
	inbox inbox

	// mu guards the rest. Under it no lock but that of inbox, scheduler, links and
	// raft's configuration is taken.
	mu     sync.Mutex
	shutUp bool
	voters []backend.ServerID
	voting bool // this chunkserver is among voters
	// term is the highest one that raft here is known to have seen.
	term uint64
	// changed is closed when the lease or a promise changed, for who waits.
	changed chan struct{}
	leading leading
	follows following
	votes   votes
	camp    campaign
	// turn counts the turns of pre-votes and the ends of campaigns, from 1; turned is
	// closed at the next one.
	turn   uint64
	turned chan struct{}
	// patient is told patience: see OnPatience.
	patient  func(time.Duration)
	patience time.Duration
	mates    []*mate
}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
)

// mate is a peer as one group sees it.
type mate struct {
	id backend.ServerID
	// acked is the sending time of the newest ping that the peer promised upon, as
	// a follower of this replica's current leadership.
	acked instant
	// asked is the instant of the last ping that asked for a promise; urgent asks
	// for another one at once.
	asked  instant
	urgent bool
	// released is the sequence number of the first ping that gave the promise
	// back, and freed says that it was answered.
	released uint64
	freed    bool
	// stands is the last term in which it voted for this replica or followed it, 0 if it
	// has denied that, or has fallen silent, since.
	stands uint64
	// waiters are heartbeats of raft that wait for the next ping's answer.
	waiters []*beat
	// preVote is the pre-vote that raft here asked of it last.
	preVote *question
}

func newGroup(n *Net, id backend.CopysetID, gate Gate) *Group {
	g := &Group{
		net: n, id: id, gate: gate, self: []byte(PeerAddress(n.opts.Self)),
		closed: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
		turn: 1, turned: make(chan struct{}), patient: func(time.Duration) {},
	}
	g.inbox.init()
	// Whoever was here before may have promised, this process's last life included.
	g.votes.birth = n.now().add(n.opts.Promise)
	return g
}

// PeerID and PeerAddress spell a chunkserver as raft wants it; ParsePeer reads
// either, 0 for what is none.
func PeerID(id backend.ServerID) raft.ServerID { return raft.ServerID(PeerAddress(id)) }

// PeerAddress is PeerID as an address.
func PeerAddress(id backend.ServerID) raft.ServerAddress {
	return raft.ServerAddress(strconv.FormatUint(uint64(id), 10))
}

// ParsePeer reads what PeerID or PeerAddress wrote.
func ParsePeer[T ~string](s T) backend.ServerID {
	id, err := strconv.ParseUint(string(s), 10, 32)
	if err != nil {
		return 0
	}
	return backend.ServerID(id)
}

// Configure tells the Group who votes, by the newest configuration in raft's log,
// committed or not. To be called on every change, and on the leader before the
// next change is proposed: see the package's comment.
func (g *Group) Configure(voters []backend.ServerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.voters = slices.Clone(voters)
	g.voting = slices.Contains(voters, g.net.opts.Self)
	g.leading.alone = false
	g.computeLeaseLocked()
}

// mateLocked returns the group's view of a peer.
func (g *Group) mateLocked(id backend.ServerID) *mate {
	for _, m := range g.mates {
		if m.id == id {
			return m
		}
	}
	m := &mate{id: id}
	g.mates = append(g.mates, m)
	return m
}

// changedLocked wakes who waits for the lease or a promise to change.
func (g *Group) changedLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// observeLocked notes a term that raft here has reached.
func (g *Group) observeLocked(term uint64) {
	if term <= g.term {
		return
	}
	g.term = term
	if g.leading.on && term > g.leading.term {
		g.dropLeaseLocked() // raft is about to step down
	}
}

// shut ends the group: waits end, leases too, and whatever is asked of it is
// answered with an error.
func (g *Group) shut() {
	g.closeOnce.Do(func() {
		g.mu.Lock()
		g.shutUp = true
		g.leading.on = false
		g.dropLeaseLocked()
		held := g.votes.held
		g.votes.held = nil
		for _, m := range g.mates {
			for _, w := range m.waiters {
				w.done <- raft.ErrTransportShutdown
			}
			m.waiters = nil
		}
		close(g.closed)
		g.mu.Unlock()
		for _, in := range held {
			in.refuse(errGroupClosed)
		}
	})
}

// Close implements raft.WithClose: the Net forgets the group.
func (g *Group) Close() error {
	g.net.leave(g)
	g.shut()
	<-g.done
	return nil
}

// Consumer implements raft.Transport.
func (g *Group) Consumer() <-chan raft.RPC { return g.inbox.toRaft }

// LocalAddr implements raft.Transport.
func (g *Group) LocalAddr() raft.ServerAddress { return PeerAddress(g.net.opts.Self) }

// EncodePeer implements raft.Transport.
func (g *Group) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	if string(addr) == string(g.self) {
		return g.self // for every AppendEntries
	}
	return []byte(addr)
}

// DecodePeer implements raft.Transport.
func (g *Group) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (g *Group) SetHeartbeatHandler(fn func(raft.RPC)) { g.heartbeat.Store(&fn) }
