package mds

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// maxTroubleSize, in bytes, is where words about trouble are cut: a server that
	// has much to say must still be heard.
	maxTroubleSize = 1024
	// maxMembers bounds the voters, and the learners, that a report may name: a
	// configuration in change has a few more than maxReplicas.
	maxMembers = 2 * maxReplicas
)

// liveServer is what was last heard of a chunkserver. Kept in memory: after a
// restart of the MDS the next heartbeats say it all again.
type liveServer struct {
	heard      time.Time
	used, free int64
	trouble    string
	draining   bool
	copysets   []backend.CopysetID // of its last report
	leads      int
	beat       uint64 // of its last heartbeat; 0 before the first
}

// reported says whether the server has told its space, not only registered.
func (l *liveServer) reported() bool { return l.beat != 0 && (l.used != 0 || l.free != 0) }

// serverHealth is what placement wants to know of a server.
type serverHealth struct {
	state backend.ServerState
	full  bool
}

// hear notes a sign of life. Called with mu held.
func (c *cluster) hear(id backend.ServerID) *liveServer {
	l := c.live[id]
	if l == nil {
		l = new(liveServer)
		c.live[id] = l
	}
	l.heard = c.now()
	return l
}

// alive says whether a server is at work now, as far as the MDS knows.
func (c *cluster) alive(id backend.ServerID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.live[id]
	return l != nil && !l.draining && c.now().Sub(l.heard) < c.opts.UnstableAfter
}

// state computes a server's state from how long it has been silent; l is nil for
// one not heard of since the MDS began. Called with mu held.
func (c *cluster) state(s serverRecord, l *liveServer, now time.Time) backend.ServerState {
	heard := c.start
	if l != nil {
		heard = l.heard
	}
	silent := now.Sub(heard)
	switch {
	case silent >= c.opts.OfflineAfter:
		return backend.ServerOffline
	case s.Retiring:
		return backend.ServerRetiring
	case l == nil || silent >= c.opts.UnstableAfter || l.draining || l.trouble != "":
		return backend.ServerUnstable
	}
	return backend.ServerOnline
}

// info describes a server. Called with mu held.
func (c *cluster) info(s serverRecord, l *liveServer, now time.Time) backend.ServerInfo {
	i := backend.ServerInfo{
		ID: s.ID, UUID: s.UUID, Address: s.Address, PeerAddress: s.PeerAddress, Zone: s.Zone, PID: s.PID,
		State: c.state(s, l, now),
	}
	if l != nil {
		i.UsedBytes, i.FreeBytes, i.Trouble = l.used, l.free, l.trouble
		i.Copysets, i.Leaders = len(l.copysets), l.leads
	}
	return i
}

// states returns the health of every server.
func (c *cluster) states(known *topology) map[backend.ServerID]serverHealth {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	states := make(map[backend.ServerID]serverHealth, len(known.servers))
	for _, s := range known.servers {
		l := c.live[s.ID]
		states[s.ID] = serverHealth{
			state: c.state(s, l, now),
			full:  l != nil && l.reported() && l.free < c.opts.MinFree,
		}
	}
	return states
}

// Heartbeat implements backend.Topology.
func (m *MDS) Heartbeat(ctx context.Context, r backend.Report) (backend.Orders, error) {
	c, err := m.chunkservers(ctx)
	var orders backend.Orders
	if err == nil {
		orders, err = c.heartbeat(ctx, r)
	}
	if err != nil {
		return backend.Orders{}, fmt.Errorf("heartbeat of %s: %w", r.Server, err)
	}
	return orders, nil
}

func (c *cluster) heartbeat(ctx context.Context, r backend.Report) (backend.Orders, error) {
	if err := checkReport(&r); err != nil {
		return backend.Orders{}, err
	}
	known := c.known.Load()
	s, ok := known.server(r.Server)
	if !ok || s.UUID != r.UUID {
		return backend.Orders{}, fmt.Errorf("%w: no chunkserver has this id and uuid: register again", backend.ErrNotFound)
	}
	c.note(known, &r)
	if err := c.markStarted(ctx, &r); err != nil {
		return backend.Orders{}, err
	}
	c.schedule(ctx)
	known = c.known.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	return backend.Orders{Servers: c.addressBook(known), Replicas: c.ordersFor(known, r.Server)}, nil
}

// checkReport bounds what is remembered of a report.
func checkReport(r *backend.Report) error {
	switch {
	case r.Server == 0:
		return fmt.Errorf("%w: no chunkserver id: register first", backend.ErrInvalid)
	case r.UsedBytes < 0 || r.FreeBytes < 0:
		return fmt.Errorf("%w: %d bytes used, %d free", backend.ErrInvalid, r.UsedBytes, r.FreeBytes)
	case len(r.Replicas) > maxCopysets:
		return fmt.Errorf("%w: %d replicas: at most %d", backend.ErrInvalid, len(r.Replicas), maxCopysets)
	}
	seen := make(map[backend.CopysetID]struct{}, len(r.Replicas))
	for _, s := range r.Replicas {
		if _, twice := seen[s.Copyset]; twice || s.Copyset == 0 {
			return fmt.Errorf("%w: %s reported twice, or 0", backend.ErrInvalid, s.Copyset)
		}
		seen[s.Copyset] = struct{}{}
		switch s.State {
		case backend.ReplicaOK, backend.ReplicaCatchingUp, backend.ReplicaDamaged:
		default:
			return fmt.Errorf("%w: %s is in state %.80q", backend.ErrInvalid, s.Copyset, s.State)
		}
		if len(s.Voters) > maxMembers || len(s.Learners) > maxMembers {
			return fmt.Errorf("%w: %s has %d voters and %d learners: at most %d of each", backend.ErrInvalid, s.Copyset, len(s.Voters), len(s.Learners), maxMembers)
		}
	}
	return nil
}

// note remembers a report.
func (c *cluster) note(known *topology, r *backend.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.hear(r.Server)
	c.beat++
	before := l.beat
	l.beat = c.beat
	l.used, l.free, l.draining = r.UsedBytes, r.FreeBytes, r.Draining
	l.trouble = strings.ToValidUTF8(r.Trouble[:min(len(r.Trouble), maxTroubleSize)], "")
	l.leads = 0

	// Replicas that are not in the report are gone.
	old := make(map[backend.CopysetID]*replicaView, len(l.copysets))
	for _, id := range l.copysets {
		old[id] = c.reports[id][r.Server]
		delete(c.reports[id], r.Server)
		if len(c.reports[id]) == 0 {
			delete(c.reports, id)
		}
	}
	l.copysets = l.copysets[:0]
	for _, status := range r.Replicas {
		status.Voters, status.Learners = slices.Clone(status.Voters), slices.Clone(status.Learners)
		l.copysets = append(l.copysets, status.Copyset)
		if status.Leader == r.Server {
			l.leads++
		}
		view := &replicaView{status: status, beat: c.beat, before: before}
		if record, ok := known.copyset(status.Copyset); ok {
			view.judge(record, r.Server, old[status.Copyset])
		}
		if c.reports[status.Copyset] == nil {
			c.reports[status.Copyset] = map[backend.ServerID]*replicaView{}
		}
		c.reports[status.Copyset][r.Server] = view
	}
}

// markStarted notes for good which of the reported copysets have a leader.
func (c *cluster) markStarted(ctx context.Context, r *backend.Report) error {
	fresh := func(known *topology) []copysetRecord {
		var started []copysetRecord
		for _, status := range r.Replicas {
			if record, ok := known.copyset(status.Copyset); ok && !record.Started && status.Leader != 0 {
				record.Started = true
				started = append(started, record)
			}
		}
		return started
	}
	if len(fresh(c.known.Load())) == 0 {
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if started := fresh(c.known.Load()); len(started) > 0 {
		return c.save(ctx, nil, started)
	}
	return nil
}

// ordersFor is what server is told. Called with mu held.
func (c *cluster) ordersFor(known *topology, server backend.ServerID) []backend.ReplicaOrder {
	var orders []backend.ReplicaOrder
	for _, record := range known.copysets {
		if o, ok := orderFor(record, c.reports[record.ID], server); ok {
			orders = append(orders, o)
		}
	}
	return orders
}
