package raftnet

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// ping runs one peer's pings: a full one every Options.Ping, and one with the
// urgent groups alone when kicked. It also watches the peer's silence.
func (p *peer) ping() {
	n := p.net
	ticker := time.NewTicker(n.opts.Ping)
	defer ticker.Stop()
	var scratch []byte
	last := n.now()
	for {
		full := false
		select {
		case <-n.ctx.Done():
			return
		case <-p.kick:
		case <-ticker.C:
			full = true
		}
		if full {
			now := n.now()
			p.watch(last, now)
			last = now
		}
		if l := p.control.Load(); l != nil {
			scratch = p.sendPing(l, full, scratch)
		}
	}
}

// sendPing composes one ping and queues it.
func (p *peer) sendPing(l *link, full bool, b []byte) []byte {
	n := p.net
	seq := p.seq.Add(1)
	// The sending time comes first: what is promised in answer began after it.
	now := n.now()
	p.mu.Lock()
	p.sent[seq%pingsKept] = sentPing{seq, now}
	p.mu.Unlock()
	b = beginEntries(b)
	count := 0
	for _, g := range *n.groups.Load() {
		if count == maxPingEntries {
			break
		}
		if e, ok := g.pingEntry(p.id, seq, now, full); ok {
			b = appendEntry(b, e)
			count++
		}
	}
	if full || count > 0 {
		n.stats.pings.Add(1)
		l.send(head{kind: typePing, id: seq}, endEntries(b))
	}
	return b
}

// pingEntry is what a ping to a peer says of the group, if anything.
func (g *Group) pingEntry(to backend.ServerID, seq uint64, now instant, full bool) (pingEntry, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := &g.leading
	voter := d.on && slices.Contains(g.voters, to)
	if !voter && len(g.mates) == 0 {
		return pingEntry{}, false
	}
	m := g.mateLocked(to)
	if !full && !m.urgent || !voter && len(m.waiters) == 0 {
		return pingEntry{}, false
	}
	m.urgent = false
	e := pingEntry{copyset: g.id}
	if d.on {
		e.term = d.term
	}
	for _, w := range m.waiters {
		e.term = max(e.term, w.term)
	}
	switch {
	case !voter || e.term != d.term:
	case d.released:
		e.code = flagRelease
		if m.released == 0 {
			m.released = seq
		}
	case g.term == d.term:
		e.code = flagPromise
		m.asked = now
	}
	return e, true
}

// onPong takes the answers to a ping.
func (p *peer) onPong(seq uint64, body []byte) error {
	list, err := decodeEntries(body, validStatus)
	if err != nil {
		return err
	}
	p.mu.Lock()
	sent := p.sent[seq%pingsKept]
	p.mu.Unlock()
	if sent.seq != seq {
		return nil // too old, or never sent
	}
	groups := *p.net.groups.Load()
	for i := range list.len() {
		e := list.at(i)
		if g := groups[e.copyset]; g != nil {
			g.pong(p.id, sent, e)
		}
	}
	return nil
}

// pong takes one group's answer to a ping.
func (g *Group) pong(from backend.ServerID, ping sentPing, e pingEntry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.mateLocked(from)
	d := &g.leading
	if e.code == statusPromised && d.on && !d.released && e.term == d.term && ping.at >= d.since && ping.at > m.acked {
		m.acked = ping.at
		g.computeLeaseLocked()
	}
	if d.released && m.released != 0 && ping.seq >= m.released && !m.freed {
		m.freed = true
		g.changedLocked()
	}
	switch {
	case e.code == statusOK || e.code == statusPromised:
		m.stands = max(m.stands, e.term)
	case e.code == statusUnknown || e.code == statusRefused && e.term > m.stands:
		m.stands = 0
	}
	if len(m.waiters) > 0 {
		g.answerBeatsLocked(m, ping.seq, e)
	}
}

// beat is a heartbeat of raft's that waits for the answer to a ping sent after it.
type beat struct {
	term uint64
	need uint64 // the ping's sequence number, at least
	at   instant
	done chan error
	resp *raft.AppendEntriesResponse
}

// isHeartbeat is the test by which raft's own transport knows heartbeats.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.Term != 0 && len(a.Addr) > 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 &&
		len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// beat tells raft that a voter is in contact: at once while it stands by this leader and
// is not suspected, as is known anyway; otherwise upon the next ping's answer. So raft's
// leader gives up its lease's time after a majority is suspected, or follows others, and
// not because answers took that long on a machine short of CPU. (Nothing else follows
// from a heartbeat: reads stand on leases of this package, commits on entries.)
func (g *Group) beat(to backend.ServerID, a *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	p, err := g.net.known(to)
	if err != nil {
		return err
	}
	g.mu.Lock()
	if g.shutUp {
		g.mu.Unlock()
		return raft.ErrTransportShutdown
	}
	m := g.mateLocked(to)
	if m.stands == a.Term && slices.Contains(g.voters, to) && p.control.Load() != nil {
		g.mu.Unlock()
		*resp = raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: a.Term, Success: true}
		return nil
	}
	w := &beat{term: a.Term, need: p.seq.Load() + 1, at: g.net.now(), done: make(chan error, 1), resp: resp}
	m.waiters = append(m.waiters, w)
	if p.control.Load() == nil { // looked at after the waiter is in: see controlLost
		m.waiters = slices.DeleteFunc(m.waiters, func(x *beat) bool { return x == w })
		g.mu.Unlock()
		return fmt.Errorf("%w: no link to %v", backend.ErrUnreachable, to)
	}
	g.mu.Unlock()
	return <-w.done
}

// answerBeatsLocked completes the heartbeats that an answer is for.
func (g *Group) answerBeatsLocked(m *mate, seq uint64, e pingEntry) {
	now := g.net.now()
	m.waiters = slices.DeleteFunc(m.waiters, func(w *beat) bool {
		switch {
		case w.need > seq:
			return false
		case e.code == statusUnknown:
			w.done <- fmt.Errorf("%w: %v is not on %v", backend.ErrNoCopyset, g.id, m.id)
		case e.code == statusPending:
			if now-w.at < instant(askTimeout) {
				return false
			}
			w.done <- fmt.Errorf("%w: raft of %v on %v does not say whom it follows", backend.ErrUnreachable, g.id, m.id)
		case e.code == statusRefused:
			*w.resp = raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: e.term}
			w.done <- nil
		default:
			*w.resp = raft.AppendEntriesResponse{RPCHeader: responseHeader, Term: e.term, Success: e.term == w.term}
			w.done <- nil
		}
		return true
	})
}

// controlLost fails what waited for pings' answers, and drops what the peer had
// promised: it may take a broken link for death.
func (p *peer) controlLost() {
	for _, g := range *p.net.groups.Load() {
		g.lost(p.id, true)
	}
}

// lost fails the heartbeats that wait for a peer.
func (g *Group) lost(id backend.ServerID, promises bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.mates {
		if m.id != id {
			continue
		}
		for _, w := range m.waiters {
			w.done <- fmt.Errorf("%w: %v does not answer pings", backend.ErrUnreachable, id)
		}
		m.waiters, m.stands = nil, 0
		if promises && m.acked != 0 {
			m.acked = 0
			g.computeLeaseLocked()
		}
	}
}
