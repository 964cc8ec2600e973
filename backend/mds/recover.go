package mds

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// scheduleEvery bounds how often heartbeats make the scheduler look: moving a
// replica takes far longer.
const scheduleEvery = 500 * time.Millisecond

// Copyset implements backend.Meta.
func (m *MDS) Copyset(ctx context.Context, id backend.CopysetID) (backend.Copyset, error) {
	if err := m.usable(ctx); err != nil {
		return backend.Copyset{}, err
	}
	if m.cluster != nil {
		if record, ok := m.cluster.known.Load().copyset(id); ok {
			return backend.Copyset{ID: id, Peers: slices.Clone(record.Peers)}, nil
		}
	}
	return backend.Copyset{}, fmt.Errorf("%w: no %v", backend.ErrNotFound, id)
}

// Copysets implements backend.Topology.
func (m *MDS) Copysets(ctx context.Context) ([]backend.CopysetInfo, error) {
	c, err := m.chunkservers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list copysets: %w", err)
	}
	known := c.known.Load()
	infos := make([]backend.CopysetInfo, len(known.copysets))
	err = m.store.View(ctx, func(tx Txn) (err error) {
		for i, record := range known.copysets {
			if infos[i].Chunks, err = getUse(tx, record.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list copysets: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, record := range known.copysets {
		describe(&infos[i], record, c.reports[record.ID])
	}
	return infos, nil
}

// describe fills info with what is stored and reported of a copyset.
func describe(info *backend.CopysetInfo, record copysetRecord, replicas map[backend.ServerID]*replicaView) {
	info.ID, info.Peers = record.ID, slices.Clone(record.Peers)
	info.Replicas = make(map[backend.ServerID]backend.ReplicaStatus, len(record.Peers))
	for _, p := range record.Peers {
		if r := replicas[p]; r != nil {
			status := r.status
			status.Voters, status.Learners = slices.Clone(status.Voters), slices.Clone(status.Learners)
			info.Replicas[p] = status
		} else {
			info.Replicas[p] = backend.ReplicaStatus{Copyset: record.ID, Voters: []backend.ServerID{p}}
		}
	}
	// A newer term that somebody has seen deposes the leader of an older one.
	for _, r := range replicas {
		if r.status.Term > info.Term || (r.status.Term == info.Term && info.Leader == 0) {
			info.Term, info.Leader = r.status.Term, r.status.Leader
		}
	}
	if leader := leaderOf(replicas); leader != nil && leader.status.Term == info.Term {
		info.Leader, info.Applied = leader.status.Leader, leader.status.Applied
	}
}

// CreateCopysets implements backend.Topology.
func (m *MDS) CreateCopysets(ctx context.Context, n, replicas int) error {
	c, err := m.chunkservers(ctx)
	if err != nil {
		return fmt.Errorf("create copysets: %w", err)
	}
	switch {
	case n < 1 || n > maxCopysets:
		return fmt.Errorf("%w: %d copysets: use 1 to %d", backend.ErrInvalid, n, maxCopysets)
	case replicas < 1 || replicas > maxReplicas:
		return fmt.Errorf("%w: %d replicas: use 1 to %d", backend.ErrInvalid, replicas, maxReplicas)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.createCopysets(ctx, n, replicas); err != nil {
		return fmt.Errorf("create copysets: %w", err)
	}
	return nil
}

// createCopysets makes copysets until there are n. Called with the lock held.
func (c *cluster) createCopysets(ctx context.Context, n, replicas int) error {
	known := c.known.Load()
	missing := n - len(known.copysets)
	if missing <= 0 {
		return nil
	}
	servers := eligible(known, c.states(known))
	if len(servers) < replicas {
		return fmt.Errorf("%w: %d replicas need as many chunkservers that are online and have space, found %d of %d: start more",
			backend.ErrInvalid, replicas, len(servers), len(known.servers))
	}
	first := backend.CopysetID(1)
	if len(known.copysets) > 0 {
		first = known.copysets[len(known.copysets)-1].ID + 1
	}
	records := make([]copysetRecord, missing)
	for i, peers := range newPlacer(servers, known.copysets, c.opts.ScatterWidth).place(missing, replicas) {
		records[i] = copysetRecord{ID: first + backend.CopysetID(i), Peers: peers, Generation: 1}
	}
	if err := c.save(ctx, nil, records); err != nil {
		return err
	}
	c.log.Info("copysets created", "copysets", missing, "replicas", replicas, "chunkservers", len(servers))
	return nil
}

// eligible are the servers that replicas may be placed on.
func eligible(known *topology, states map[backend.ServerID]serverHealth) []candidate {
	var servers []candidate
	for _, s := range known.servers {
		if h := states[s.ID]; h.state == backend.ServerOnline && !h.full {
			servers = append(servers, candidate{id: s.ID, zone: s.Zone})
		}
	}
	return servers
}

// schedule makes the first copysets, and moves replicas away from servers that
// are offline or retiring. It rides on heartbeats: without chunkservers there is
// nothing to schedule. A failure is told in the log, and tried again later.
func (c *cluster) schedule(ctx context.Context) {
	c.mu.Lock()
	now := c.now()
	due := c.planned.IsZero() || now.Sub(c.planned) >= scheduleEvery || len(c.known.Load().copysets) == 0
	if due {
		c.planned = now
	}
	c.mu.Unlock()
	if !due {
		return
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if err := c.runSchedule(ctx); err != nil && !isCtx(err) {
		c.log.Error("schedule copysets", "err", err)
	}
}

// runSchedule is schedule with the lock held.
func (c *cluster) runSchedule(ctx context.Context) error {
	known := c.known.Load()
	if len(known.copysets) == 0 {
		auto := c.opts.Auto
		online := len(eligible(known, c.states(known)))
		if auto.MinServers == 0 || online < max(auto.MinServers, auto.Replicas) {
			return nil
		}
		return c.createCopysets(ctx, min(cmp.Or(auto.Count, auto.PerServer*online), maxCopysets), auto.Replicas)
	}
	moves := c.planMoves(known)
	if len(moves) == 0 {
		return nil
	}
	changed := make([]copysetRecord, len(moves))
	for i, m := range moves {
		changed[i] = m.record.replace(m.out, m.in)
		c.log.Info("copyset moves to another chunkserver", "copyset", uint32(m.record.ID), "from", uint32(m.out), "to", uint32(m.in))
	}
	return c.save(ctx, nil, changed)
}

// move replaces one peer of a copyset.
type move struct {
	record  copysetRecord
	out, in backend.ServerID
}

// planMoves chooses the moves to begin now: at most one for each copyset, only
// where the last one is complete, and no more at a time than MaxMoves.
func (c *cluster) planMoves(known *topology) []move {
	states := c.states(known)
	leaving := slices.ContainsFunc(known.servers, func(s serverRecord) bool { return isLeaving(states[s.ID].state) })
	if !leaving {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := newPlacer(eligible(known, states), known.copysets, c.opts.ScatterWidth)
	var moves []move
	begin := func(record copysetRecord, out backend.ServerID) bool {
		in := p.successor(known, record.Peers, out)
		if in != nil {
			moves = append(moves, move{record: record, out: out, in: in.id})
			in.load++
		}
		return in != nil
	}
	moving := 0
	var ready []copysetRecord
	for _, record := range known.copysets {
		replicas := c.reports[record.ID]
		leader := leaderOf(replicas)
		if !record.Started || leader == nil || states[leader.status.Leader].state == backend.ServerOffline {
			// Founding replicas must all be told the same peers, and without a
			// leader nobody carries a move out.
			continue
		}
		ailing := func(id backend.ServerID) bool {
			r := replicas[id]
			return r != nil && r.status.State == backend.ReplicaDamaged && !isLeaving(states[id].state)
		}
		if settled(record, replicas) && !slices.ContainsFunc(record.Peers, ailing) {
			ready = append(ready, record)
			continue
		}
		moving++
		// A peer that left before it was taken in would be waited for in vain.
		left := func(id backend.ServerID) bool {
			return isLeaving(states[id].state) && !slices.Contains(leader.status.Voters, id)
		}
		if i := slices.IndexFunc(record.Peers, left); i >= 0 {
			begin(record, record.Peers[i])
		}
	}
	// What is offline has lost a replica: it goes before what is retiring.
	for _, gone := range []backend.ServerState{backend.ServerOffline, backend.ServerRetiring} {
		ready = slices.DeleteFunc(ready, func(record copysetRecord) bool {
			i := slices.IndexFunc(record.Peers, func(id backend.ServerID) bool { return states[id].state == gone })
			if i < 0 || moving >= c.opts.MaxMoves || !begin(record, record.Peers[i]) {
				return false
			}
			moving++
			return true
		})
	}
	return moves
}

func isLeaving(s backend.ServerState) bool {
	return s == backend.ServerOffline || s == backend.ServerRetiring
}

// successor returns the best server to take a peer's place, nil if there is none.
func (p *placer) successor(known *topology, peers []backend.ServerID, out backend.ServerID) *candidate {
	var stay []backend.ServerID
	var zones []string
	for _, id := range peers {
		if id == out {
			continue
		}
		s, _ := known.server(id)
		stay, zones = append(stay, id), append(zones, s.Zone)
	}
	// out itself is not among the servers to choose from.
	return p.pick(stay, zones)
}
