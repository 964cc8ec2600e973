package remote_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// register makes servers from to known.
func register(t *testing.T, m *remote.Meta, from, to int) []backend.ServerInfo {
	t.Helper()
	var servers []backend.ServerInfo
	for i := from; i <= to; i++ {
		s, err := m.Register(t.Context(), backend.ServerInfo{
			UUID: fmt.Sprint("uuid-", i), Address: fmt.Sprintf("cs%d:6800", i), PeerAddress: fmt.Sprintf("cs%d:6801", i), Zone: fmt.Sprint("z", i), PID: i,
		})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
	}
	return servers
}

func TestTopologyOverTheNetworkIsTheMDSs(t *testing.T) {
	leakCheck(t)
	s := serveMDS(t, mds.NewMemStore(), "", mds.Options{Cluster: &mds.ClusterOptions{}})
	t.Cleanup(func() { s.stop(t) })
	m := dialMeta(t, remote.MetaOptions{}, s.addr)
	servers := register(t, m, 1, 3)
	if err := m.CreateCopysets(t.Context(), 2, 3); err != nil {
		t.Fatal(err)
	}
	if err := m.CreateCopysets(t.Context(), 2, 9); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("9 replicas: %v, want ErrInvalid", err)
	}
	report := backend.Report{
		Server: servers[0].ID, UUID: servers[0].UUID, UsedBytes: 5, FreeBytes: 1 << 40, Trouble: "bad\xffdisk", Draining: true,
		Replicas: []backend.ReplicaStatus{{
			Copyset: 2, State: backend.ReplicaDamaged, Leader: 3, Term: 9, Voters: []backend.ServerID{1, 2, 3}, Learners: []backend.ServerID{4}, Committed: 8, Applied: 7,
		}},
	}
	var orders backend.Orders
	for range 2 { // damage is believed when it is said twice
		var err error
		if orders, err = m.Heartbeat(t.Context(), report); err != nil {
			t.Fatal(err)
		}
	}
	if len(orders.Servers) != 3 || orders.Servers[1].PeerAddress != "cs2:6801" || len(orders.Replicas) != 2 {
		t.Errorf("orders %+v", orders)
	}
	if o := orders.Replicas[1]; o.Copyset != 2 || o.Founding || len(o.Peers) != 3 || !reflect.DeepEqual(o.Rebuild, []backend.ServerID{1}) || o.Wipe {
		t.Errorf("order for the damaged replica: %+v", o)
	}
	if o := orders.Replicas[0]; !o.Founding || o.Rebuild != nil {
		t.Errorf("order for the other: %+v", o)
	}
	report.Server = 99
	if _, err := m.Heartbeat(t.Context(), report); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("heartbeat of a stranger: %v, want ErrNotFound", err)
	}

	far, err := m.Copysets(t.Context())
	near, nearErr := s.mds.Copysets(t.Context())
	if err != nil || nearErr != nil || !reflect.DeepEqual(far, near) {
		t.Errorf("copysets\n%+v, %v, the MDS has\n%+v, %v", far, err, near, nearErr)
	}
	if err := m.Retire(t.Context(), 2); err != nil {
		t.Error(err)
	}
	if err := m.Retire(t.Context(), 99); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("retire a stranger: %v, want ErrNotFound", err)
	}
	farServers, err := m.Servers(t.Context())
	if err != nil || farServers[0].Trouble != "bad?disk" || farServers[1].State != backend.ServerRetiring || farServers[0].State != backend.ServerUnstable {
		t.Errorf("servers %+v, %v", farServers, err)
	}
}

func TestKnownAddressesAndCopysetsServeWhileTheMDSIsAway(t *testing.T) {
	leakCheck(t)
	store := mds.NewMemStore()
	opts := mds.Options{Cluster: &mds.ClusterOptions{}}
	s := serveMDS(t, store, "", opts)
	m := dialMeta(t, remote.MetaOptions{Fresh: time.Nanosecond}, s.addr)
	servers := register(t, m, 1, 3)
	if err := m.CreateCopysets(t.Context(), 2, 3); err != nil {
		t.Fatal(err)
	}
	copyset, err := m.Copyset(t.Context(), 1)
	if err != nil || len(copyset.Peers) != 3 {
		t.Fatalf("copyset %+v, %v", copyset, err)
	}
	if info, err := m.Server(t.Context(), 2); err != nil || info.Address != servers[1].Address {
		t.Fatalf("server %+v, %v", info, err)
	}
	if _, err := m.Server(t.Context(), 4); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("unknown server: %v, want ErrNotFound", err)
	}
	fourth := register(t, m, 4, 4)[0]
	if info, err := m.Server(t.Context(), 4); err != nil || info.Address != fourth.Address {
		t.Errorf("server that is new: %+v, %v", info, err)
	}
	if _, err := m.Copyset(t.Context(), 9); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("unknown copyset: %v, want ErrNotFound", err)
	}

	s.stop(t)
	if again, err := m.Copyset(t.Context(), 1); err != nil || !reflect.DeepEqual(again, copyset) {
		t.Errorf("copyset while the MDS is away: %+v, %v", again, err)
	}
	if info, err := m.Server(t.Context(), 2); err != nil || info.Address != servers[1].Address {
		t.Errorf("server while the MDS is away: %+v, %v", info, err)
	}
	if _, err := m.Copyset(shortly(t, 100*time.Millisecond), 2); !errors.Is(err, backend.ErrUnreachable) {
		t.Errorf("copyset never asked for: %v, want ErrUnreachable", err)
	}
}

func TestLongListsComeInPages(t *testing.T) {
	leakCheck(t)
	s := serveMDS(t, mds.NewMemStore(), "", mds.Options{})
	t.Cleanup(func() { s.stop(t) })
	m := dialMeta(t, remote.MetaOptions{}, s.addr)
	const volumes = 8192 + 100
	for i := range volumes {
		if _, err := s.mds.CreateVolume(t.Context(), backend.VolumeSpec{Name: fmt.Sprintf("d/%05d", i), Size: 1 << 30}); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := m.Volumes(t.Context(), "d")
	if err != nil || len(infos) != volumes {
		t.Fatalf("%d volumes, %v, want %d", len(infos), err, volumes)
	}
	for i, v := range infos {
		if v.Name != fmt.Sprintf("d/%05d", i) {
			t.Fatalf("volume %d of the list is %s", i, v.Name)
		}
		if _, err := s.mds.RemoveVolume(t.Context(), v.Name); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := m.Recycled(t.Context())
	if err != nil || len(bin) != volumes {
		t.Fatalf("%d in the recycle bin, %v, want %d", len(bin), err, volumes)
	}

	g := backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 256 << 20} // 4096 chunks
	v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: "long", Size: 40 * g.SegmentSize, Geometry: g})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := m.OpenVolume(t.Context(), "long", "gw", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	var want []backend.Segment
	for i := range backend.SegmentIndex(40) {
		seg, err := m.AllocateSegment(t.Context(), v.ID, lease.Epoch, i)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, seg)
	}
	if got, err := m.Segments(t.Context(), v.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d segments, %v, want the %d that were allocated", len(got), err, len(want))
	}
}
