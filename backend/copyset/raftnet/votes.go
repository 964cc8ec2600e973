package raftnet

import (
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// votes is what a group knows of elections.
type votes struct {
	// birth is until when no vote goes through because an earlier life of this
	// replica may have promised.
	birth instant
	// inside is the RequestVotes that raft was given and has not answered.
	inside int
	held   []*inbound
	// granted is when raft last voted for another replica, in grantedTerm.
	granted     instant
	grantedTerm uint64
	// term is the one that raft last asked for votes in, of which lost were not
	// granted.
	term uint64
	lost int
}

// freeLocked is the instant from which on votes may go through, to raft and from
// it: asking for votes is voting for oneself.
func (g *Group) freeLocked() instant {
	return max(g.votes.birth, g.follows.promise.until, g.leading.reported)
}

var errHeldLong = errors.New("vote held back: a promise to the leader holds")

// vote takes a RequestVote: it goes to raft once no promise stands against it.
func (g *Group) vote(in *inbound) {
	g.mu.Lock()
	now := g.net.now()
	in.since = now
	if g.shutUp {
		g.mu.Unlock()
		in.refuse(errGroupClosed)
		return
	}
	if g.leading.alone {
		// The lease of one renews itself: end it, it counts until now + Lease.
		g.leading.reported = now.add(g.net.opts.Lease)
		g.dropLeaseLocked()
	}
	free := g.freeLocked()
	if now >= free {
		g.votes.inside++
		g.mu.Unlock()
		g.deliver(in)
		return
	}
	full := len(g.votes.held) == maxHeldVotes
	if !full {
		g.votes.held = append(g.votes.held, in)
		g.net.stats.heldVotes.Add(1)
	}
	g.mu.Unlock()
	if full {
		in.refuse(errHeldLong)
		return
	}
	g.net.clock.at(free, g)
}

// passVotes hands over the held votes whose time has come, and gives up those
// that nobody waits for any more.
func (g *Group) passVotes() {
	g.mu.Lock()
	now := g.net.now()
	free := g.freeLocked()
	var pass, drop []*inbound
	keep := g.votes.held[:0]
	for _, in := range g.votes.held {
		switch {
		case in.link.isClosed() || now-in.since >= instant(askTimeout):
			drop = append(drop, in)
		case now >= free:
			pass = append(pass, in)
		default:
			keep = append(keep, in)
		}
	}
	clear(g.votes.held[len(keep):])
	g.votes.held = keep
	g.votes.inside += len(pass)
	again := len(keep) > 0
	g.mu.Unlock()
	for _, in := range drop {
		in.refuse(errHeldLong)
	}
	for _, in := range pass {
		g.deliver(in)
	}
	if again {
		g.net.clock.at(free, g)
	}
}

// voteOut notes that raft has answered a vote, or never got it (nil).
func (g *Group) voteOut(in *inbound, granted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.votes.inside--
	now := g.net.now()
	if granted {
		g.observeLocked(in.term)
		g.votes.granted, g.votes.grantedTerm = now, in.term
	}
	g.computeLeaseLocked()
	if g.camp.on {
		g.net.clock.at(now, g) // it may have waited for this
	}
}

// awaitFree waits until a vote for oneself breaks no promise.
func (g *Group) awaitFree() error {
	for {
		g.mu.Lock()
		wait := g.freeLocked() - g.net.now()
		changed := g.changed
		g.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(time.Duration(wait))
		select {
		case <-timer.C:
		case <-changed:
		case <-g.closed:
			timer.Stop()
			return raft.ErrTransportShutdown
		}
		timer.Stop()
	}
}

// RequestVote implements raft.Transport.
func (g *Group) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	g.mu.Lock()
	g.observeLocked(args.Term)
	if g.votes.term != args.Term {
		g.votes.term, g.votes.lost = args.Term, 0
	}
	g.mu.Unlock()
	err := g.awaitFree()
	if err != nil {
		return err
	}
	c, err := g.control(ParsePeer(id), typeVote, voteTimeout, func(m *message) {
		m.q.arena = appendVote(m.q.arena, args.Term, args.LastLogIndex, args.LastLogTerm, args.LeadershipTransfer)
	})
	if err == nil {
		*resp = raft.RequestVoteResponse{RPCHeader: responseHeader, Term: c.term, Granted: c.granted}
		if c.granted {
			g.standsBy(ParsePeer(id), args.Term)
		}
	}
	if (err != nil || !c.granted) && g.electionLost(args.Term) && g.nobodyWon(args.Term) {
		// raft would sit out its election timeout as a candidate, deaf to another
		// TimeoutNow. A newer term, which nobody has voted in, makes it a follower
		// that can stand again at once.
		*resp = raft.RequestVoteResponse{RPCHeader: responseHeader, Term: max(c.termOr(0), args.Term+1)}
		return nil
	}
	return err
}

// standsBy notes a vote for this replica.
func (g *Group) standsBy(id backend.ServerID, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.mateLocked(id)
	m.stands = max(m.stands, term)
}

// electionLost counts a vote that was not granted, and says whether that was the
// one which lost an election that was held because the leader had died.
func (g *Group) electionLost(term uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.camp.on || g.votes.term != term {
		return false
	}
	g.votes.lost++
	return g.votes.lost == len(g.voters)-len(g.voters)/2
}

// nobodyWon waits for whoever may have won the election of term to say so. False
// when somebody did: a newer term would depose it.
func (g *Group) nobodyWon(term uint64) bool {
	g.mu.Lock()
	leave := g.camp.afterVote()
	g.mu.Unlock()
	timer := time.NewTimer(leave/2 + jitter(leave/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.closed:
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.camp.on || g.term > term {
		return false
	}
	g.camp.due = g.net.now().add(campaignStagger/4 + time.Duration(g.rankLocked())*g.camp.pace() + jitter(g.camp.pace()))
	g.net.clock.at(g.camp.due, g)
	return true
}

func (c *call) termOr(none uint64) uint64 {
	if c == nil {
		return none
	}
	return c.term
}

// RequestPreVote implements raft.WithPreVote. A raft that stands by its own timers
// is deaf to a TimeoutNow, so in a campaign it takes its turns with its pre-vote,
// again and again.
func (g *Group) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	g.adjustPatience() // for raft's next try
	q := g.question(ParsePeer(id), args.Term)
	for {
		if err := g.awaitTurn(q); err != nil {
			return err
		}
		c, err := g.control(q.mate.id, typePreVote, voteTimeout, func(m *message) {
			m.q.arena = appendVote(m.q.arena, args.Term, args.LastLogIndex, args.LastLogTerm, false)
		})
		switch {
		case err == nil && (c.granted || c.term > args.Term):
			*resp = raft.RequestPreVoteResponse{RPCHeader: responseHeader, Term: c.term, Granted: c.granted}
			return nil
		case q.turn > 0:
		case err != nil:
			return err
		default:
			*resp = raft.RequestPreVoteResponse{RPCHeader: responseHeader, Term: c.term}
			return nil
		}
	}
}

// question is a pre-vote for term that a mate is to answer.
type question struct {
	mate *mate
	term uint64
	// turn is the campaign's last one that it knows of, 0 where there can be no
	// campaign; waiting, that it waits for the next one.
	turn    uint64
	waiting bool
}

func (g *Group) question(to backend.ServerID, term uint64) *question {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := &question{mate: g.mateLocked(to), term: term}
	q.mate.preVote = q
	if !g.camp.on {
		g.beginLocked(false)
	}
	if g.camp.on {
		q.turn = g.turn
	}
	return q
}

var errNoPreVote = errors.New("pre-vote given up: there is a newer one, or a newer term, or a leader")

// awaitTurn waits until it is this replica's turn in the campaign, if there is one.
func (g *Group) awaitTurn(q *question) error {
	for q.turn > 0 {
		g.mu.Lock()
		turned := g.turned
		over := !g.camp.on || !g.currentLocked(q)
		q.waiting = !over && g.turn == q.turn
		wait := q.waiting
		q.turn = g.turn
		g.mu.Unlock()
		switch {
		case over:
			return errNoPreVote
		case !wait:
			return nil
		}
		select {
		case <-turned:
		case <-g.closed:
			return raft.ErrTransportShutdown
		}
	}
	return nil
}

// currentLocked says whether raft still cares for a pre-vote, as far as known here.
func (g *Group) currentLocked(q *question) bool { return q.mate.preVote == q && q.term > g.term }

// standingLocked says whether raft stands already, by its own timers, and waits for
// the campaign's turn.
func (g *Group) standingLocked() bool {
	return slices.ContainsFunc(g.mates, func(m *mate) bool {
		return m.preVote != nil && m.preVote.waiting && g.currentLocked(m.preVote)
	})
}
