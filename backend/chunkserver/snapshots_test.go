package chunkserver

import (
	"bytes"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opencurve/curve-nbd/backend"
)

func TestGrownLogIsCutByRaftSnapshots(t *testing.T) {
	for _, why := range []struct {
		name string
		set  func(*Options)
	}{
		{"it is too large", func(o *Options) { o.LogLimit = 1 << 20 }},
		{"it is time", func(o *Options) { o.SnapshotEvery = time.Second }},
	} {
		t.Run(why.name, func(t *testing.T) {
			c := startCluster(t, 3, 1, func(_ int, o *Options) { why.set(o) })
			r := c.dial()
			// More than a raft snapshot leaves behind for slow followers.
			const size = 256 << 10
			var last [4]byte
			for i := range int64(100) {
				last[i%4] = byte(i)
				op := r.op(backend.OpWrite, 1, 100, i%4*size, size)
				op.Data = bytes.Repeat([]byte{byte(i)}, size)
				r.do(op)
			}
			for _, s := range c.servers {
				await(t, "the log to be cut", func() bool {
					first, err := s.raftLog.Group(1).FirstIndex()
					return err == nil && first > 1
				})
			}
			for i, b := range last {
				r.wantBlock(1, 100, int64(i)*size, b)
			}
		})
	}
}

func TestSnapshotsAreStaggered(t *testing.T) {
	s := &Server{opts: Options{SnapshotEvery: time.Minute, LogLimit: 1 << 62}, replicas: newReplicaSet()}
	s.snaps.due, s.snaps.applied = make(map[backend.CopysetID]time.Time), make(map[backend.CopysetID]uint64)
	for id := backend.CopysetID(1); id <= 6; id++ {
		s.replicas.set(id, &scripted{status: backend.ReplicaStatus{Applied: 5}})
	}
	s.snaps.applied[4] = 5 // nothing new there
	s.logBytes = func() int64 { return 0 }
	begin := time.Now()
	when := make(map[backend.CopysetID][]int)
	for second := range 121 {
		now := begin.Add(time.Duration(second) * time.Second)
		if id, ok := s.nextSnapshot(now); ok {
			when[id] = append(when[id], second)
		}
	}
	if len(when) != 5 || when[4] != nil {
		t.Errorf("taken were %v", when)
	}
	seen := make(map[int]bool)
	for id, at := range when {
		if len(at) != 2 || at[1]-at[0] != 60 || seen[at[0]] {
			t.Errorf("of %v at %v s", id, at)
		}
		seen[at[0]] = true
	}
}

func TestMetricsAreGathered(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	c := startCluster(t, 1, 1, func(_ int, o *Options) { o.Metrics = registry })
	got, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"curve_chunkserver_replicas": 1, "curve_chunkserver_leaders": 1, "curve_chunkserver_disk_full": 0, "curve_chunkserver_free_bytes": 100 << 30}
	for _, family := range got {
		if v, ok := want[family.GetName()]; ok {
			if now := family.GetMetric()[0].GetGauge().GetValue(); now != v {
				t.Errorf("%s is %v, want %v", family.GetName(), now, v)
			}
			delete(want, family.GetName())
		}
	}
	if len(want) != 0 {
		t.Errorf("missing are %v", want)
	}
	c.kill(0)
	if got, err := registry.Gather(); err != nil || len(got) != 0 {
		t.Errorf("after Close %d families are left (%v)", len(got), err)
	}
}
