package e2e

import (
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend/audit"
)

// TestFaults does everything to the servers of a cluster that they must survive,
// under load that checks all it reads, and compares the replicas in the end.
func TestFaults(t *testing.T) {
	parallelInShortForm(t)
	f := startFleet(t, fleetOptions{copysets: 3})
	g := f.serve()
	for _, c := range []struct {
		name string
		test func(f *fleet, g *gateway)
	}{
		{"leader killed", testLeaderKilled},
		{"leader hangs", testLeaderHangs},
		{"events that clients hardly notice", testCalmEvents},
		{"no MDS", testNoMDS},
		{"sleeping leader never answers stale", testSleepingLeader},
		{"leader cut off from its peers never answers stale", testLeaderCutOff},
		{"gateway cut off from the leader", testGatewayCutOff},
		{"random faults stay linearizable", testRandomFaults},
		{"newer gateway shuts the older one out", testTakeOver},
		{"restart of everything", testRestartOfEverything},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(f.at(t), g) }) && !longFaults {
			return
		}
	}
	f.compareReplicas()
}

// bound is what the stalls after events of one name must keep to. It is judged in
// the long form only.
type bound struct {
	event    string
	p50, max time.Duration
}

// checkStalls prints the distribution of stalls, and judges it.
func checkStalls(t *testing.T, m *audit.Meter, bounds ...bound) {
	t.Helper()
	for _, b := range bounds {
		s := m.Stalls().Only(b.event)
		t.Logf("%s: %v", b.event, s)
		if !longFaults {
			continue
		}
		if p50 := s.Percentile(50); b.p50 > 0 && p50 > b.p50 {
			t.Errorf("%s: half of the stalls are longer than %v, at most %v", b.event, p50, b.p50)
		}
		if s.Longest > b.max {
			t.Errorf("%s: longest stall %v, at most %v", b.event, s.Longest, b.max)
		}
	}
}

func testLeaderKilled(f *fleet, g *gateway) {
	load := f.load(g)
	for range inForm(2, 120) { // ten minutes
		f.awaitHealthy()
		leader := f.gather()
		begun := time.Now()
		load.meter.Mark("kill of the leader")
		f.kill(leader)
		// The fault itself: how long it stays away, and how far apart kills are.
		time.Sleep(inForm(500*time.Millisecond, 2*time.Second))
		load.meter.Mark("its restart")
		f.start(leader)
		load.progress(10)
		time.Sleep(time.Until(begun.Add(inForm(0, 5*time.Second))))
	}
	load.end()
	checkStalls(f.t, load.meter, bound{"kill of the leader", 300 * time.Millisecond, time.Second}, bound{"its restart", 0, 200 * time.Millisecond})
}

func testLeaderHangs(f *fleet, g *gateway) {
	load := f.load(g)
	for range inForm(1, 50) {
		leader := f.gather()
		load.meter.Mark("stop of the leader")
		f.stop(leader)
		time.Sleep(inForm(time.Second, 3*time.Second)) // the fault itself
		load.meter.Mark("its awakening")
		f.resume(leader)
		load.progress(10)
	}
	load.end()
	checkStalls(f.t, load.meter, bound{"stop of the leader", 600 * time.Millisecond, time.Second}, bound{"its awakening", 0, time.Second})
}

func testCalmEvents(f *fleet, g *gateway) {
	load := f.load(g)
	for range inForm(1, 50) {
		f.awaitHealthy()
		leader := f.gather()
		victim := f.follower(1)
		load.meter.Mark("kill of a follower")
		f.kill(victim)
		load.progress(100)
		time.Sleep(inForm(300*time.Millisecond, 2*time.Second)) // the fault itself
		load.meter.Mark("its restart")
		f.start(victim)
		f.awaitHealthy()

		to := f.follower(1)
		load.meter.Mark("transfer")
		f.transfer(1, to)
		load.progress(100)

		load.meter.Mark("graceful restart of a leader")
		f.terminate(leader)
		f.start(leader)
		load.progress(100)
	}
	load.end()
	checkStalls(f.t, load.meter,
		bound{"kill of a follower", 0, 100 * time.Millisecond},
		bound{"transfer", 0, 200 * time.Millisecond},
		bound{"graceful restart of a leader", 0, 200 * time.Millisecond})
}

func testNoMDS(f *fleet, g *gateway) {
	load := f.load(g)
	f.awaitHealthy()
	leader := f.gather()
	load.meter.Mark("kill of the MDS")
	f.kill(f.mds)
	load.progress(500)
	time.Sleep(inForm(0, 5*time.Minute)) // the fault itself

	// A leader dies while nobody can be asked who leads.
	load.meter.Mark("kill of the leader, without an MDS")
	f.kill(leader)
	load.progress(100)
	f.start(leader)
	load.progress(100)
	load.meter.Mark("return of the MDS")
	f.start(f.mds)
	f.awaitHealthy()
	load.progress(100)
	load.end()
	checkStalls(f.t, load.meter, bound{"kill of the MDS", 0, 100 * time.Millisecond},
		bound{"kill of the leader, without an MDS", 0, time.Second}, bound{"return of the MDS", 0, 100 * time.Millisecond})
}

// Every server is killed at once: a power cut that the page cache survives.
func testRestartOfEverything(f *fleet, g *gateway) {
	load := f.load(g)
	for range inForm(1, 100) {
		load.progress(100)
		load.meter.Mark("kill of everything")
		all := append(f.byName(), f.mds)
		for _, s := range all {
			f.stop(s) // so that they end at one moment
		}
		for _, s := range all {
			f.kill(s)
		}
		f.start(f.mds)
		f.start(f.byName()...)
		load.progress(100)
		f.awaitHealthy()
	}
	load.end()
	checkStalls(f.t, load.meter, bound{"kill of everything", 0, 10 * time.Second})
}
