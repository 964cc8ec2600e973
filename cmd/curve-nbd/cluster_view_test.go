package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// healthyFacts is a cluster of three with one copyset, led by cs2.
func healthyFacts() clusterFacts {
	file := sampleCluster()
	file.Members = append(file.Members, newChunkserver(3, []int{6730, 6731, 6732}))
	f := clusterFacts{members: &file, alive: func(p processID) bool { return p.PID > 0 }}
	replicas := map[backend.ServerID]backend.ReplicaStatus{}
	for i, m := range file.of(roleChunkserver) {
		m.Process = processID{PID: 201 + i}
		id := m.serverID()
		f.servers = append(f.servers, backend.ServerInfo{
			ID: id, Address: m.Address, PeerAddress: m.PeerAddress, Zone: m.ID, PID: 201 + i,
			State: backend.ServerOnline, UsedBytes: 4096 * int64(id), Copysets: 1,
		})
		replicas[id] = backend.ReplicaStatus{Copyset: 7, State: backend.ReplicaOK, Leader: 2, Term: 5, Committed: 30, Applied: 30}
	}
	f.servers[1].Leaders = 1
	f.copysets = []backend.CopysetInfo{{
		Copyset: backend.Copyset{ID: 7, Peers: []backend.ServerID{2, 3, 1}}, Leader: 2, Term: 5, Applied: 30, Chunks: 12, Replicas: replicas,
	}}
	return f
}

func TestClusterStatusFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*clusterFacts)
		reasons []string // parts, in order
	}{
		{"healthy", func(*clusterFacts) {}, nil},
		{"leader killed just now", func(f *clusterFacts) {
			m, _ := f.members.member("cs2")
			m.Process.PID = 0
		}, []string{"cs2 is down", "copyset 7 has no leader"}},
		{"follower killed just now", func(f *clusterFacts) {
			m, _ := f.members.member("cs3")
			m.Process.PID = 0
		}, []string{"cs3 is down"}},
		{"no leader", func(f *clusterFacts) { f.copysets[0].Leader = 0 }, []string{"copyset 7 has no leader"}},
		{"silent chunkserver", func(f *clusterFacts) { f.servers[0].State = backend.ServerUnstable }, []string{"cs1 is unstable"}},
		{"disk full", func(f *clusterFacts) { f.servers[0].Trouble = "disk full" }, []string{"disk full"}},
		{"damaged replica", func(f *clusterFacts) {
			r := f.copysets[0].Replicas[3]
			r.State = backend.ReplicaDamaged
			f.copysets[0].Replicas[3] = r
		}, []string{"copyset 7 on cs3 is damaged"}},
		{"replica never heard of", func(f *clusterFacts) { delete(f.copysets[0].Replicas, 1) }, []string{"copyset 7 on cs1 is unknown"}},
		{"no copysets", func(f *clusterFacts) { f.copysets = nil }, []string{"no copysets"}},
		{"not registered", func(f *clusterFacts) { f.servers = f.servers[:2] }, []string{"cs3 is not known to the MDS"}},
		{"MDS down", func(f *clusterFacts) {
			f.topologyErr, f.servers, f.copysets = backend.ErrUnreachable, nil, nil
		}, []string{"no MDS answers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := healthyFacts()
			c.change(&f)
			v := f.view()
			if len(v.Reasons) != len(c.reasons) || (v.State == "healthy") != (len(c.reasons) == 0) {
				t.Fatalf("state %s, reasons %q; want %q", v.State, v.Reasons, c.reasons)
			}
			for i, part := range c.reasons {
				if !strings.Contains(v.Reasons[i], part) {
					t.Errorf("reason %q does not say %q", v.Reasons[i], part)
				}
			}
		})
	}
}

func TestClusterStatusWithoutMDSShowsProcesses(t *testing.T) {
	f := healthyFacts()
	f.topologyErr, f.servers, f.copysets = errors.New("gone"), nil, nil
	f.members.Members[0].Process.PID = 0
	v := f.view()
	if len(v.Chunkservers) != 3 || v.Chunkservers[1].PID != 202 || v.Chunkservers[1].State != stateUnknown {
		t.Errorf("chunkservers %+v", v.Chunkservers)
	}
	if len(v.MDS) != 1 || v.MDS[0].Leader || v.MDS[0].PID != 0 || v.MDS[0].State != stateDown {
		t.Errorf("MDS %+v", v.MDS)
	}
}

func TestClusterStatusShowsLagAndNamesServersInOrderOfPlacement(t *testing.T) {
	f := healthyFacts()
	r := f.copysets[0].Replicas[1]
	r.State, r.Applied = backend.ReplicaCatchingUp, 18
	f.copysets[0].Replicas[1] = r
	c := f.view().Copysets[0]
	if c.Lag != 12 || c.Leader != "cs2" || !reflect.DeepEqual(c.Peers, []string{"cs2", "cs3", "cs1"}) {
		t.Errorf("%+v", c)
	}
}

// Scripts rely on these keys.
func TestClusterStatusJSONKeepsItsKeys(t *testing.T) {
	f := healthyFacts()
	var out bytes.Buffer
	if err := write(&out, "json", f.view()); err != nil {
		t.Fatal(err)
	}
	var v struct {
		MDS          []map[string]any `json:"mds"`
		Chunkservers []map[string]any `json:"chunkservers"`
		Copysets     []map[string]any `json:"copysets"`
	}
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		of   map[string]any
		want map[string]any
	}{
		{v.MDS[0], map[string]any{"id": "mds1", "pid": 100., "address": "127.0.0.1:6700", "leader": true}},
		{v.Chunkservers[1], map[string]any{"id": "cs2", "pid": 202., "address": "127.0.0.1:6720", "state": "online", "leaders": 1., "used_bytes": 8192.}},
		{v.Copysets[0], map[string]any{"id": 7., "leader": "cs2", "peers": []any{"cs2", "cs3", "cs1"}, "term": 5., "applied": 30.}},
	} {
		for key, want := range part.want {
			if got := part.of[key]; !reflect.DeepEqual(got, want) {
				t.Errorf("%s is %v, want %v", key, got, want)
			}
		}
	}
}

func TestClusterTableIsReadable(t *testing.T) {
	f := healthyFacts()
	f.servers[0].Trouble = "disk full"
	var out bytes.Buffer
	if err := write(&out, "table", f.view()); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"degraded", "disk full", "mds1", "127.0.0.1:6720", "cs2,cs3,cs1"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the table does not say %q:\n%s", part, out.String())
		}
	}
}

func TestChunkserverNames(t *testing.T) {
	for _, c := range []struct {
		text string
		want backend.ServerID
	}{
		{"cs2", 2}, {"2", 2}, {"cs10", 10}, {"4294967295", 4294967295},
		{"", 0}, {"cs", 0}, {"cs0", 0}, {"0", 0}, {"cs-1", 0}, {"mds1", 0}, {"cs2x", 0}, {"2 ", 0}, {"cs02", 0}, {"+2", 0}, {"4294967296", 0},
	} {
		got, err := parseServer("--to", c.text)
		if got != c.want || (err != nil) != (c.want == 0) || err != nil && !errors.Is(err, errUsage) {
			t.Errorf("%q: %d, %v; want %d", c.text, got, err, c.want)
		}
	}
}
