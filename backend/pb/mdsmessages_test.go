package pb

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/opencurve/curve-nbd/backend"
)

func someVolume() backend.VolumeInfo {
	return backend.VolumeInfo{
		ID: 7, Name: "pool/pg", Size: 10 << 30, Geometry: backend.Geometry{StripeUnit: 64 << 10, StripeCount: 4}.WithDefaults(),
		QoS: backend.QoS{IOPS: 1, IOPSBurst: 2, BPS: 3, BPSBurst: 4}, State: backend.VolumeRecycled, Epoch: 9, Owner: "gw",
		CreatedAt: time.Unix(5, 6).UTC(), RecycledAt: time.Unix(7, 8).UTC(),
	}
}

// wire sends a message through its encoding.
func wire[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	back := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, back); err != nil {
		t.Fatal(err)
	}
	return back.(M)
}

func TestMetadataIsTheSameBehindTheWire(t *testing.T) {
	same := func(what string, got any, err error, want any) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s became\n%+v, %v, was\n%+v", what, got, err, want)
		}
	}
	v, err := wire(t, VolumeOf(someVolume())).Info()
	same("volume", v, err, someVolume())
	for _, mode := range []backend.OpenMode{backend.OpenExclusive, backend.OpenShared, backend.OpenTakeOver} {
		lease := backend.Lease{Volume: someVolume(), Epoch: 9, Mode: mode, Session: 11}
		l, err := wire(t, LeaseOf(lease)).Words()
		same("lease", l, err, lease)
	}
	segment := backend.Segment{Index: 3, Chunks: []backend.ChunkRef{{ID: 1 << 60, Copyset: 1, Size: 64 << 10}, {ID: 2, Copyset: 1<<32 - 1, Size: 64 << 10}}}
	s, err := wire(t, SegmentOf(segment)).Words()
	same("segment", s, err, segment)

	record := backend.Record{Key: "fe/ü", Data: []byte{0, 255}, Version: 1 << 60}
	r, err := wire(t, RecordOf(record)).Words()
	same("record", r, err, record)
	record.Data = []byte{}
	r, err = wire(t, RecordOf(record)).Words()
	same("record without data", r, err, record)

	server := backend.ServerInfo{
		ID: 1, UUID: "u", Address: "a:1", PeerAddress: "a:2", Zone: "z", PID: 3, State: backend.ServerRetiring,
		UsedBytes: 4, FreeBytes: 5, Trouble: "t", Copysets: 6, Leaders: 7,
	}
	status := backend.ReplicaStatus{
		Copyset: 1, State: backend.ReplicaCatchingUp, Leader: 2, Term: 3,
		Voters: []backend.ServerID{1, 2}, Learners: []backend.ServerID{3}, Committed: 4, Applied: 5,
	}
	report := backend.Report{Server: 1, UUID: "u", UsedBytes: 2, FreeBytes: 3, Trouble: "t", Draining: true, Replicas: []backend.ReplicaStatus{status}}
	same("report", wire(t, HeartbeatOf(report)).Words(), nil, report)
	orders := backend.Orders{Servers: []backend.ServerInfo{server}, Replicas: []backend.ReplicaOrder{
		{Copyset: 1, Peers: []backend.ServerID{1, 2, 3}, Founding: true},
		{Copyset: 2, Peers: []backend.ServerID{1}, Rebuild: []backend.ServerID{4}, Wipe: true},
	}}
	o, err := wire(t, OrdersOf(orders)).Words()
	same("orders", o, err, orders)
	infos := []backend.CopysetInfo{{
		Copyset: backend.Copyset{ID: 1, Peers: []backend.ServerID{2, 1}}, Leader: 2, Term: 3, Applied: 4,
		Replicas: map[backend.ServerID]backend.ReplicaStatus{1: status, 2: {Copyset: 1, Voters: []backend.ServerID{2}}}, Chunks: 8,
	}}
	c, err := wire(t, CopysetsOf(infos)).Words()
	same("copysets", c, err, infos)
}

func TestAnswersThatMakeNoSenseAreRefused(t *testing.T) {
	volume := func(change func(*Volume)) error {
		m := VolumeOf(someVolume())
		change(m)
		_, err := m.Info()
		return err
	}
	segment := func(m *Segment) error { _, err := m.Words(); return err }
	orders := func(m *ReplicaOrder) error {
		_, err := (&HeartbeatReply{Orders: []*ReplicaOrder{m}}).Words()
		return err
	}
	_, noVolume := (*Volume)(nil).Info()
	_, noLease := (&Lease{Volume: VolumeOf(someVolume()), Epoch: 1, Mode: OpenMode_OPEN_MODE_SHARED}).Words()
	_, noMode := (&Lease{Volume: VolumeOf(someVolume()), Epoch: 1, Session: 1}).Words()
	_, noPeers := (&Copyset{Id: 1}).Words()
	_, noAddress := (&Server{Id: 1}).Info()
	_, fewReplicas := (&CopysetList{Copysets: []*CopysetDescription{{Copyset: &Copyset{Id: 1, Peers: []uint32{1, 2}}, Replicas: []*ReplicaReport{{}}}}}).Words()
	record := func(m *Record) error { _, err := m.Words(); return err }
	_, noCluster := (&ClusterID{Id: "a b"}).Words()
	for name, err := range map[string]error{
		"record key":        record(&Record{Key: []byte(" "), Version: 1}),
		"record version":    record(&Record{Key: []byte("k")}),
		"record size":       record(&Record{Key: []byte("k"), Version: 1, Data: make([]byte, backend.MaxRecordData+1)}),
		"cluster id":        noCluster,
		"no volume":         noVolume,
		"volume id 0":       volume(func(m *Volume) { m.Id = 0 }),
		"volume size":       volume(func(m *Volume) { m.SizeBytes = -1 }),
		"volume geometry":   volume(func(m *Volume) { m.Geometry = nil }),
		"lease of nobody":   noLease,
		"lease mode":        noMode,
		"segment empty":     segment(&Segment{ChunkSize: 64 << 10}),
		"segment copysets":  segment(&Segment{ChunkSize: 64 << 10, ChunkIds: []uint64{1, 2}, Copysets: []uint32{1}}),
		"segment chunk 0":   segment(&Segment{ChunkSize: 64 << 10, ChunkIds: []uint64{0}, Copysets: []uint32{1}}),
		"segment size":      segment(&Segment{ChunkSize: 3, ChunkIds: []uint64{1}, Copysets: []uint32{1}}),
		"segment of many":   segment(&Segment{ChunkSize: 64 << 10, ChunkIds: make([]uint64, 5000), Copysets: make([]uint32, 5000)}),
		"copyset peers":     noPeers,
		"server address":    noAddress,
		"order for nothing": orders(&ReplicaOrder{Peers: []uint32{1}}),
		"order of no peers": orders(&ReplicaOrder{Copyset: 1}),
		"copyset replicas":  fewReplicas,
	} {
		if !errors.Is(err, backend.ErrIO) {
			t.Errorf("%s: %v, want ErrIO", name, err)
		}
	}
}

// FuzzMDSAnswers gives what any server might send to the checks of a client: they
// refuse it, or make of it what can be sent on.
func FuzzMDSAnswers(f *testing.F) {
	for _, m := range []proto.Message{
		LeaseOf(backend.Lease{Volume: someVolume(), Epoch: 9, Mode: backend.OpenShared, Session: 11}),
		SegmentOf(backend.Segment{Index: 3, Chunks: []backend.ChunkRef{{ID: 1, Copyset: 1, Size: 64 << 10}}}),
		OrdersOf(backend.Orders{Replicas: []backend.ReplicaOrder{{Copyset: 1, Peers: []backend.ServerID{1}}}}),
		RecordOf(backend.Record{Key: "k", Data: []byte("d"), Version: 1}),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var lease Lease
		if proto.Unmarshal(b, &lease) == nil {
			if l, err := lease.Words(); err == nil {
				if back, err := LeaseOf(l).Words(); err != nil || back != l {
					t.Fatalf("lease %+v became %+v, %v", l, back, err)
				}
			}
		}
		var record Record
		if proto.Unmarshal(b, &record) == nil {
			if r, err := record.Words(); err == nil {
				if back, err := RecordOf(r).Words(); err != nil || !reflect.DeepEqual(back, r) {
					t.Fatalf("record %+v became %+v, %v", r, back, err)
				}
			}
		}
		var segment Segment
		if proto.Unmarshal(b, &segment) == nil {
			if s, err := segment.Words(); err == nil {
				if back, err := SegmentOf(s).Words(); err != nil || !reflect.DeepEqual(back, s) {
					t.Fatalf("segment %+v became %+v, %v", s, back, err)
				}
			}
		}
		var reply HeartbeatReply
		if proto.Unmarshal(b, &reply) == nil {
			if o, err := reply.Words(); err == nil {
				if back, err := OrdersOf(o).Words(); err != nil || !reflect.DeepEqual(back, o) {
					t.Fatalf("orders %+v became %+v, %v", o, back, err)
				}
			}
		}
		var list CopysetList
		if proto.Unmarshal(b, &list) == nil {
			list.Words()
		}
		var heartbeat HeartbeatRequest
		if proto.Unmarshal(b, &heartbeat) == nil {
			heartbeat.Words()
		}
	})
}
