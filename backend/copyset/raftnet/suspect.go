package raftnet

import "time"

// isDead says whether that incarnation of the peer is known not to live.
func (p *peer) isDead(incarnation uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.incarnation != incarnation || p.dead
}

// Silence is counted by this process's own running time: a tick that comes late
// counts for tickMost pings, as nothing was read meanwhile either.
const tickMost = 2

// breakFactor times Suspect is the silence after which links are made anew.
const breakFactor = 4

// A peer that was heard again after a silence is slow, or the way to it is, and not
// dead. For slowMemory it is suspected after twice that silence only, at most slowFactor
// times Suspect: machines that are short of CPU would depose one leader after the other.
const (
	slowFactor = 3
	slowMemory = time.Minute
)

// spoke notes that the peer was heard after its silence.
func (p *peer) spoke(now instant) {
	if suspect := instant(p.net.opts.Suspect); p.silence >= suspect && p.silence < breakFactor*suspect {
		if now >= p.slowUntil {
			p.slow = 0
		}
		p.slow = max(p.slow, min(2*p.silence, slowFactor*suspect))
		p.slowUntil = now.add(slowMemory)
	}
}

// suspectAfter is the silence after which the peer is suspected.
func (p *peer) suspectAfter(now instant) instant {
	suspect := instant(p.net.opts.Suspect)
	if now < p.slowUntil {
		return max(suspect, p.slow)
	}
	return suspect
}

// watch looks at the peer's silence, at now and at last before it.
func (p *peer) watch(last, now instant) {
	n := p.net
	heard := instant(p.heard.Load())
	if heard != p.lastHeard || heard == 0 {
		p.spoke(now)
		p.lastHeard, p.silence = heard, min(now-heard, instant(n.opts.Ping))
		p.suspected.Store(false)
		return
	}
	p.silence += min(now-last, instant(tickMost*n.opts.Ping))
	silence := p.silence
	if silence < p.suspectAfter(now) {
		return
	}
	if p.suspected.CompareAndSwap(false, true) {
		n.stats.suspicions.Add(1)
		n.opts.Logger.Info("raft links: peer is silent", "peer", p.id, "for", time.Duration(silence))
	}
	for _, g := range *n.groups.Load() {
		g.leaderDied(p.id, 0)
		g.lost(p.id, false)
	}
	if silence > instant(breakFactor*n.opts.Suspect) {
		for _, l := range []*link{p.control.Load(), p.data.Load()} {
			if l != nil {
				l.close(errSilent)
			}
		}
	}
}
