package raftnet

import (
	"context"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// leading is what a group knows as a leader.
type leading struct {
	on   bool
	term uint64
	// since is when Lead was called: answers to earlier pings do not count.
	since instant
	// released: the lease was given up, and pings give promises back.
	released bool
	// alone: the only voter, whose lease needs nobody.
	alone bool
	// reported is the latest end of a lease that was ever told. Until then this
	// replica, which counts itself among those that promised, lets no vote through.
	reported instant
}

// Lead says that this replica leads in term: from now on pings ask the followers
// for promises, whose answers make the lease.
func (g *Group) Lead(term uint64) {
	g.mu.Lock()
	if g.shutUp {
		g.mu.Unlock()
		return
	}
	g.observeLocked(term)
	g.leading.on, g.leading.term, g.leading.released = true, term, false
	g.leading.since = g.net.now()
	g.stopCampaignLocked()
	for _, m := range g.mates {
		m.acked, m.asked, m.released, m.freed, m.urgent = 0, 0, 0, false, false
	}
	g.computeLeaseLocked()
	g.urgeLocked()
	g.mu.Unlock()
	g.net.kick(g.peers())
}

// Follow says that this replica does not lead (any more).
func (g *Group) Follow() {
	g.mu.Lock()
	g.leading.on = false
	g.dropLeaseLocked()
	g.mu.Unlock()
}

// LeaseUntil is when the lease ends, by the monotonic clock; zero for no lease.
// A read is good if it began and ended before that. Ask again at the end of the
// read rather than keep the time: Release and a newer term end a lease early.
func (g *Group) LeaseUntil() time.Time {
	until := instant(g.lease.Load())
	if until == 0 {
		return time.Time{}
	}
	if until == never {
		return g.aloneUntil()
	}
	return g.net.time(until)
}

// aloneUntil is the lease of a group of one voter: it renews itself.
func (g *Group) aloneUntil() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if instant(g.lease.Load()) != never {
		return time.Time{}
	}
	g.leading.reported = g.net.now().add(g.net.opts.Lease)
	return g.net.time(g.leading.reported)
}

// dropLeaseLocked ends the lease.
func (g *Group) dropLeaseLocked() {
	g.leading.alone = false
	g.lease.Store(0)
	g.changedLocked()
}

// computeLeaseLocked finds until when a majority has promised: each of them from
// when the ping that it answered was sent; this replica itself always.
func (g *Group) computeLeaseLocked() {
	d := &g.leading
	if !d.on || d.released || g.term != d.term || len(g.voters) == 0 || g.votes.inside > 0 {
		// With a vote inside, this replica may just be voting for another one.
		g.lease.Store(0)
		return
	}
	need := len(g.voters)/2 + 1
	if g.voting {
		need--
	}
	if need == 0 {
		d.alone = true
		g.lease.Store(int64(never))
		g.changedLocked()
		return
	}
	acks := make([]instant, 0, 8)
	for _, m := range g.mates {
		if m.acked > 0 && slices.Contains(g.voters, m.id) {
			acks = append(acks, m.acked)
		}
	}
	if len(acks) < need {
		g.lease.Store(0)
		return
	}
	slices.Sort(acks)
	until := acks[len(acks)-need].add(g.net.opts.Lease)
	if until != instant(g.lease.Load()) {
		g.lease.Store(int64(until))
		d.reported = max(d.reported, until)
		g.changedLocked()
	}
}

// urgeLocked makes the next ping to every voter, at once, speak of this group.
func (g *Group) urgeLocked() {
	for _, id := range g.voters {
		if id != g.net.opts.Self {
			g.mateLocked(id).urgent = true
		}
	}
}

// peers lists the other voters.
func (g *Group) peers() []backend.ServerID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.voters), func(id backend.ServerID) bool { return id == g.net.opts.Self })
}

// kick wakes the pingers of some peers.
func (n *Net) kick(ids []backend.ServerID) {
	for _, id := range ids {
		if p := n.peer(id); p != nil {
			poke(p.kick)
		}
	}
}

// awaitAgain is how long a ping asked for by AwaitLease may stay unanswered
// before another one is sent.
const awaitAgain = 5 * time.Millisecond

// AwaitLease pings at once if there is no lease and waits for one. It returns
// ErrNotLeader when this replica does not lead.
func (g *Group) AwaitLease(ctx context.Context) error {
	timer := time.NewTimer(g.net.opts.Ping)
	defer timer.Stop()
	for {
		g.mu.Lock()
		now := g.net.now()
		if instant(g.lease.Load()) > now {
			g.mu.Unlock()
			return nil
		}
		if d := &g.leading; !d.on || d.released || g.term != d.term {
			g.mu.Unlock()
			return backend.ErrNotLeader
		}
		var ask []backend.ServerID
		for _, id := range g.voters {
			if id == g.net.opts.Self {
				continue
			}
			if m := g.mateLocked(id); !m.urgent && (m.asked == 0 || now-m.asked > instant(awaitAgain)) {
				m.urgent = true
				ask = append(ask, id)
			}
		}
		changed := g.changed
		g.mu.Unlock()
		g.net.kick(ask)
		timer.Reset(g.net.opts.Ping)
		select {
		case <-changed:
		case <-timer.C:
		case <-g.closed:
			return backend.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// releaseWait bounds how long Release waits for followers that do not answer;
// what they promised runs out soon after anyway.
const releaseWait = 50 * time.Millisecond

// Release gives the lease up and frees the followers from their promises, before
// a leadership transfer; it waits a moment for them to say so. Lead takes the
// lease up again. TimeoutNow calls it, if nobody did before.
func (g *Group) Release(ctx context.Context) {
	g.mu.Lock()
	if d := &g.leading; !d.on || d.released {
		g.mu.Unlock()
		return
	}
	g.leading.released = true
	g.leading.reported = 0
	g.dropLeaseLocked()
	g.urgeLocked()
	g.mu.Unlock()
	g.passVotes()
	g.net.kick(g.peers())

	timer := time.NewTimer(releaseWait)
	defer timer.Stop()
	for {
		g.mu.Lock()
		open := 0
		for _, m := range g.mates {
			if !m.freed && slices.Contains(g.voters, m.id) {
				open++
			}
		}
		changed := g.changed
		g.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		case <-g.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}
