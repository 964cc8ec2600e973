package copyset

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// The power of all three machines is cut at once, while writes, raft snapshots and a
// leader change are under way. Every acknowledged write must be there afterwards, and
// the replicas must be the same.
func TestAcknowledgedWritesSurviveAPowerCutOfAll(t *testing.T) {
	rounds := 12
	if os.Getenv("CURVE_FAULTS_LONG") == "1" {
		rounds = 120
	}
	for round := range rounds {
		t.Run(fmt.Sprintf("seed %d", round), func(t *testing.T) { powerCutRound(t, uint64(round)) })
	}
}

// sector is a 512 byte sector of the workload, each owned by one writer, who writes
// ever higher versions to it.
type sector struct {
	mu               sync.Mutex
	acked, submitted byte
	chunk            backend.ChunkID
	off              int64
}

func powerCutRound(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	disks := map[backend.ServerID]*crashfs.FS{}
	// power is taken by every change of a disk, so that it can be cut at one moment
	// for all: nothing that was made possible by a change after the cut of one disk
	// may reach another before its own.
	var power sync.RWMutex
	// All logs but one follower's are slow: entries are durable there long before they
	// are on a majority.
	var fast atomic.Uint32
	for id := range backend.ServerID(3) {
		fs := crashfs.New(crashfs.Options{})
		fs.OnCall(func(c crashfs.Call) error {
			if c.Op == crashfs.OpSyncData && fast.Load() != 0 && fast.Load() != uint32(id+1) && strings.Contains(c.Path, "/log/") {
				time.Sleep(8 * time.Millisecond)
			}
			power.RLock()
			defer power.RUnlock()
			return nil
		})
		disks[id+1] = fs
	}
	g := &rig{t: t, members: make(map[backend.ServerID]*member), leaders: make(map[backend.ServerID]uint64)}
	g.tune = func(o *Options) { o.TrailingLogs = 4 }
	found := []backend.ServerID{1, 2, 3}
	for _, id := range found {
		m := g.add(id)
		m.dir, m.fs = "/data", disks[id]
	}
	for _, m := range g.members {
		g.start(m, found)
	}
	stopAll := func() {
		for id := range g.members {
			g.stop(id)
		}
	}
	defer func() { stopAll() }()

	fast.Store(uint32(g.follower().id))
	const writers, sectors = 4, 6
	var all []*sector
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		var own []*sector
		for i := range sectors {
			own = append(own, &sector{chunk: backend.ChunkID(i % 3), off: int64(w*sectors+i) * 512})
		}
		all = append(all, own...)
		c := &client{g: g, epoch: 1, session: backend.SessionID(w + 1)}
		wg.Go(func() { writeSectors(c, own, stop) })
	}
	for range 2 + rng.IntN(3) {
		g.until("writes went on", func() bool { return ackedSum(all) > 0 && rng.IntN(20) == 0 })
		for _, m := range g.members {
			if err := m.replica.Load().Snapshot(); err != nil {
				t.Logf("snapshot: %v", err)
			}
		}
		if rng.IntN(2) == 0 {
			_ = g.leader().replica.Load().TransferLeadership(t.Context(), 0)
		}
	}
	power.Lock()
	want := make([]byte, len(all))
	for i, s := range all {
		s.mu.Lock()
		want[i] = s.acked
		s.mu.Unlock()
	}
	after := map[backend.ServerID]*crashfs.FS{}
	for id, fs := range disks {
		after[id] = fs.Crash(rng.Uint64())
	}
	power.Unlock()
	close(stop)
	wg.Wait()
	stopAll()
	for id, m := range g.members {
		m.fs = after[id]
		g.start(m, nil)
	}
	c := g.client(2)
	for i, s := range all {
		s.mu.Lock()
		low, high := want[i], s.submitted
		s.mu.Unlock()
		got := c.read(s.chunk, s.off, 512)
		for _, b := range got {
			if b != got[0] || b < low || b > high {
				t.Fatalf("chunk %d sector at %d holds versions %d and %d, expected one from %d to %d", s.chunk, s.off, got[0], b, low, high)
			}
		}
	}
	g.wantSameChunks()
}

// ackedSum is how many writes have been acknowledged, about.
func ackedSum(all []*sector) (sum int) {
	for _, s := range all {
		s.mu.Lock()
		sum += int(s.acked)
		s.mu.Unlock()
	}
	return sum
}

func writeSectors(c *client, own []*sector, stop <-chan struct{}) {
	for i := 0; ; i++ {
		s := own[i%len(own)]
		select {
		case <-stop:
			return
		default:
		}
		s.mu.Lock()
		if s.submitted == 250 {
			s.mu.Unlock()
			return
		}
		s.submitted++
		version := s.submitted
		s.mu.Unlock()
		data := make([]byte, 512)
		for at := range data {
			data[at] = version
		}
		op := c.change(backend.OpWrite, s.chunk, s.off, data, 512)
		op.Low = op.Seq
		if err := c.do(op); err != nil {
			c.g.t.Errorf("write: %v", err)
			return
		}
		s.mu.Lock()
		s.acked = version
		s.mu.Unlock()
	}
}
