package mds_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// simReplica is one server's replica in the simulation.
type simReplica struct {
	damaged bool
	// member: it has the group's log; otherwise it is empty and waits.
	member bool
	// config and term as this replica knows them.
	config []backend.ServerID
	term   uint64
	leader backend.ServerID
}

// simGroup is the truth about one copyset.
type simGroup struct {
	config   []backend.ServerID // committed
	leader   backend.ServerID
	term     uint64
	replicas map[backend.ServerID]*simReplica
}

// sim drives an MDS with what chunkservers would report, in random order, and
// checks that nobody is ever wiped who is still a member.
type sim struct {
	t       *rapid.T
	rng     *rand.Rand
	m       *mds.MDS
	now     *clock
	servers []backend.ServerInfo
	down    map[backend.ServerID]bool
	gone    map[backend.ServerID]bool // retired, or down for good
	groups  map[backend.CopysetID]*simGroup
	orders  map[backend.ServerID]map[backend.CopysetID]backend.ReplicaOrder // last received
	founded map[backend.CopysetID]map[backend.ServerID]bool
	wipes   int
}

func (s *sim) report(id backend.ServerID) backend.Report {
	r := report(s.servers[id-1])
	for _, copyset := range s.copysetIDs() {
		g := s.groups[copyset]
		rep := g.replicas[id]
		if rep == nil {
			continue
		}
		st := backend.ReplicaStatus{Copyset: copyset, State: backend.ReplicaOK, Term: rep.term, Leader: rep.leader, Voters: slices.Clone(rep.config)}
		if rep.damaged {
			st.State, st.Leader = backend.ReplicaDamaged, 0
		} else if !rep.member {
			st.State = backend.ReplicaCatchingUp
		}
		r.Replicas = append(r.Replicas, st)
	}
	return r
}

func (s *sim) copysetIDs() []backend.CopysetID {
	var list []backend.CopysetID
	for id := range s.groups {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

func (s *sim) healthy(g *simGroup, id backend.ServerID) bool {
	r := g.replicas[id]
	return r != nil && !r.damaged && !s.down[id]
}

// canCommit says whether a majority of the configuration is at work.
func (s *sim) canCommit(g *simGroup) bool {
	n := 0
	for _, id := range g.config {
		if s.healthy(g, id) {
			n++
		}
	}
	return 2*n > len(g.config)
}

// learn gives a replica what the leader knows.
func (s *sim) learn(g *simGroup, id backend.ServerID) {
	if r := g.replicas[id]; s.healthy(g, id) && slices.Contains(g.config, id) {
		r.member, r.config, r.term, r.leader = true, slices.Clone(g.config), g.term, g.leader
	}
}

func (s *sim) elect(g *simGroup) {
	if len(g.config) == 0 || !s.canCommit(g) {
		return
	}
	var able []backend.ServerID
	for _, id := range g.config {
		if s.healthy(g, id) && g.replicas[id].member {
			able = append(able, id)
		}
	}
	if len(able) == 0 {
		return
	}
	g.leader = able[s.rng.IntN(len(able))]
	g.term++
	s.learn(g, g.leader)
	// Orders that came before were for another leader: acting on them could take
	// out a replica that was rebuilt since.
	for copyset, other := range s.groups {
		if other == g {
			delete(s.orders[g.leader], copyset)
		}
	}
}

// reconcile is one step of a leader towards the orders it received last.
func (s *sim) reconcile(copyset backend.CopysetID) {
	g := s.groups[copyset]
	if g.leader == 0 || !s.healthy(g, g.leader) || !s.canCommit(g) {
		return
	}
	o, ok := s.orders[g.leader][copyset]
	if !ok {
		return
	}
	remove := func(id backend.ServerID) {
		g.config = slices.DeleteFunc(slices.Clone(g.config), func(v backend.ServerID) bool { return v == id })
		s.learn(g, g.leader)
	}
	for _, id := range o.Rebuild {
		if slices.Contains(g.config, id) && id != g.leader {
			remove(id)
			return
		}
	}
	missing := false
	for _, id := range o.Peers {
		if slices.Contains(g.config, id) {
			continue
		}
		if !slices.Contains(o.Rebuild, id) && s.healthy(g, id) {
			g.config = append(slices.Clone(g.config), id)
			s.learn(g, g.leader)
			return
		}
		missing = true
	}
	if missing {
		return // nobody goes before those are in who take their places
	}
	for _, id := range g.config {
		switch {
		case slices.Contains(o.Peers, id):
		case id == g.leader:
			s.elect(g)
			return
		default:
			remove(id)
			return
		}
	}
}

// obey carries out what a heartbeat was answered with.
func (s *sim) obey(id backend.ServerID, orders backend.Orders) {
	mine := map[backend.CopysetID]backend.ReplicaOrder{}
	for _, o := range orders.Replicas {
		mine[o.Copyset] = o
		g := s.groups[o.Copyset]
		r := g.replicas[id]
		if o.Wipe {
			if slices.Contains(g.config, id) {
				s.t.Fatalf("server %d is told to wipe copyset %d, and is a member of %v in term %d", id, o.Copyset, g.config, g.term)
			}
			s.wipes++
			delete(g.replicas, id)
			r = nil
		}
		if r == nil && slices.Contains(o.Peers, id) {
			g.replicas[id] = &simReplica{}
			if o.Founding {
				s.found(o, id)
			}
		}
	}
	s.orders[id] = mine
}

// found begins the group once a majority of its founders is there.
func (s *sim) found(o backend.ReplicaOrder, id backend.ServerID) {
	g := s.groups[o.Copyset]
	g.replicas[id].member, g.replicas[id].config = true, slices.Clone(o.Peers)
	if s.founded[o.Copyset] == nil {
		s.founded[o.Copyset] = map[backend.ServerID]bool{}
	}
	s.founded[o.Copyset][id] = true
	if g.config == nil && 2*len(s.founded[o.Copyset]) > len(o.Peers) {
		g.config = slices.Clone(o.Peers)
		s.elect(g)
	}
}

// heartbeat reports and obeys; what it reports may be a little old by the time
// it arrives.
func (s *sim) heartbeat(id backend.ServerID) {
	if s.down[id] {
		return
	}
	r := s.report(id)
	if s.rng.IntN(3) == 0 {
		s.reconcile(backend.CopysetID(1 + s.rng.IntN(len(s.groups))))
	}
	orders, err := s.m.Heartbeat(s.t.Context(), r)
	if err != nil {
		s.t.Fatalf("heartbeat of %d: %v", id, err)
	}
	s.obey(id, orders)
}

// damage breaks a replica, unless its group could then commit nothing any more.
func (s *sim) damage(copyset backend.CopysetID, id backend.ServerID) {
	g := s.groups[copyset]
	r := g.replicas[id]
	if r == nil || r.damaged || len(g.config) < 3 || !r.member {
		return
	}
	r.damaged = true
	if !s.canCommit(g) {
		r.damaged = false
		return
	}
	if g.leader == id {
		g.leader = 0
	}
}

// lose takes a server away for good, unless a group would lose its majority.
func (s *sim) lose(id backend.ServerID) {
	if len(s.gone) >= 2 || s.gone[id] {
		return
	}
	for _, g := range s.groups {
		if g.config == nil {
			return // its founders are needed
		}
	}
	if rapid.Bool().Draw(s.t, "retire") {
		if err := s.m.Retire(s.t.Context(), id); err != nil {
			s.t.Fatal(err)
		}
		s.gone[id] = true
		return
	}
	s.down[id] = true
	for _, g := range s.groups {
		if !s.canCommit(g) {
			s.down[id] = false
			return
		}
	}
	s.gone[id] = true
	for _, g := range s.groups {
		if g.leader == id {
			g.leader = 0
		}
	}
}

// round is what happens by itself, given time: everybody reports, learns, and
// elects a leader where there is none.
func (s *sim) round() {
	s.now.advance(4 * time.Second)
	for _, info := range s.servers {
		s.heartbeat(info.ID)
	}
	for _, copyset := range s.copysetIDs() {
		g := s.groups[copyset]
		if g.leader == 0 || !s.healthy(g, g.leader) {
			s.elect(g)
		}
		s.reconcile(copyset)
		for _, info := range s.servers {
			s.learn(g, info.ID)
		}
	}
}

func replicasOf(g *simGroup) map[backend.ServerID]simReplica {
	all := map[backend.ServerID]simReplica{}
	for id, r := range g.replicas {
		all[id] = *r
	}
	return all
}

// unsettled says what is not yet as it shall be, "" for nothing.
func (s *sim) unsettled() string {
	infos, err := s.m.Copysets(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range infos {
		g := s.groups[c.ID]
		if len(g.config) != len(c.Peers) {
			return fmt.Sprintf("%s has configuration %v led by %d, wanted %v; down %v, gone %v, replicas %+v", c.ID, g.config, g.leader, c.Peers, s.down, s.gone, replicasOf(g))
		}
		for _, p := range c.Peers {
			switch {
			case !slices.Contains(g.config, p):
				return "a peer is no member"
			case s.gone[p]:
				return "a peer is gone"
			case !s.healthy(g, p):
				return "a peer is damaged"
			}
		}
		for id := range g.replicas {
			if !slices.Contains(c.Peers, id) && !s.down[id] {
				return "a replica is left over"
			}
		}
	}
	return ""
}

func TestRandomReportsConvergeAndNoMemberIsWiped(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := newClock()
		m, err := mds.New(mds.NewMemStore(), mds.Options{Now: now.Now, Log: quiet, Cluster: &mds.ClusterOptions{MaxMoves: rapid.IntRange(1, 3).Draw(rt, "moves")}})
		if err != nil {
			rt.Fatal(err)
		}
		defer m.Close()
		s := &sim{
			t: rt, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), m: m, now: now, down: map[backend.ServerID]bool{}, gone: map[backend.ServerID]bool{},
			groups: map[backend.CopysetID]*simGroup{}, orders: map[backend.ServerID]map[backend.CopysetID]backend.ReplicaOrder{},
			founded: map[backend.CopysetID]map[backend.ServerID]bool{},
		}
		for i := range 6 {
			info, err := m.Register(rt.Context(), serverOf(i+1, string(rune('a'+i%3))))
			if err != nil {
				rt.Fatal(err)
			}
			s.servers = append(s.servers, info)
		}
		if err := m.CreateCopysets(rt.Context(), 3, 3); err != nil {
			rt.Fatal(err)
		}
		for id := range backend.CopysetID(3) {
			s.groups[id+1] = &simGroup{replicas: map[backend.ServerID]*simReplica{}}
		}
		copyset := rapid.SampledFrom(s.copysetIDs())
		server := rapid.Custom(func(t *rapid.T) backend.ServerID { return rapid.SampledFrom(s.servers).Draw(t, "server").ID })
		rt.Repeat(map[string]func(*rapid.T){
			"heartbeat":  func(t *rapid.T) { s.heartbeat(server.Draw(t, "from")) },
			"heartbeat2": func(t *rapid.T) { s.heartbeat(server.Draw(t, "from")) },
			"reconcile":  func(t *rapid.T) { s.reconcile(copyset.Draw(t, "copyset")) },
			"learn":      func(t *rapid.T) { s.learn(s.groups[copyset.Draw(t, "copyset")], server.Draw(t, "who")) },
			"elect":      func(t *rapid.T) { s.elect(s.groups[copyset.Draw(t, "copyset")]) },
			"damage":     func(t *rapid.T) { s.damage(copyset.Draw(t, "copyset"), server.Draw(t, "who")) },
			"lose":       func(t *rapid.T) { s.lose(server.Draw(t, "who")) },
			"round":      func(*rapid.T) { s.round() },
			"hour": func(*rapid.T) {
				for range 4 { // nobody is taken for dead who reports
					s.now.advance(2 * time.Minute)
					s.round()
				}
			},
		})
		for range 150 {
			s.round()
		}
		if what := s.unsettled(); what != "" {
			rt.Fatalf("after 150 quiet rounds: %s", what)
		}
	})
}
