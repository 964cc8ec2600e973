package raftlog_test

import (
	"bytes"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
)

// pick prefers some groups, so that others idle and pin old segments.
func (p *powerCuts) pick() (backend.CopysetID, *raftlog.Group) {
	id := backend.CopysetID([]int{1, 1, 1, 1, 1, 1, 2, 2, 3, 4}[p.rng.IntN(10)])
	return id, p.groups[id]
}

// step does one random thing.
func (p *powerCuts) step() error {
	id, g := p.pick()
	ref := p.now().of(id)
	defer p.did()
	switch n := p.rng.IntN(100); {
	case p.floods && n%2 == 0 && !ref.empty():
		return p.flood(id, g, ref)
	case n < 40:
		return p.append(id, g, ref.last+1)
	case n < 52 && !ref.empty():
		return p.conflict(id, g, ref)
	case n < 67 && !ref.empty():
		return p.compact(id, g, ref)
	case n < 78:
		return p.set(id, g)
	case n < 80 && !(ref.empty() && len(ref.stable) == 0): // else nothing is written
		p.note("delete %d", id)
		p.will(id, func(r *reference) { *r = *newReference() })
		err := g.Delete()
		p.did()
		p.durable(p.point())
		return err
	case n < 86 && !ref.empty():
		p.note("wait %d", id)
		point := p.point()
		if err := g.WaitDurable(ref.last); err != nil {
			return fmt.Errorf("wait for %d: %w", ref.last, err)
		}
		// The group's truncations may be younger than its last entry.
		p.durable(p.lastEntry(id, ref, point))
	case n < 92:
		p.note("after %d", id)
		point := p.lastOf(id)
		g.AfterDurable(func() { p.durable(point) })
	case n < 95 && !ref.empty():
		return p.flood(id, g, ref)
	case n < 97:
		return p.kill()
	case n < 99:
		return p.reopen()
	}
	return p.failure()
}

// lastOf is the point at which the group changed last.
func (p *powerCuts) lastOf(id backend.CopysetID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := len(p.history) - 1
	for ; i > 0 && p.history[i-1][id] == p.history[i][id]; i-- {
	}
	return p.passed + i
}

// lastEntry is the point at which the group's last entry was stored.
func (p *powerCuts) lastEntry(id backend.CopysetID, ref *reference, point int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := point - p.passed
	for ; i > 0; i-- {
		before, ok := p.history[i-1].of(id).entries[ref.last]
		if !ok || !sameEntry(before, ref.entries[ref.last]) {
			break
		}
	}
	return p.passed + max(0, i)
}

func (p *powerCuts) note(format string, args ...any) {
	p.trace = append(p.trace, fmt.Sprintf(format, args...))
}

func (p *powerCuts) append(id backend.CopysetID, g *raftlog.Group, next uint64) error {
	if next == 1 {
		next += p.rng.Uint64N(50)
	}
	var logs []*raft.Log
	for i := range 1 + p.rng.Uint64N(4) {
		data := bytes.Repeat([]byte{byte(p.term), byte(p.rng.Uint32())}, p.rng.IntN(1<<[]int{3, 8, 11, 12}[p.rng.IntN(4)]))
		log := &raft.Log{Index: next + i, Term: p.term, Type: raft.LogCommand, Data: data, AppendedAt: time.Unix(int64(next), 0)}
		logs = append(logs, log)
		p.will(id, func(r *reference) { r.store([]*raft.Log{log}) })
	}
	p.note("append %d: %d to %d", id, next, logs[len(logs)-1].Index)
	err := g.StoreLogs(logs)
	p.did()
	p.blocked()
	return err
}

// flood drops most of a group and fills more than a segment without waiting.
func (p *powerCuts) flood(id backend.CopysetID, g *raftlog.Group, ref *reference) error {
	if err := p.compact(id, g, ref); err != nil {
		return err
	}
	for next := ref.last + 1; next < ref.last+25; next++ {
		log := &raft.Log{Index: next, Term: p.term, Data: bytes.Repeat([]byte{byte(next)}, 4000)}
		p.will(id, func(r *reference) { r.store([]*raft.Log{log}) })
		if err := g.StoreLog(log); err != nil {
			return err
		}
		p.did()
		p.blocked()
	}
	return p.compact(id, g, p.now().of(id))
}

// blocked notes what follows from a call's return in Blocking mode.
func (p *powerCuts) blocked() {
	if p.opts.Blocking {
		p.durable(p.point())
	}
}

func (p *powerCuts) conflict(id backend.CopysetID, g *raftlog.Group, ref *reference) error {
	p.mu.Lock()
	p.term++ // power cuts look at it
	p.mu.Unlock()
	from := ref.first + p.rng.Uint64N(ref.last-ref.first+1)
	p.will(id, func(r *reference) { r.dropSuffix(from) })
	p.note("conflict %d: from %d", id, from)
	if p.rng.IntN(2) == 0 {
		if err := g.DeleteRange(from, ref.last); err != nil {
			return err
		}
		p.blocked()
	}
	return p.append(id, g, from)
}

func (p *powerCuts) compact(id backend.CopysetID, g *raftlog.Group, ref *reference) error {
	to := ref.last - min(ref.last-ref.first, p.rng.Uint64N(4))
	p.note("compact %d: to %d", id, to)
	p.will(id, func(r *reference) { r.dropPrefix(to) })
	err := g.DeleteRange(ref.first, to)
	p.did()
	p.blocked()
	return err
}

func (p *powerCuts) set(id backend.CopysetID, g *raftlog.Group) error {
	p.note("set %d", id)
	var pairs []raftlog.Pair
	for range 1 + p.rng.IntN(3) {
		pair := raftlog.Pair{Key: stableKeys[p.rng.IntN(len(stableKeys))], Val: []byte(fmt.Sprint(p.rng.Uint32()))}
		pairs = append(pairs, pair)
		p.will(id, func(r *reference) { r.stable[pair.Key] = pair.Val })
	}
	err := g.SetAll(pairs...)
	p.did()
	p.durable(p.point())
	return err
}

// kill ends the process and starts the next one: what that one finds is durable.
func (p *powerCuts) kill() error {
	p.note("kill")
	old := p.log
	p.fs = p.fs.Kill()
	p.mu.Lock()
	p.groups = nil // while there is no log, it promises nothing
	p.mu.Unlock()
	_ = old.Close() // on a dead machine: only ends its goroutines
	p.hook()
	if err := p.open(); err != nil {
		return err
	}
	found, err := p.adopt()
	if err != nil {
		return fmt.Errorf("after a kill: %w", err)
	}
	p.settle(found)
	return nil
}

func (p *powerCuts) reopen() error {
	p.note("close and open")
	if err := p.log.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	p.durable(p.point())
	if err := p.open(); err != nil {
		return err
	}
	p.settle(p.now())
	return nil
}
