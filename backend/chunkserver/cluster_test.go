package chunkserver

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

func TestWritesSurviveTheLeadersDeath(t *testing.T) {
	c := startCluster(t, 3, 3, nil)
	r := c.dial()
	for id := backend.CopysetID(1); id <= 3; id++ {
		for i := range int64(16) {
			r.write(id, backend.ChunkID(id)*100, i*4096, byte(i+1))
		}
	}
	r.news.mu.Lock()
	leader := r.news.routes[1].Leader
	r.news.mu.Unlock()
	begin := time.Now()
	c.kill(int(leader) - 1)
	closed := time.Since(begin)
	for i := range int64(16) {
		r.wantBlock(1, 100, i*4096, byte(i+1))
		r.write(1, 100, i*4096, byte(i+101))
	}
	t.Logf("leader closed in %v; 16 reads and writes done %v after it was killed", closed, time.Since(begin))
	r.news.mu.Lock()
	next := r.news.routes[1].Leader
	r.news.mu.Unlock()
	if next == leader || next == 0 {
		t.Errorf("leader is %v, was %v", next, leader)
	}
	// The one that was away catches up, and can lead.
	c.start(int(leader) - 1)
	c.mds.await(t, "the restarted replica to catch up", func(m *fakeMDS) bool {
		var applied []uint64
		for _, rep := range m.reports {
			for _, st := range rep.Replicas {
				if st.Copyset == 1 {
					applied = append(applied, st.Applied)
				}
			}
		}
		return len(applied) == 3 && applied[0] == applied[1] && applied[1] == applied[2]
	})
	for i := range int64(16) {
		r.wantBlock(1, 100, i*4096, byte(i+101))
		r.wantBlock(3, 300, i*4096, byte(i+1))
	}
}

func TestPowerCutOfAllServersLosesNothingAcknowledged(t *testing.T) {
	c := startCluster(t, 3, 2, nil)
	r := c.dial()
	for round := range byte(5) {
		for i := range int64(8) {
			r.write(1, 100, i*4096, round*8+byte(i)+1)
			r.write(2, 200, i*4096, round*8+byte(i)+1)
		}
		// What is on the disks after a cut now. (The servers themselves cannot be
		// left without a disk in this process: raft panics then, as it should.)
		for i := range c.disks {
			c.disks[i] = c.disks[i].Crash(uint64(round)*3 + uint64(i))
		}
		for i := range c.servers {
			c.kill(i)
		}
		for i := range c.servers {
			c.start(i)
		}
		for i := range int64(8) {
			r.wantBlock(1, 100, i*4096, round*8+byte(i)+1)
			r.wantBlock(2, 200, i*4096, round*8+byte(i)+1)
		}
	}
}

func TestRestartWithoutAnMDSServes(t *testing.T) {
	c := startCluster(t, 3, 1, nil)
	r := c.dial()
	r.write(1, 100, 0, 7)
	c.mds.await(t, "everybody to have the address book", func(m *fakeMDS) bool {
		return m.beats[1] > 3 && m.beats[2] > 3 && m.beats[3] > 3
	})
	c.mds.edit(func(m *fakeMDS) { m.down = true })
	for i := range c.servers {
		address, peer := c.servers[i].Address(), c.servers[i].PeerAddress()
		c.kill(i)
		options := c.options
		c.options = func(_ int, o *Options) { o.Listen, o.PeerListen = address, peer }
		c.start(i)
		c.options = options
	}
	r.wantBlock(1, 100, 0, 7)
	r.write(1, 100, 0, 8)
	r.wantBlock(1, 100, 0, 8)
}

func TestDrainHandsEveryLeadershipOver(t *testing.T) {
	c := startCluster(t, 3, 4, nil)
	r := c.dial()
	for id := backend.CopysetID(1); id <= 4; id++ {
		r.write(id, backend.ChunkID(id), 0, byte(id))
	}
	i := 0
	for k, s := range c.servers {
		if len(s.news.led(s.ID())) > 0 {
			i = k
		}
	}
	s := c.servers[i]
	led := s.news.led(s.ID())
	c.servers[i] = nil
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	begin := time.Now()
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of 4 leaderships handed over, and closed, in %v", len(led), time.Since(begin))
	c.mds.edit(func(m *fakeMDS) {
		if !m.reports[s.ID()].Draining {
			t.Error("draining was not reported")
		}
		delete(m.reports, s.ID())
	})
	for _, l := range led {
		r.wantBlock(l.id, backend.ChunkID(l.id), 0, byte(l.id))
	}
}

func TestReplicasMoveAsTheMDSOrders(t *testing.T) {
	c := startCluster(t, 4, 0+1, func(_ int, o *Options) {})
	r := c.dial()
	for i := range int64(8) {
		r.write(1, 100, i*4096, byte(i+1))
	}
	// Four replicas; take the fourth server's away.
	want := []backend.ServerID{1, 2, 3}
	c.mds.edit(func(m *fakeMDS) { m.orders[1] = backend.ReplicaOrder{Copyset: 1, Peers: want} })
	voters := func(m *fakeMDS) []backend.ServerID {
		for server, rep := range m.reports {
			for _, st := range rep.Replicas {
				if st.Leader == server {
					return slices.Sorted(slices.Values(st.Voters))
				}
			}
		}
		return nil
	}
	c.mds.await(t, "the fourth to leave the configuration", func(m *fakeMDS) bool { return slices.Equal(voters(m), want) })
	c.mds.edit(func(m *fakeMDS) { m.wipe[1] = 4 })
	c.mds.await(t, "the fourth to forget its replica", func(m *fakeMDS) bool { return len(m.reports[4].Replicas) == 0 })
	ids, err := c.servers[3].store.ChunkIDs(t.Context())
	if err != nil || len(ids) != 0 {
		t.Errorf("chunks %v are left on the fourth server (%v)", ids, err)
	}
	// And back again, on a server that was restarted meanwhile.
	c.kill(3)
	c.start(3)
	want = []backend.ServerID{1, 2, 4}
	c.mds.edit(func(m *fakeMDS) {
		delete(m.wipe, 1)
		m.orders[1] = backend.ReplicaOrder{Copyset: 1, Peers: want}
	})
	c.mds.await(t, "the fourth to take the third's place", func(m *fakeMDS) bool { return slices.Equal(voters(m), want) })
	for i := range int64(8) {
		r.wantBlock(1, 100, i*4096, byte(i+1))
	}
	ids, err = c.servers[3].store.ChunkIDs(t.Context())
	if err != nil || len(ids) != 1 {
		t.Errorf("chunks on the fourth server: %v (%v)", ids, err)
	}
}
