package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/backend/faults"
)

// registers is a load of several clients on the same few blocks, whose history is
// checked for linearizability.
type registers struct {
	t       *testing.T
	history *audit.History
	meter   *audit.Meter
	stop    context.CancelFunc
	done    chan error
}

// startRegisters contends for some blocks that nobody has used, of all chunks of the
// volume that is there for that.
func (f *fleet) startRegisters(g *gateway, seed uint64) *registers {
	f.t.Helper()
	const volume, perChunk, chunks = "contended", 2, faultVolume / backend.DefaultChunkSize
	if f.volumes.contended == 0 {
		g.must("volume", "create", volume, "--size", fmt.Sprint(faultVolume))
	}
	var blocks []int64
	for chunk := range int64(chunks) {
		for i := range int64(perChunk) {
			blocks = append(blocks, chunk*backend.DefaultChunkSize/audit.BlockBytes+f.volumes.contended+i)
		}
	}
	f.volumes.contended += perChunk
	r := &registers{t: f.t, history: audit.NewHistory(), meter: audit.NewMeter(), done: make(chan error, 1)}
	open := g.opener(volume)
	load := audit.Registers{
		Open:    func(ctx context.Context, _ int) (audit.Device, error) { return open(ctx) },
		Clients: 6, Blocks: blocks, Volume: 1, Seed: seed, Reads: 0.6, Pause: 2 * time.Millisecond, Meter: r.meter, History: r.history,
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	f.t.Cleanup(cancel)
	go func() {
		_, err := load.Run(ctx)
		r.done <- err
	}()
	return r
}

// end stops the load and judges what it saw. No request may have failed.
func (r *registers) end() {
	r.t.Helper()
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(2 * patience):
		r.t.Fatal("the load does not end")
	}
	j := r.history.Check(patience, violationDir(r.t))
	r.t.Logf("%v; %v", j, r.meter.Stalls())
	if j.Answer != audit.Linearizable {
		r.t.Error(j)
	}
}

// violationDir outlives the test, unlike t.TempDir: CURVE_FAULTS_OUT, or else the
// system's directory for temporary files.
func violationDir(t *testing.T) string {
	dir := os.Getenv("CURVE_FAULTS_OUT")
	if dir == "" {
		dir = os.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "curve-nbd-history-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) }) // goes if it is empty
	return dir
}

// faultSeed is CURVE_FAULTS_SEED, or else a new one.
func faultSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CURVE_FAULTS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("CURVE_FAULTS_SEED: %v", err)
		}
	}
	t.Logf("CURVE_FAULTS_SEED=%d", seed)
	return seed
}

// A leader that slept through its own replacement must not answer from memory.
func testSleepingLeader(f *fleet, g *gateway) {
	load := f.startRegisters(g, faultSeed(f.t))
	for range inForm(1, 20) {
		leader := f.gather()
		load.meter.Mark("stop of the leader")
		f.stop(leader)
		time.Sleep(inForm(time.Second, 5*time.Second)) // the fault itself
		load.meter.Mark("its awakening")
		f.resume(leader)
		time.Sleep(300 * time.Millisecond) // of load around it
	}
	load.end()
	checkStalls(f.t, load.meter, bound{"stop of the leader", 600 * time.Millisecond, time.Second})
}

// A leader that its peers cannot reach, or that cannot reach them, but the gateway
// can: it must not serve what a new leader has made old.
func testLeaderCutOff(f *fleet, g *gateway) {
	load := f.startRegisters(g, faultSeed(f.t))
	hold := faults.Rule{Hold: true}
	ways := []struct {
		name string
		cut  func(leader, peer string)
	}{
		{"cut off from its peers", func(leader, peer string) { f.net.Block(leader, peer) }},
		{"cannot send to its peers", func(leader, peer string) { f.net.Set(leader, peer, hold) }},
		{"cannot hear its peers", func(leader, peer string) { f.net.Set(peer, leader, hold) }},
		{"connections to its peers reset", f.net.Cut},
	}
	for range inForm(1, 15) {
		for _, way := range ways {
			if longFaults {
				f.awaitHealthy() // so that each stall is that of its own event
			}
			leader := f.gather()
			load.meter.Mark(way.name)
			for _, s := range f.byName() {
				if s != leader {
					way.cut(leader.name, s.name)
				}
			}
			time.Sleep(inForm(700*time.Millisecond, 3*time.Second)) // the fault itself
			load.meter.Mark("healed")
			f.net.Heal()
		}
	}
	f.awaitHealthy()
	load.end()
	for _, way := range ways {
		checkStalls(f.t, load.meter, bound{way.name, 0, 2 * time.Second})
	}
}

// The gateway loses the leader, the leader loses nobody.
func testGatewayCutOff(f *fleet, g *gateway) {
	load := f.startRegisters(g, faultSeed(f.t))
	cut := inForm(500*time.Millisecond, 3*time.Second)
	for range inForm(1, 10) {
		leader := f.gather()
		load.meter.Mark("cut off from the leader")
		f.net.Block("gateway", leader.name)
		time.Sleep(cut) // the fault itself
		load.meter.Mark("healed")
		f.net.Heal()
		f.awaitHealthy()
		time.Sleep(100 * time.Millisecond) // of load: the cut's stall ends before the next fault
		load.meter.Mark("connections to the leader reset")
		f.net.Cut("gateway", leader.name)
		time.Sleep(200 * time.Millisecond) // of load around it
		// A stall counts for every event that it touches: the next cut's shall not touch
		// the reset.
		load.meter.Mark("calm")
		time.Sleep(100 * time.Millisecond)
	}
	load.end()
	checkStalls(f.t, load.meter, bound{"healed", 0, cut + time.Second}, bound{"connections to the leader reset", 0, 200 * time.Millisecond})
}

// testRandomFaults is one fault after the other, of all kinds.
// CURVE_FAULTS_RUNS sets how many runs.
func testRandomFaults(f *fleet, g *gateway) {
	t := f.t
	runs := inForm(1, 100)
	if s := os.Getenv("CURVE_FAULTS_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	seed := faultSeed(t)
	for run := range runs {
		load := f.startRegisters(g, seed+uint64(run))
		ctx, cancel := context.WithTimeout(t.Context(), inForm(4*time.Second, 10*time.Second))
		n, err := faults.Plan{
			Seed: seed + uint64(run), Faults: f.everyFault(), GapMin: 200 * time.Millisecond, GapMax: time.Second,
			Logf: t.Logf, Mark: load.meter.Mark,
		}.Run(ctx)
		cancel()
		if err != nil || n == 0 {
			t.Fatalf("%d faults: %v", n, err)
		}
		f.awaitHealthy()
		load.end()
		if t.Failed() {
			return
		}
	}
}

// everyFault is what a plan may do, each to one server at a time.
func (f *fleet) everyFault() []faults.Fault {
	victim := func(rnd *rand.Rand) *fleetServer { return f.byName()[rnd.IntN(3)] }
	on := func(name string, weight int, low, high time.Duration, do func(rnd *rand.Rand, s *fleetServer) (heal func() error, err error)) faults.Fault {
		return faults.Fault{Name: name, Weight: weight, Min: low, Max: high, Inject: func(_ context.Context, rnd *rand.Rand) (string, func() error, error) {
			s := victim(rnd)
			heal, err := do(rnd, s)
			return s.name, heal, err
		}}
	}
	network := func(name string, set func(rnd *rand.Rand, s *fleetServer)) faults.Fault {
		return on(name, 2, 200*time.Millisecond, 2*time.Second, func(rnd *rand.Rand, s *fleetServer) (func() error, error) {
			set(rnd, s)
			return func() error { f.net.Heal(); return nil }, nil
		})
	}
	return []faults.Fault{
		on("kill", 3, 100*time.Millisecond, 2*time.Second, func(_ *rand.Rand, s *fleetServer) (func() error, error) {
			f.kill(s)
			return func() error { f.start(s); return nil }, nil
		}),
		on("stop", 3, 100*time.Millisecond, 3*time.Second, func(_ *rand.Rand, s *fleetServer) (func() error, error) {
			return s.process.Continue, s.process.Stop()
		}),
		on("reset", 1, 0, 0, func(_ *rand.Rand, s *fleetServer) (func() error, error) {
			f.net.Cut(s.name, faults.Anyone)
			return func() error { return nil }, nil
		}),
		on("refuse", 1, 100*time.Millisecond, time.Second, func(_ *rand.Rand, s *fleetServer) (func() error, error) {
			f.net.Cut(s.name, faults.Anyone)
			return func() error { return errors.Join(s.chunkProxy.Refuse(false), s.peerProxy.Refuse(false)) },
				errors.Join(s.chunkProxy.Refuse(true), s.peerProxy.Refuse(true))
		}),
		network("partition", func(_ *rand.Rand, s *fleetServer) { f.net.Block(s.name, faults.Anyone) }),
		network("peer partition", func(_ *rand.Rand, s *fleetServer) {
			for _, other := range f.byName() {
				if other != s {
					f.net.Block(s.name, other.name)
				}
			}
		}),
		network("one way out", func(_ *rand.Rand, s *fleetServer) { f.net.Set(s.name, faults.Anyone, faults.Rule{Hold: true}) }),
		network("one way in", func(_ *rand.Rand, s *fleetServer) { f.net.Set(faults.Anyone, s.name, faults.Rule{Hold: true}) }),
		network("one link", func(rnd *rand.Rand, s *fleetServer) { f.net.Block(s.name, victim(rnd).name) }),
		network("slow", func(rnd *rand.Rand, s *fleetServer) {
			f.net.Set(s.name, faults.Anyone, faults.Rule{Delay: time.Duration(rnd.IntN(100)) * time.Millisecond, Jitter: 20 * time.Millisecond})
		}),
	}
}
