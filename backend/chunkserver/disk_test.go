package chunkserver

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// troubleOf is what server id last reported.
func troubleOf(m *fakeMDS, id backend.ServerID) string { return m.reports[id].Trouble }

func TestHangingDiskLosesItsLeaderships(t *testing.T) {
	for _, what := range []struct{ name, file string }{{"probe", "/data/" + probeName}, {"log", "/data/" + logName + "/"}} {
		t.Run(what.name, func(t *testing.T) {
			c := startCluster(t, 3, 3, func(_ int, o *Options) {
				o.StallLimit, o.WellFor = 200*time.Millisecond, 300*time.Millisecond
			})
			r := c.dial()
			for id := backend.CopysetID(1); id <= 3; id++ {
				r.write(id, backend.ChunkID(id), 0, 1)
			}
			var leader backend.ServerID
			c.mds.edit(func(m *fakeMDS) { leader = m.leaderOf(1) })
			hung := make(chan struct{})
			unhang := sync.OnceFunc(func() { close(hung) })
			t.Cleanup(unhang)
			c.disks[leader-1].OnCall(func(call crashfs.Call) error {
				if call.Op == crashfs.OpSyncData && strings.HasPrefix(call.Path, what.file) {
					<-hung
				}
				return nil
			})
			stop := make(chan struct{})
			var writes atomic.Int64
			written := make(chan struct{})
			go func() { // keeps the log busy, and shows that the volume goes on
				defer close(written)
				for {
					select {
					case <-stop:
						return
					default:
						r.write(1, 1, 0, 2)
						writes.Add(1)
					}
				}
			}()
			// A raft that hangs with its log may go on saying that it leads, in a term
			// that is over.
			c.mds.await(t, "the trouble to be reported and other leaders", func(m *fakeMDS) bool {
				for id := backend.CopysetID(1); id <= 3; id++ {
					if now := m.leaderOf(id); now == leader || now == 0 {
						return false
					}
				}
				return strings.Contains(troubleOf(m, leader), "hangs")
			})
			before := writes.Load()
			c.mds.await(t, "writes to go on without it", func(*fakeMDS) bool { return writes.Load() > before })
			unhang()
			c.disks[leader-1].OnCall(nil)
			c.mds.await(t, "the trouble to be over", func(m *fakeMDS) bool { return troubleOf(m, leader) == "" })
			close(stop)
			<-written
			for id := backend.CopysetID(2); id <= 3; id++ {
				r.wantBlock(id, backend.ChunkID(id), 0, 1)
			}
			r.wantBlock(1, 1, 0, 2)
		})
	}
}

func TestFullDiskRefusesChangesAndRecoversByItself(t *testing.T) {
	var free [3]atomic.Int64
	for i := range free {
		free[i].Store(10 << 30)
	}
	c := startCluster(t, 3, 1, func(i int, o *Options) {
		o.Reserve = 4 << 30
		o.Space = func() (int64, int64, error) { return free[i].Load(), 100 << 30, nil }
	})
	r := c.dial()
	r.write(1, 100, 0, 1)
	for i := range free {
		free[i].Store(4<<30 - 1)
	}
	c.mds.await(t, "the full disks to be reported", func(m *fakeMDS) bool {
		return strings.Contains(troubleOf(m, 1)+troubleOf(m, 2)+troubleOf(m, 3), "disk full") && m.reports[1].FreeBytes == 4<<30-1
	})
	leader := func() (id backend.ServerID) {
		c.mds.edit(func(m *fakeMDS) { id = m.leaderOf(1) })
		return id
	}
	op := r.op(backend.OpWrite, 1, 100, 4096, 4096)
	attempt := func() error {
		op.Server, op.Session, op.Seq, op.Low = leader(), 9, 1, 1
		return start(r.Chunks, op).wait(t)
	}
	await(t, "changes to be refused", func() bool { return errors.Is(attempt(), backend.ErrNoSpace) })
	r.wantBlock(1, 100, 0, 1) // reads go on
	for i := range free {
		free[i].Store(4<<30 + 1) // not enough more to come and go
	}
	c.mds.await(t, "the figures", func(m *fakeMDS) bool {
		return m.reports[1].FreeBytes == 4<<30+1 && m.reports[2].FreeBytes == 4<<30+1 && m.reports[3].FreeBytes == 4<<30+1
	})
	if err := attempt(); !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("with a byte more than the reserve free: %v", err)
	}
	for i := range free {
		free[i].Store(6 << 30)
	}
	await(t, "changes to be taken again", func() bool { return attempt() == nil })
	c.mds.await(t, "the trouble to be over", func(m *fakeMDS) bool {
		return troubleOf(m, 1)+troubleOf(m, 2)+troubleOf(m, 3) == ""
	})
}

// await polls what has no event to wait for.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDamagedLogIsReportedAndTheReplicaMadeAgain(t *testing.T) {
	c := startCluster(t, 3, 1, nil)
	r := c.dial()
	for i := range int64(64) {
		r.write(1, 100, i*4096, byte(i+1))
	}
	var victim backend.ServerID
	c.mds.edit(func(m *fakeMDS) { victim = m.leaderOf(1)%3 + 1 }) // a follower
	i := int(victim) - 1
	c.mds.await(t, "the follower to have applied", func(m *fakeMDS) bool {
		return len(m.reports[victim].Replicas) == 1 && m.reports[victim].Replicas[0].Applied > 60
	})
	c.kill(i)
	names, err := c.disks[i].ReadDir("/data/" + logName)
	if err != nil {
		t.Fatal(err)
	}
	flipped := 0
	for _, name := range names {
		for off := int64(64 << 10); off < 128<<10; off += 4096 {
			if c.disks[i].Flip("/data/"+logName+"/"+name, off+100, 3) == nil {
				flipped++
			}
		}
	}
	if flipped == 0 {
		t.Fatalf("nothing in %v to damage", names)
	}
	c.start(i)
	c.mds.await(t, "the damage to be reported", func(m *fakeMDS) bool {
		return len(m.reports[victim].Replicas) == 1 && m.reports[victim].Replicas[0].State == backend.ReplicaDamaged
	})
	c.mds.edit(func(m *fakeMDS) {
		o := m.orders[1]
		o.Rebuild = []backend.ServerID{victim}
		m.orders[1] = o
	})
	member := func(m *fakeMDS) bool {
		leader := m.leaderOf(1)
		for _, st := range m.reports[leader].Replicas {
			for _, id := range append(st.Voters, st.Learners...) {
				if id == victim {
					return true
				}
			}
		}
		return leader == 0
	}
	c.mds.await(t, "the damaged replica to be taken out", func(m *fakeMDS) bool { return !member(m) })
	c.mds.edit(func(m *fakeMDS) {
		m.wipe[1] = victim
		o := m.orders[1]
		o.Rebuild = nil
		m.orders[1] = o
	})
	c.mds.await(t, "the replica to start again", func(m *fakeMDS) bool {
		return len(m.reports[victim].Replicas) == 1 && m.reports[victim].Replicas[0].State != backend.ReplicaDamaged
	})
	c.mds.edit(func(m *fakeMDS) { delete(m.wipe, 1) })
	c.mds.await(t, "the replica to be a voter that has caught up", func(m *fakeMDS) bool {
		st := m.reports[victim].Replicas[0]
		return member(m) && st.State == backend.ReplicaOK && len(st.Voters) == 3 && st.Applied > 60
	})
	for i := range int64(64) {
		r.wantBlock(1, 100, i*4096, byte(i+1))
	}
}
