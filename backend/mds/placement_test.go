package mds

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// TestPlacementIsBalanced places on clusters of equal zones and measures.
func TestPlacementIsBalanced(t *testing.T) {
	for _, c := range []struct{ zones, each, replicas, copysets, scatter int }{
		{3, 1, 3, 6, 12}, {3, 1, 3, 1, 12}, {1, 3, 3, 6, 12}, {3, 3, 3, 18, 12}, {4, 2, 3, 30, 12},
		{5, 4, 3, 200, 12}, {3, 10, 3, 300, 12}, {3, 10, 3, 300, 4}, {1, 20, 3, 100, 6}, {2, 3, 3, 24, 12}, {7, 3, 5, 84, 12},
	} {
		t.Run(fmt.Sprintf("%d_zones_of_%d_%d_replicas_%d_copysets_scatter_%d", c.zones, c.each, c.replicas, c.copysets, c.scatter), func(t *testing.T) {
			var servers []candidate
			for z := range c.zones {
				for range c.each {
					servers = append(servers, candidate{id: backend.ServerID(len(servers) + 1), zone: fmt.Sprint("z", z)})
				}
			}
			p := newPlacer(servers, nil, c.scatter)
			placed := p.place(c.copysets, c.replicas)
			if again := newPlacer(servers, nil, c.scatter).place(c.copysets, c.replicas); !reflect.DeepEqual(placed, again) {
				t.Error("the same cluster was placed in two ways")
			}
			load, firsts := map[backend.ServerID]int{}, map[backend.ServerID]int{}
			partners := map[backend.ServerID]map[backend.ServerID]bool{}
			for _, peers := range placed {
				zones := map[string]int{}
				for i, id := range peers {
					load[id]++
					zones[servers[id-1].zone]++
					if i == 0 {
						firsts[id]++
					}
					for _, other := range peers {
						if partners[id] == nil {
							partners[id] = map[backend.ServerID]bool{}
						}
						if other != id {
							partners[id][other] = true
						}
					}
				}
				if len(peers) != c.replicas || len(zones) != min(c.zones, c.replicas) {
					t.Fatalf("peers %v in %d zones", peers, len(zones))
				}
			}
			spread := func(of map[backend.ServerID]int) (low, high int) {
				low = c.copysets
				for _, s := range servers {
					low, high = min(low, of[s.id]), max(high, of[s.id])
				}
				return low, high
			}
			// One apart, or, where the bound on partners leaves no choice, a fifth.
			slack := max(1, c.copysets*c.replicas/len(servers)/5)
			if low, high := spread(load); high-low > slack {
				t.Errorf("servers hold from %d to %d replicas, want at most %d apart", low, high, slack)
			}
			if low, high := spread(firsts); high-low > 1 {
				t.Errorf("servers are first in %d to %d copysets", low, high)
			}
			widest := 0
			for _, with := range partners {
				widest = max(widest, len(with))
			}
			if limit := max(c.scatter+1, c.replicas-1); widest > limit {
				t.Errorf("a server shares copysets with %d others, want at most %d", widest, limit)
			}
		})
	}
}

func TestPlacementWeighsWhatIsThere(t *testing.T) {
	servers := []candidate{{id: 1, zone: "a"}, {id: 2, zone: "b"}, {id: 3, zone: "c"}, {id: 4, zone: "a"}}
	there := []copysetRecord{{ID: 1, Peers: ids(1, 2, 3)}, {ID: 2, Peers: ids(1, 3, 2)}}
	for _, peers := range newPlacer(servers, there, 12).place(2, 3) {
		if !slices.Contains(peers, 4) || slices.Contains(peers, 1) {
			t.Errorf("new copyset on %v, want server 4 in zone a, which has nothing yet", peers)
		}
	}
}
