package mds_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

// openMany creates a volume of n segments of 4 chunks, and opens it.
func openMany(t *testing.T, m *mds.MDS, name string, n int64) backend.Lease {
	t.Helper()
	g := backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 256 << 10}
	if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: n * g.SegmentSize, Geometry: g}); err != nil {
		t.Fatal(err)
	}
	lease, err := m.OpenVolume(t.Context(), name, "gw", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func allocate(t *testing.T, m *mds.MDS, l backend.Lease, i backend.SegmentIndex) []backend.ChunkRef {
	t.Helper()
	s, err := m.AllocateSegment(t.Context(), l.Volume.ID, l.Epoch, i)
	if err != nil {
		t.Fatal(err)
	}
	return s.Chunks
}

func chunkCounts(t *testing.T, m *mds.MDS) map[backend.CopysetID]int64 {
	t.Helper()
	counts := map[backend.CopysetID]int64{}
	for _, c := range copysets(t, m) {
		counts[c.ID] = c.Chunks
	}
	return counts
}

func TestChunksSpreadEvenlyAndAreCounted(t *testing.T) {
	store := mds.NewMemStore()
	now := newClock()
	m := newCluster(t, store, now, mds.ClusterOptions{})
	registerMany(t, m, 3)
	createCopysets(t, m, 6, 3)
	placed := map[backend.CopysetID]int64{}
	firsts := map[backend.CopysetID]bool{}
	for v := range 5 {
		lease := openMany(t, m, fmt.Sprint("v", v), 20)
		for i := range backend.SegmentIndex(20) {
			chunks := allocate(t, m, lease, i)
			if i == 0 {
				firsts[chunks[0].Copyset] = true
			}
			seen := map[backend.CopysetID]bool{}
			for _, c := range chunks {
				if seen[c.Copyset] {
					t.Errorf("two of the 4 chunks of a segment on %s, of 6 copysets", c.Copyset)
				}
				seen[c.Copyset] = true
				placed[c.Copyset]++
			}
		}
	}
	for id, n := range chunkCounts(t, m) {
		if n != placed[id] {
			t.Errorf("%s counts %d chunks, has %d", id, n, placed[id])
		}
		if n < 66 || n > 67 {
			t.Errorf("%s has %d of 400 chunks on 6 copysets", id, n)
		}
	}
	if len(firsts) < 2 {
		t.Errorf("all 5 volumes begin on the same copyset: %v", firsts)
	}
	// A restart forgets no count, and a purge takes its chunks off.
	m = newCluster(t, store, now, mds.ClusterOptions{})
	if err := m.CloseVolume(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}
	v, err := m.RemoveVolume(t.Context(), "v0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.PurgeVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if err := m.PurgeDone(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, n := range chunkCounts(t, m) {
		total += n
	}
	if total != 320 {
		t.Errorf("%d chunks are counted after 80 of 400 were purged", total)
	}
}

func TestRefusedAllocationCountsNothing(t *testing.T) {
	m := newCluster(t, mds.NewMemStore(), newClock(), mds.ClusterOptions{})
	lease := openMany(t, m, "v", 1)
	_, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, 0)
	if !errors.Is(err, backend.ErrUnreachable) || !strings.Contains(err.Error(), "create copysets") {
		t.Errorf("no copysets: %v, want ErrUnreachable that says what to do", err)
	}
	registerMany(t, m, 3)
	createCopysets(t, m, 2, 3)
	allocate(t, m, lease, 0)
	allocate(t, m, lease, 0) // the same again
	if got := chunkCounts(t, m); got[1] != 2 || got[2] != 2 {
		t.Errorf("counts %v after one segment of 4 chunks", got)
	}
}

// TestChunksAvoidTroubledServers has two copysets on servers of their own.
func TestChunksAvoidTroubledServers(t *testing.T) {
	const good, silent, full, retiring, unwell = "good", "silent", "full", "retiring", "unwell"
	for name, c := range map[string]struct {
		first, second [3]string // states of the servers of copysets 1 and 2
		want          string    // copysets that get chunks
	}{
		"all well":                            {[3]string{good, good, good}, [3]string{good, good, good}, "1 2"},
		"one silent":                          {[3]string{good, silent, good}, [3]string{good, good, good}, "2"},
		"one unwell":                          {[3]string{good, unwell, good}, [3]string{good, good, good}, "2"},
		"one retiring":                        {[3]string{good, good, good}, [3]string{retiring, good, good}, "1"},
		"one silent in each":                  {[3]string{good, silent, good}, [3]string{silent, good, good}, "1 2"},
		"majority silent in one":              {[3]string{silent, silent, good}, [3]string{silent, good, good}, "2"},
		"everybody silent":                    {[3]string{silent, silent, silent}, [3]string{silent, silent, silent}, "1 2"},
		"one full":                            {[3]string{full, good, good}, [3]string{good, good, good}, "2"},
		"one full, the other short of a peer": {[3]string{full, good, good}, [3]string{silent, silent, good}, "2"},
		"one full in each":                    {[3]string{full, good, good}, [3]string{good, good, full}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			now := newClock()
			m := newCluster(t, mds.NewMemStore(), now, mds.ClusterOptions{})
			s := registerMany(t, m, 6)
			createCopysets(t, m, 2, 3)
			now.advance(5 * time.Second)
			for i, copyset := range copysets(t, m) {
				for j, id := range copyset.Peers {
					r := report(s[id-1])
					switch [2][3]string{c.first, c.second}[i][j] {
					case silent:
						continue
					case full:
						r.FreeBytes = 1 << 20
					case unwell:
						r.Trouble = "disk is slow"
					case retiring:
						if err := m.Retire(t.Context(), id); err != nil {
							t.Fatal(err)
						}
					}
					beat(t, m, r)
				}
			}
			lease := openMany(t, m, "v", 1)
			seg, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, 0)
			if c.want == "" {
				if !errors.Is(err, backend.ErrNoSpace) {
					t.Errorf("got %v, want ErrNoSpace", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[backend.CopysetID]bool{}
			for _, chunk := range seg.Chunks {
				got[chunk.Copyset] = true
			}
			want := map[string]map[backend.CopysetID]bool{"1": {1: true}, "2": {2: true}, "1 2": {1: true, 2: true}}[c.want]
			if len(got) != len(want) || got[1] != want[1] || got[2] != want[2] {
				t.Errorf("chunks on copysets %v, want %s", got, c.want)
			}
		})
	}
}

func TestReplicasOfAServerThatIsOfflineMove(t *testing.T) {
	now := newClock()
	m := newCluster(t, mds.NewMemStore(), now, mds.ClusterOptions{MaxMoves: 1})
	s := registerMany(t, m, 3)
	createCopysets(t, m, 3, 3)
	s = append(s, register(t, m, serverOf(4, "zone-4")))
	config := map[backend.CopysetID][]backend.ServerID{}
	for _, c := range copysets(t, m) {
		config[c.ID] = c.Peers
	}
	beatAll := func(from ...int) {
		t.Helper()
		for _, i := range from {
			r := report(s[i])
			for _, c := range copysets(t, m) {
				r.Replicas = append(r.Replicas, backend.ReplicaStatus{Copyset: c.ID, State: backend.ReplicaOK, Leader: 1, Term: 1, Voters: config[c.ID]})
			}
			beat(t, m, r)
		}
	}
	moved := func() (n int) {
		t.Helper()
		for _, c := range copysets(t, m) {
			for i, p := range c.Peers {
				if p == 4 {
					n++
					if config[c.ID][i] != 3 && config[c.ID][i] != 4 {
						t.Errorf("copyset %d has server 4 in the place of %d", c.ID, config[c.ID][i])
					}
				}
			}
		}
		return n
	}
	beatAll(0, 1, 2)
	for range 74 { // just short of 5 minutes
		now.advance(4 * time.Second)
		beatAll(0, 1)
		beat(t, m, report(s[3]))
	}
	if n := moved(); n != 0 {
		t.Fatalf("%d copysets moved before server 3 was offline", n)
	}
	for want := 1; want <= 3; want++ {
		now.advance(4 * time.Second)
		beatAll(0, 1)
		now.advance(time.Second)
		beatAll(0, 1)
		if n := moved(); n != want {
			t.Fatalf("%d copysets moved, want %d: one at a time", n, want)
		}
		for _, c := range copysets(t, m) { // the leader has done it
			config[c.ID] = c.Peers
		}
		beat(t, m, report(s[3]))
	}
}

func TestFoundingCopysetsKeepTheirPeers(t *testing.T) {
	now := newClock()
	m := newCluster(t, mds.NewMemStore(), now, mds.ClusterOptions{})
	s := registerMany(t, m, 3)
	createCopysets(t, m, 1, 3)
	before := copysets(t, m)[0].Peers
	s = append(s, register(t, m, serverOf(4, "zone-4")))
	for range 100 {
		now.advance(4 * time.Second)
		beat(t, m, report(s[3]))
		beat(t, m, report(s[0], backend.ReplicaStatus{Copyset: 1, State: backend.ReplicaOK, Voters: before}))
	}
	if got := copysets(t, m)[0].Peers; fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("peers %v of a copyset that never had a leader, were %v", got, before)
	}
}
