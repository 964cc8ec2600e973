package raftnet

import (
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// campaign is a group's search for a leader.
type campaign struct {
	on bool
	// lost: the leader is known to be lost. Otherwise raft began, by its own timers, and
	// there may be a leader that it does not hear: only its pre-votes have turns.
	lost bool
	// term is the last leader's; one accepted in a newer term ends the campaign.
	term uint64
	due  instant
	// step is the pace of the first try.
	step time.Duration
	// tries is how often this replica stood and did not win, and something of that for
	// the next campaign if it comes soon.
	tries int
}

const (
	// campaignStagger is how long each voter waits for the one before it, at first and
	// at least: on a slow disk as long as campaignSyncs syncs, which is what a vote's
	// two take where others are queued before them.
	campaignStagger = 40 * time.Millisecond
	campaignSyncs   = 4
	// campaignMax bounds the growth of that with each try, stepMax that with the disk.
	campaignMax = 4 * time.Second
	stepMax     = 15 * time.Second
	// campaignAgain is the time between two tries, up to two thirds more, and
	// campaignAfterVote what is left to the one that was voted for, unless the pace is slower.
	campaignAgain     = 150 * time.Millisecond
	campaignAfterVote = 120 * time.Millisecond
	// campaignMemory is how long it counts how hard the last campaign was.
	campaignMemory = 10 * time.Second
	// campaignPatience is for how many paces votes are waited for, patienceMax for how
	// long at most: a candidate that lost its election does not hear for so long that it
	// should stand again.
	campaignPatience = 8
	patienceMax      = 30 * time.Second
)

// pace is by how much candidates keep out of each other's way. It doubles with each try:
// where a vote takes longer than that to be stored and to arrive, everybody has voted for
// himself before he hears of the others, in one term after the other.
func (c *campaign) pace() time.Duration {
	return max(c.step, min(c.step<<min(c.tries, 10), campaignMax))
}

// step is the pace of a first try.
func (g *Group) step() time.Duration {
	if g.gate == nil {
		return campaignStagger
	}
	return min(max(campaignStagger, campaignSyncs*g.gate.SyncTime()), stepMax)
}

// afterVote is what is left to the one that was voted for.
func (c *campaign) afterVote() time.Duration { return max(campaignAfterVote, c.pace()) }

// died is told that an incarnation of a peer does not live any more.
func (n *Net) died(p *peer, incarnation uint64, why string) {
	n.stats.deaths.Add(1)
	n.opts.Logger.Info("raft links: peer is dead", "peer", p.id, "why", why)
	for _, g := range *n.groups.Load() {
		g.leaderDied(p.id, incarnation)
	}
}

// leaderDied frees what was promised to a process that is gone, and stands for
// election where it led. Incarnation 0 is one that is only suspected: what it was
// promised holds.
func (g *Group) leaderDied(id backend.ServerID, incarnation uint64) {
	g.mu.Lock()
	f := &g.follows
	freed := incarnation != 0 && f.promise.to == id && f.promise.incarnation == incarnation && f.promise.until != 0
	if freed {
		f.promise.until = 0
		g.changedLocked()
	}
	if f.leader == id && (incarnation == 0 || f.incarnation == incarnation) {
		g.leaderLostLocked()
	}
	g.mu.Unlock()
	if freed {
		g.passVotes()
	}
}

// leaderLostLocked begins a campaign against the leader last accepted.
func (g *Group) leaderLostLocked() {
	if g.camp.on && g.camp.lost || g.leading.term > g.follows.term {
		return // the last leader was this one: the others campaign
	}
	g.beginLocked(true)
}

// beginLocked begins a campaign.
func (g *Group) beginLocked(lost bool) {
	if !g.voting || g.leading.on || g.shutUp {
		return
	}
	now := g.net.now()
	next := campaign{on: true, lost: lost, term: g.follows.term, step: g.step()}
	if g.camp.tries > 0 && now < g.camp.due.add(campaignMemory) {
		next.tries = g.camp.tries - 1
	}
	next.due = now.add(time.Duration(g.rankLocked()) * next.pace())
	g.camp = next
	g.net.clock.at(g.camp.due, g)
}

// rankLocked is this replica's place in the order in which the voters stand. It
// differs from group to group, so that a dead server's groups spread.
func (g *Group) rankLocked() int {
	weigh := func(id backend.ServerID) uint64 {
		var b [12]byte
		binary.BigEndian.PutUint32(b[:], uint32(g.id))
		binary.BigEndian.PutUint32(b[4:], uint32(g.follows.leader))
		binary.BigEndian.PutUint32(b[8:], uint32(id))
		h := fnv.New64a()
		h.Write(b[:])
		return h.Sum64()
	}
	rank, mine := 0, weigh(g.net.opts.Self)
	for _, id := range g.voters {
		if id != g.follows.leader && weigh(id) < mine {
			rank++
		}
	}
	return rank
}

// stand makes raft stand for election, if that is due and of any use.
func (g *Group) stand() {
	g.mu.Lock()
	c, now := &g.camp, g.net.now()
	if !c.on || g.leading.on || g.shutUp || g.follows.term > c.term {
		g.stopCampaignLocked()
		g.mu.Unlock()
		return
	}
	if now >= c.due {
		switch {
		case g.votes.inside > 0: // it may just be voting for another one
			g.mu.Unlock()
			return // voteOut comes here again
		case g.votes.grantedTerm > c.term && now-g.votes.granted < instant(c.afterVote()):
			c.due = g.votes.granted.add(c.afterVote() + jitter(c.pace()))
		case now < g.freeLocked():
			c.due = g.freeLocked()
		case !g.majorityHeardLocked(now):
			// Standing would only drive the term up, and depose the others' leader
			// once they are back.
			c.due = now.add(campaignAgain)
		case !g.takeTurnLocked():
			c.due = now.add(campaignAgain)
		default:
			c.tries++
			pause := max(campaignAgain, c.pace())
			c.due = now.add(pause + jitter(pause*2/3))
		}
	}
	due := c.due
	g.mu.Unlock()
	g.net.clock.at(due, g)
}

// takeTurnLocked makes raft stand, if it may, and says whether it did.
func (g *Group) takeTurnLocked() bool {
	if g.camp.lost {
		g.net.stats.campaigns.Add(1)
	}
	switch {
	case g.standingLocked():
		g.turnLocked()
	case g.camp.lost:
		g.injectLocked()
	default:
		return false // raft does not stand any more, or not yet again
	}
	return true
}

// injectLocked makes raft stand at once.
func (g *Group) injectLocked() {
	in := g.net.newInbound(g, nil, typeTimeoutNow, 0)
	in.rpc.Command = &raft.TimeoutNowRequest{RPCHeader: headerOf(g.net.opts.Self)}
	if g.inbox.put(in) != nil {
		in.free()
	}
}

// turnLocked lets the pre-votes go that wait for this replica's turn.
func (g *Group) turnLocked() {
	g.turn++
	close(g.turned)
	g.turned = make(chan struct{})
}

func (g *Group) stopCampaignLocked() {
	if g.camp.on {
		g.camp.on = false
		g.turnLocked()
	}
}

// OnPatience has fn told for how long raft's next election should wait for votes at
// least. fn must not block, nor call the Group. To be called before the group has a
// leader.
func (g *Group) OnPatience(fn func(time.Duration)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.patient = fn
}

// adjustPatience tells raft how long to wait for votes, by how slow the disk is and
// by how hard this campaign is, or was the last one.
func (g *Group) adjustPatience() {
	want := g.step()
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &g.camp
	if end := c.due.add(campaignMemory); c.on || c.tries > 0 && g.net.now() < end {
		want = min(campaignPatience*c.pace(), patienceMax)
		if !c.on {
			g.net.clock.at(end, g)
		}
	}
	if want != g.patience && !g.shutUp {
		g.patience = want
		g.patient(want)
	}
}

func jitter(d time.Duration) time.Duration { return rand.N(d) }

// majorityHeardLocked says whether enough voters are in reach to elect anyone.
func (g *Group) majorityHeardLocked(now instant) bool {
	heard := 1 // this one
	for _, id := range g.voters {
		if p := g.net.peer(id); p != nil && p.control.Load() != nil && now-instant(p.heard.Load()) < instant(g.net.opts.Suspect) {
			heard++
		}
	}
	return heard > len(g.voters)/2
}
