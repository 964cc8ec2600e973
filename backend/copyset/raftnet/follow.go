package raftnet

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// following is what a group knows as a follower.
type following struct {
	// leader, in that life of its process, is whom raft here accepted in term.
	leader      backend.ServerID
	incarnation uint64
	term        uint64
	// promise is the newest one made: until when, to whom, upon which ping.
	promise promise
	// fed is when raft was last told that its leader lives; feeding, that it is
	// being told.
	fed     instant
	feeding bool
	// asked is the newest ping that waits for raft to accept its sender.
	asked askedPing
}

type promise struct {
	until       instant
	to          backend.ServerID
	incarnation uint64
	seq         uint64
}

type askedPing struct {
	link  *link
	seq   uint64
	entry pingEntry
}

// inboundLink handles what a peer asks.
type inboundLink struct {
	net     *Net
	peer    *peer
	link    *link
	scratch []byte
}

var errLate = errors.New("message of a process that is gone")

// handle takes one message, on the link's reader. It must not wait.
func (in *inboundLink) handle(h head, body []byte) error {
	now := in.net.now()
	in.peer.heard.Store(int64(now))
	switch h.kind {
	case typePing:
		return in.ping(h.id, body, now)
	case typeVote, typePreVote, typeTimeoutNow, typeAppend, typeSnapshot:
		return in.request(h, body)
	}
	return fmt.Errorf("%w: answer of type %d from %v, which was asked nothing", errWire, h.kind, in.peer.id)
}

// ping answers a ping, from what is known: neither raft nor the disk is waited for.
func (in *inboundLink) ping(seq uint64, body []byte, now instant) error {
	list, err := decodeEntries(body, validFlags)
	if err != nil {
		return err
	}
	p := in.peer
	p.mu.Lock()
	if p.incarnation != in.link.incarnation || p.dead {
		p.mu.Unlock()
		return errLate
	}
	if seq <= p.lastPing {
		p.mu.Unlock()
		return nil // from a link before this one, overtaken
	}
	p.lastPing = seq
	if p.pinged != 0 {
		p.gap = max(p.gap, now-p.pinged)
	}
	p.pinged = now
	p.mu.Unlock()

	groups := *in.net.groups.Load()
	out := beginEntries(in.scratch)
	for i := range list.len() {
		e := list.at(i)
		if g := groups[e.copyset]; g != nil {
			e = g.pinged(in.link, seq, e)
		} else {
			e.code = statusUnknown
		}
		out = appendEntry(out, e)
	}
	in.scratch = out
	in.link.send(head{kind: typePong, id: seq}, endEntries(out))
	return nil
}

// pinged answers a ping's entry.
func (g *Group) pinged(l *link, seq uint64, e pingEntry) pingEntry {
	g.mu.Lock()
	if g.shutUp {
		g.mu.Unlock()
		e.code = statusUnknown
		return e
	}
	f := &g.follows
	now := g.net.now()
	freed := e.code == flagRelease && f.promise.to == l.peer && f.promise.incarnation == l.incarnation && seq > f.promise.seq
	if freed {
		f.promise.until = 0
		g.changedLocked()
	}
	feed := false
	wants := e.code == flagPromise
	switch {
	case e.term < g.term:
		e.term, e.code = g.term, statusRefused
	case f.leader == l.peer && f.incarnation == l.incarnation && f.term == e.term:
		g.stopCampaignLocked()
		e.code = statusOK
		if wants && g.votes.inside == 0 {
			e.code = statusPromised
			// The later of two promises covers the earlier one, whoever had it: a
			// new leader was not elected before the old one's had run out.
			f.promise = promise{max(f.promise.until, now.add(g.net.opts.Promise)), l.peer, l.incarnation, seq}
		}
		feed = !f.feeding && now-f.fed >= instant(feedEvery)
		if feed {
			f.feeding, f.fed = true, now
		}
	default:
		g.askLocked(l, seq, e)
		e.code = statusPending
	}
	g.mu.Unlock()
	if freed {
		g.passVotes()
	}
	if feed {
		g.net.queueFeed(g)
	}
	return e
}

// askLocked lets raft decide about a leader that it has not accepted yet. That
// may write its term to the disk, so it goes the way of all other requests; the
// ping is answered when raft has spoken.
func (g *Group) askLocked(l *link, seq uint64, e pingEntry) {
	f := &g.follows
	f.asked = askedPing{l, seq, e}
	if f.feeding {
		return
	}
	in := g.net.newInbound(g, l, typeFeed, 0)
	in.term = e.term
	in.rpc.Command = heartbeatFrom(l.peer, e.term)
	f.feeding = g.inbox.put(in) == nil
}

// heartbeatFrom is the request by which raft hears of its leader.
func heartbeatFrom(leader backend.ServerID, term uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: headerOf(leader), Term: term}
}

func headerOf(id backend.ServerID) raft.RPCHeader {
	addr := []byte(PeerAddress(id))
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: addr, Addr: addr}
}

// accepted notes that raft follows a peer in term, having processed a request of
// its, and campaigns no more.
func (g *Group) acceptedLocked(l *link, term uint64) {
	g.observeLocked(term)
	f := &g.follows
	if term < f.term || l.peer == g.net.opts.Self {
		return
	}
	f.leader, f.incarnation, f.term = l.peer, l.incarnation, term
	f.fed = g.net.now()
	g.stopCampaignLocked()
	if p := g.net.peer(l.peer); p != nil && p.isDead(l.incarnation) {
		g.leaderLostLocked() // raft was slow to answer
	}
}

// fed takes raft's answer to a ping that it was asked about.
func (g *Group) fed(in *inbound, resp *raft.AppendEntriesResponse) {
	g.mu.Lock()
	f := &g.follows
	f.feeding = false
	asked := f.asked
	f.asked = askedPing{}
	if resp != nil {
		if resp.Term <= in.term {
			g.acceptedLocked(in.link, in.term)
		} else {
			g.observeLocked(resp.Term)
		}
	}
	g.mu.Unlock()
	if asked.link == nil || resp == nil {
		return
	}
	e := g.pinged(asked.link, asked.seq, asked.entry)
	if e.code == statusPending {
		return // somebody else by now; the next ping will tell
	}
	b := endEntries(appendEntry(beginEntries(nil), e))
	asked.link.send(head{kind: typePong, id: asked.seq}, b)
}

// feedQueue bounds the groups whose raft is to be told that its leader lives. A
// group that finds it full is told upon a later ping.
const feedQueue = 4096

func (n *Net) queueFeed(g *Group) {
	select {
	case n.feeds <- g:
	default:
		g.mu.Lock()
		g.follows.feeding = false
		g.mu.Unlock()
	}
}

// feed tells rafts that their leaders live, by the fast path: on this goroutine
// instead of raft's, which may be waiting for the disk. It has its own goroutine
// as raft writes its term here too, if it was about to stand for election.
func (n *Net) feed() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case g := <-n.feeds:
			g.feedNow()
		}
	}
}

func (g *Group) feedNow() {
	g.mu.Lock()
	f := &g.follows
	leader, term := f.leader, f.term
	current := term == g.term && !g.leading.on && !g.shutUp
	g.mu.Unlock()
	var answer *raft.AppendEntriesResponse
	if fn := g.heartbeat.Load(); current && fn != nil {
		resp := make(chan raft.RPCResponse, 1)
		(*fn)(raft.RPC{Command: heartbeatFrom(leader, term), RespChan: resp})
		select {
		case r := <-resp:
			answer, _ = r.Response.(*raft.AppendEntriesResponse)
		default: // raft is shutting down, and says nothing
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.feeding = false
	if answer != nil {
		g.observeLocked(answer.Term)
	}
}
