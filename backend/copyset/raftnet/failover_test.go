package raftnet

import (
	"errors"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// newLeader waits until another server than old leads group i.
func (c *cluster) newLeader(old *server, i int) (*server, time.Duration) {
	c.t.Helper()
	var found *server
	took := eventually(c.t, 10*time.Second, "a new leader", func() bool {
		for _, s := range c.servers {
			if s != old && s.net != nil && s.replicas[i].raft.State() == raft.Leader {
				found = s
				return true
			}
		}
		return false
	})
	return found, took
}

// settled waits for a leader of group i that all others follow, and have promised to.
func (c *cluster) settled(i int) *server {
	c.t.Helper()
	var l *server
	eventually(c.t, 30*time.Second, "a leader that all others follow", func() bool {
		l = c.leader(i)
		for _, s := range c.servers {
			if s != l && !s.replicas[i].group.promisedTo(l.id) {
				return false
			}
		}
		return true
	})
	return l
}

// promisedTo says whether a leader has the promise of a group that could vote at once if
// it died.
func (g *Group) promisedTo(leader backend.ServerID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, now := &g.follows, g.net.now()
	return f.leader == leader && f.promise.to == leader && f.promise.until > now && g.votes.birth < now
}

func spread(d []time.Duration) (low, median, p90, high time.Duration) {
	d = slices.Sorted(slices.Values(d))
	return d[0], d[len(d)/2], d[len(d)*9/10], d[len(d)-1]
}

func TestCrashedLeaderIsReplacedAtOnce(t *testing.T) {
	trials := 20
	if testing.Short() {
		trials = 4
	}
	c := newCluster(t, 3, 1, nil)
	var times []time.Duration
	for range trials {
		l := c.settled(0)
		start := time.Now()
		l.net.Close()
		next, _ := c.newLeader(l, 0)
		times = append(times, time.Since(start))
		c.stop(l)
		if err := c.apply(next, 0, []byte("x")); err != nil {
			t.Error("the new leader cannot commit:", err)
		}
		c.restart(l)
	}
	low, median, p90, high := spread(times)
	t.Logf("new leader after a crash: min %v, p50 %v, p90 %v, max %v of %d; term %d", low, median, p90, high, trials, c.leader(0).replicas[0].raft.CurrentTerm())
	if median > 400*time.Millisecond {
		t.Errorf("half of the elections took %v: the refused connections did not tell", median)
	}
}

// Voters whose disks take longer for a vote than candidates wait for each other do not
// depose each other for ever, and raft waits for their votes.
func TestElectionsEndOnSlowDisks(t *testing.T) {
	for _, disk := range []struct {
		name  string
		sync  time.Duration
		known time.Duration // how long a sync takes, by the gate
		terms uint64        // that a leader takes at most
	}{
		{"20 ms a sync", 20 * time.Millisecond, 20 * time.Millisecond, 8},
		{"300 ms a sync", 300 * time.Millisecond, 300 * time.Millisecond, 8},
		{"100 ms a sync, but nobody knows", 100 * time.Millisecond, 0, 16},
	} {
		t.Run(disk.name, func(t *testing.T) {
			trials := 2
			if testing.Short() {
				trials = 1
			}
			start := time.Now()
			c := newCluster(t, 3, 3, func(c *cluster) { c.sync, c.syncTime = disk.sync, disk.known })
			for i := range c.groups {
				l := c.leader(i)
				t.Logf("start, group %d: a leader after %v in term %d", i, time.Since(start), l.replicas[i].raft.CurrentTerm())
			}
			for trial := range trials {
				l := c.leader(0)
				terms := make([]uint64, c.groups)
				for i := range terms {
					terms[i] = c.leader(i).replicas[i].raft.CurrentTerm()
				}
				start := time.Now()
				l.net.Close()
				c.stop(l)
				for i := range terms {
					next := c.leader(i)
					took := time.Since(start)
					if err := c.apply(next, i, []byte("x")); err != nil {
						t.Errorf("group %d: the new leader cannot commit: %v", i, err)
					}
					n := next.replicas[i].raft.CurrentTerm() - terms[i]
					t.Logf("trial %d, group %d: a leader after %v and %d terms", trial, i, took, n)
					if n > disk.terms { // without end when candidates keep a fixed distance
						t.Errorf("group %d: %d terms for one leader, want %d at most", i, n, disk.terms)
					}
				}
				c.restart(l)
			}
		})
	}
}

// oneLease samples that at most one server has a lease on group i, until stop.
func (c *cluster) oneLease(i int) (stop func()) {
	groups := make([]*Group, len(c.servers))
	for k, s := range c.servers {
		groups[k] = s.replicas[i].group
	}
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		until := make([]time.Time, len(groups))
		for {
			select {
			case <-end:
				return
			case <-time.After(200 * time.Microsecond):
			}
			for k, g := range groups {
				until[k] = g.LeaseUntil()
			}
			now, holders := time.Now(), 0
			for _, u := range until {
				if u.After(now) {
					holders++
				}
			}
			if holders > 1 {
				c.t.Errorf("%d leases at once: %v at %v", holders, until, now)
				return
			}
		}
	}()
	return func() { close(end); <-done }
}

func TestSilentLeaderIsReplacedAndItsLeaseEndsFirst(t *testing.T) {
	trials := 8
	if testing.Short() {
		trials = 2
	}
	m := newMuffler()
	c := newCluster(t, 3, 1, func(c *cluster) { c.dial = m.dial })
	stop := c.oneLease(0)
	defer stop()
	var times []time.Duration
	for range trials {
		l := c.leader(0)
		c.lease(l, 0)
		m.silence(l.id, true)
		next, took := c.newLeader(l, 0)
		times = append(times, took)
		if until := l.replicas[0].group.LeaseUntil(); until.After(time.Now()) {
			t.Fatalf("%v leads while the old leader has its lease for another %v", next.id, time.Until(until))
		}
		if err := c.apply(next, 0, []byte("x")); err != nil {
			t.Error("the new leader cannot commit:", err)
		}
		m.silence(l.id, false)
		eventually(t, 10*time.Second, "the old leader follows", func() bool {
			r := l.replicas[0].raft
			return r.State() == raft.Follower && r.AppliedIndex() == next.replicas[0].raft.AppliedIndex()
		})
	}
	low, median, p90, high := spread(times)
	t.Logf("new leader after silence: min %v, p50 %v, p90 %v, max %v of %d", low, median, p90, high, trials)
}

// Raft's leader gives up where no answers come within its lease. They come late on a
// starved machine, but they come.
func TestLeaderOutlastsLateAnswers(t *testing.T) {
	m := newMuffler()
	c := newCluster(t, 3, 1, func(c *cluster) {
		c.dial = m.dial
		c.opts = func(o *Options) { o.Suspect = 2 * time.Second }
		c.tune = func(conf *raft.Config) { // heartbeats every 200 to 400 ms
			conf.HeartbeatTimeout, conf.ElectionTimeout = 2*time.Second, 2*time.Second
			conf.LeaderLeaseTimeout = 500 * time.Millisecond
		}
	})
	l := c.leader(0)
	r := l.replicas[0].raft
	term := r.CurrentTerm()
	c.lease(l, 0)
	m.slow(400 * time.Millisecond) // each way
	<-time.After(3 * time.Second)  // six leases, in which nothing may happen
	if r.State() != raft.Leader || r.CurrentTerm() != term {
		t.Errorf("%v in term %d, which led term %d: late answers deposed it", r.State(), r.CurrentTerm(), term)
	}
	m.slow(0)
	if err := c.apply(l, 0, []byte("x")); err != nil {
		t.Error("the leader cannot commit any more:", err)
	}
}

// Suspicion is enough for that: a silent link breaks much later.
func TestLeaderThatHearsNobodyGivesUp(t *testing.T) {
	m := newMuffler()
	c := newCluster(t, 3, 1, func(c *cluster) {
		c.dial = m.dial
		c.opts = func(o *Options) { o.Suspect = time.Second }
	})
	l := c.leader(0)
	m.silence(l.id, true)
	took := eventually(t, 10*time.Second, "it gives up", func() bool { return l.replicas[0].raft.State() != raft.Leader })
	t.Logf("gave up after %v", took)
	for _, s := range c.servers {
		if s != l && l.net.peer(s.id).control.Load() == nil {
			t.Errorf("it led until its link to %v broke", s.id)
		}
	}
}

func TestTransferReleasesTheLeaseAndTakesNoPromiseTime(t *testing.T) {
	c := newCluster(t, 3, 1, nil)
	stop := c.oneLease(0)
	defer stop()
	var times []time.Duration
	for range 6 {
		l := c.leader(0)
		c.lease(l, 0)
		// A raft that leads again may still be ending the transfer before.
		eventually(t, 5*time.Second, "the last transfer is over", func() bool {
			err := c.apply(l, 0, []byte("x"))
			if err != nil && !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
				t.Fatal(err)
			}
			return err == nil
		})
		start := time.Now()
		if err := l.replicas[0].raft.LeadershipTransfer().Error(); err != nil {
			t.Fatal(err)
		}
		c.newLeader(l, 0)
		times = append(times, time.Since(start))
	}
	low, median, p90, high := spread(times)
	t.Logf("new leader by transfer: min %v, p50 %v, p90 %v, max %v", low, median, p90, high)
}

func TestIdleGroupsCostLittle(t *testing.T) {
	const groups = 100
	c := newCluster(t, 3, groups, nil)
	for i := range groups {
		c.leader(i)
	}
	busy := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	start, before := time.Now(), busy()
	<-time.After(2 * time.Second)
	share := float64(busy()-before) / float64(time.Since(start)) / 3
	t.Logf("%d idle groups: %.2f %% of a core per server, raft included; %d goroutines in all", groups, 100*share, runtime.NumGoroutine())
	for _, s := range c.servers {
		st := s.net.Stats()
		t.Logf("%v: %+v", s.id, st)
		if st.Campaigns > 0 {
			t.Errorf("%v stood for election with every leader alive", s.id)
		}
	}
}
