package chunkserver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
)

const (
	// handOverTimeout bounds one attempt to hand a leadership over in good order, which
	// takes milliseconds when it works.
	handOverTimeout = 300 * time.Millisecond
	// pushEvery is between two followers that are made to campaign: longer than one may
	// hold its vote back for a promise that it gave to this leader.
	pushEvery = 300 * time.Millisecond
	// handAgain is the least time between two attempts for one copyset, twice as long
	// with each, up to handAgainMax, as long as the disk is not well: where all the
	// others are unwell too, it comes back, and must be served meanwhile; and where all
	// disks are slow, an election takes longer than this.
	handAgain    = 2 * time.Second
	handAgainMax = time.Minute
	// elsewhereTimeout bounds asking the others who leads.
	elsewhereTimeout = 200 * time.Millisecond
)

// handOver gets rid of leaderships while the disk is not well, of each once at a time.
type handOver struct {
	mu    sync.Mutex
	under map[backend.CopysetID]bool
	// pushed is the term in which a copyset's followers were made to campaign.
	pushed map[backend.CopysetID]uint64
	// next is when a copyset may be tried to get rid of again, after wait.
	next  map[backend.CopysetID]time.Time
	wait  map[backend.CopysetID]time.Duration
	tasks sync.WaitGroup
}

func (h *handOver) init() {
	h.under = make(map[backend.CopysetID]bool)
	h.pushed = make(map[backend.CopysetID]uint64)
	h.well()
}

// well forgets how often copysets came back.
func (h *handOver) well() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = make(map[backend.CopysetID]time.Time)
	h.wait = make(map[backend.CopysetID]time.Duration)
}

// begin says whether it is time to get rid of a copyset that is led in term. If so, end
// must follow.
func (h *handOver) begin(id backend.CopysetID, term uint64, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.under[id] || h.pushed[id] >= term || now.Before(h.next[id]) {
		return false
	}
	h.wait[id] = min(max(handAgain, 2*h.wait[id]), handAgainMax)
	h.under[id], h.next[id] = true, now.Add(h.wait[id])
	return true
}

func (h *handOver) end(id backend.CopysetID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.under, id)
}

func (h *handOver) start(s *Server, id backend.CopysetID, term uint64) {
	r := s.replicas.get(id)
	if r == nil || !h.begin(id, term, time.Now()) {
		return
	}
	h.tasks.Go(func() {
		defer h.end(id)
		ctx, cancel := context.WithTimeout(s.life, handOverTimeout)
		defer cancel()
		err := r.TransferLeadership(ctx, 0)
		if err == nil || s.life.Err() != nil {
			return
		}
		h.mu.Lock()
		h.pushed[id] = term
		h.mu.Unlock()
		s.push(id, term, r.Status().Voters, err)
	})
}

// push makes the followers take a leadership that cannot be handed over, because
// changes in flight wait for a log that hangs, and raft itself may. First this server
// falls silent as a leader: no lease, no heartbeats. Then one follower after the other
// is made to campaign, until one leads; should all fail, they campaign by themselves
// after raft's heartbeat timeout. It is done once in a term: a raft that hangs goes on
// saying that it leads, when a newer term has long begun.
func (s *Server) push(id backend.CopysetID, term uint64, voters []backend.ServerID, why error) {
	link := s.hosts.link(id)
	if link == nil {
		return
	}
	// Frees the followers' votes, which they promised to hold back.
	ctx, cancel := context.WithTimeout(s.life, elsewhereTimeout)
	link.Release(ctx)
	cancel()
	link.Follow()
	others := slices.DeleteFunc(voters, func(v backend.ServerID) bool { return v == s.ID() })
	for _, to := range others {
		if s.ledElsewhere(id, term, others) {
			return
		}
		s.log.Warn("handing a leadership over in good order does not work: a follower is made to take it", "copyset", uint32(id), "follower", uint32(to), "err", why)
		req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax,
			ID:              []byte(raftnet.PeerID(s.ID())), Addr: []byte(raftnet.PeerAddress(s.ID())),
		}}
		err := link.TimeoutNow(raftnet.PeerID(to), raftnet.PeerAddress(to), &req, new(raft.TimeoutNowResponse))
		if err != nil {
			s.log.Warn("making a follower campaign", "copyset", uint32(id), "follower", uint32(to), "err", err)
			continue
		}
		timer := time.NewTimer(pushEvery)
		select {
		case <-s.life.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// ledElsewhere asks the other voters whether one of them leads, or follows one that
// leads, in a newer term: this server's own raft may hang and not have heard of it.
func (s *Server) ledElsewhere(id backend.CopysetID, term uint64, others []backend.ServerID) bool {
	ctx, cancel := context.WithTimeout(s.life, elsewhereTimeout)
	defer cancel()
	found := make(chan bool, len(others))
	for _, peer := range others {
		go func() { found <- s.peers.knowsNewerLeader(ctx, peer, id, term) }() // ends with ctx
	}
	yes := false
	for range others {
		yes = <-found || yes
	}
	return yes
}
