package mds

import (
	"cmp"
	"slices"

	"github.com/opencurve/curve-nbd/backend"
)

// candidate is a chunkserver that replicas may be placed on.
type candidate struct {
	id     backend.ServerID
	zone   string
	load   int // replicas on it
	firsts int // copysets whose first peer it is
}

// placer chooses chunkservers for replicas. It is deterministic: the same
// cluster gives the same answer.
//
// A replica goes, in this order of importance, to a zone with fewest replicas of
// its copyset; where it gives no server more than scatter partners, so that few
// combinations of broken servers lose data; to the least loaded server; where it
// brings servers together that have few partners yet, so that a broken server's
// replicas are rebuilt from many; to the lowest id.
type placer struct {
	servers  []*candidate // by id
	partners map[backend.ServerID]map[backend.ServerID]struct{}
	scatter  int
}

// newPlacer places on servers, knowing all copysets that there are.
func newPlacer(servers []candidate, copysets []copysetRecord, scatter int) *placer {
	p := &placer{partners: map[backend.ServerID]map[backend.ServerID]struct{}{}, scatter: scatter}
	for _, s := range servers {
		p.servers = append(p.servers, &s)
	}
	slices.SortFunc(p.servers, func(a, b *candidate) int { return cmp.Compare(a.id, b.id) })
	for _, c := range copysets {
		p.add(c.Peers)
	}
	return p
}

// add counts a copyset.
func (p *placer) add(peers []backend.ServerID) {
	for i, id := range peers {
		if s := p.server(id); s != nil {
			s.load++
			if i == 0 {
				s.firsts++
			}
		}
		for _, other := range peers {
			if other == id {
				continue
			}
			if p.partners[id] == nil {
				p.partners[id] = map[backend.ServerID]struct{}{}
			}
			p.partners[id][other] = struct{}{}
		}
	}
}

func (p *placer) server(id backend.ServerID) *candidate {
	i, ok := slices.BinarySearchFunc(p.servers, id, func(s *candidate, id backend.ServerID) int { return cmp.Compare(s.id, id) })
	if !ok {
		return nil
	}
	return p.servers[i]
}

// place returns the peers of n new copysets. There are at least replicas servers.
func (p *placer) place(n, replicas int) [][]backend.ServerID {
	placed := make([][]backend.ServerID, n)
	for i := range placed {
		var peers []backend.ServerID
		var zones []string
		for range replicas {
			s := p.pick(peers, zones)
			peers, zones = append(peers, s.id), append(zones, s.zone)
		}
		// The first peer is whoever is first least often.
		least := 0
		for j := range peers {
			if p.server(peers[j]).firsts < p.server(peers[least]).firsts {
				least = j
			}
		}
		peers[0], peers[least] = peers[least], peers[0]
		p.add(peers)
		placed[i] = peers
	}
	p.evenFirsts(placed)
	return placed
}

// pick returns the best server to join peers, which lie in zones; nil if there
// is none.
func (p *placer) pick(peers []backend.ServerID, zones []string) *candidate {
	var best *candidate
	var bestRank [4]int
	for _, s := range p.servers {
		if slices.Contains(peers, s.id) {
			continue
		}
		rank := p.rank(s, peers, zones)
		if best == nil || slices.Compare(rank[:], bestRank[:]) < 0 {
			best, bestRank = s, rank
		}
	}
	return best
}

// rank is what speaks against s joining peers, the most important first.
func (p *placer) rank(s *candidate, peers []backend.ServerID, zones []string) (rank [4]int) {
	for _, z := range zones {
		if z == s.zone {
			rank[0]++
		}
	}
	rank[2] = s.load
	fresh := 0
	for _, other := range peers {
		if _, known := p.partners[s.id][other]; known {
			rank[3]++
			continue
		}
		fresh++
		if len(p.partners[other])+1 > p.scatter {
			rank[1]++
		}
	}
	if fresh > 0 && len(p.partners[s.id])+fresh > p.scatter {
		rank[1]++
	}
	return rank
}

// evenFirsts moves the first place within new copysets, along chains of them,
// until no server could pass one on to another that has two fewer.
func (p *placer) evenFirsts(placed [][]backend.ServerID) {
	for range len(placed) * len(p.servers) {
		if !p.passOneOn(placed) {
			return
		}
	}
}

// passOneOn looks, from the servers that are first most often, for a chain of
// copysets along which one first place can go to a server with two fewer.
func (p *placer) passOneOn(placed [][]backend.ServerID) bool {
	byFirsts := slices.Clone(p.servers)
	slices.SortStableFunc(byFirsts, func(a, b *candidate) int { return cmp.Compare(b.firsts, a.firsts) })
	for _, from := range byFirsts {
		if from.firsts < byFirsts[len(byFirsts)-1].firsts+2 {
			return false
		}
		came := map[backend.ServerID]int{} // server → copyset that leads to it
		queue := []backend.ServerID{from.id}
		for len(queue) > 0 {
			at := queue[0]
			queue = queue[1:]
			for i, peers := range placed {
				if peers[0] != at {
					continue
				}
				for _, to := range peers[1:] {
					if _, seen := came[to]; seen || to == from.id {
						continue
					}
					came[to] = i
					if p.server(to).firsts+2 <= from.firsts {
						p.shift(placed, came, from, to)
						return true
					}
					queue = append(queue, to)
				}
			}
		}
	}
	return false
}

// shift gives the first place of each copyset on the way from one server to
// another to the next server on it.
func (p *placer) shift(placed [][]backend.ServerID, came map[backend.ServerID]int, from *candidate, to backend.ServerID) {
	p.server(to).firsts++
	from.firsts--
	for at := to; at != from.id; {
		peers := placed[came[at]]
		i := slices.Index(peers, at)
		at = peers[0]
		peers[0], peers[i] = peers[i], peers[0]
	}
}
