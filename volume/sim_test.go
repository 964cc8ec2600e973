package volume

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opencurve/curve-nbd/backend"
)

var (
	simRuns = flag.Int("sim.runs", 30, "random simulations to run")
	simSeed = flag.Uint64("sim.seed", 0, "run this one only")
)

// TestNoWriteIsLostAndNoReadIsStale runs a volume on a cluster where everything
// goes wrong, and checks that each block behaves as a register.
func TestNoWriteIsLostAndNoReadIsStale(t *testing.T) {
	faults := make(map[string]int)
	run := func(seed uint64) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			if r := simulate(t, seed, true, 0, faults); r != porcupine.Ok {
				t.Errorf("history is %v; to see it again: -run '%s' -sim.seed %d", r, "TestNoWriteIsLostAndNoReadIsStale", seed)
			}
		})
	}
	if *simSeed != 0 {
		run(*simSeed)
		return
	}
	for range *simRuns {
		run(rand.Uint64N(1 << 40))
	}
	t.Logf("faults: %v", faults)
	for _, kind := range []string{"held", "unreachable", "repeated", "ignored", "reply lost", "cancelled", "hung",
		"connection lost", "vain election", "leader changed", "applied before"} {
		if faults[kind] == 0 {
			t.Errorf("no run had a fault of kind %q: %v", kind, faults)
		}
	}
}

// TestSimulationWithDeadline: operations that are given up have an outcome that
// is not known, and nothing else goes wrong.
func TestSimulationWithDeadline(t *testing.T) {
	faults := make(map[string]int)
	for seed := range uint64(8) {
		if r := simulate(t, seed, true, 400*time.Millisecond, faults); r != porcupine.Ok {
			t.Errorf("seed %d: history is %v", seed, r)
		}
	}
	if faults["failed"] == 0 {
		t.Error("nothing was given up")
	}
}

// TestSimulationNoticesAMissingFence shows that the checker can fail.
func TestSimulationNoticesAMissingFence(t *testing.T) {
	for seed := range uint64(60) {
		if simulate(t, seed, false, 0, make(map[string]int)) == porcupine.Illegal {
			t.Logf("noticed with seed %d", seed)
			return
		}
	}
	t.Error("nothing was noticed without the fence")
}

// access is a read or write of one block, for the checker.
type access struct {
	block int64
	write bool
	value uint64
}

// registers is the model: each block holds the value last written.
var registers = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make(map[int64][]porcupine.Operation)
		for _, op := range history {
			block := op.Input.(access).block
			parts[block] = append(parts[block], op)
		}
		var all [][]porcupine.Operation
		for _, p := range parts {
			all = append(all, p)
		}
		return all
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		a := input.(access)
		if a.write {
			return true, a.value
		}
		return output.(uint64) == state.(uint64), state
	},
}

const (
	simClients = 6
	simBlocks  = 6 // half of them on each copyset
	simTime    = 20 * time.Second
	// simPatience is longer than any fault lasts.
	simPatience = time.Minute
)

// simulate runs clients against a cluster and returns the checker's verdict.
func simulate(t *testing.T, seed uint64, fenced bool, deadline time.Duration, faults map[string]int) porcupine.CheckResult {
	var history []porcupine.Operation
	synctest.Test(t, func(t *testing.T) {
		tr := &trace{began: time.Now()}
		cluster := newSimCluster(seed, fenced)
		stats := NewStats(nil)
		v, err := Open(ctx, &scriptedMeta{trace: tr, peers: []backend.ServerID{1, 2, 3}}, cluster, "v",
			Options{Owner: "test", Stats: stats, Deadline: deadline, jitterSeed: seed + 1})
		if err != nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		var recorder simRecorder
		end := time.Now().Add(simTime)
		for i := range simClients {
			clients.Go(func() { recorder.client(v, rand.New(rand.NewPCG(seed, uint64(i)+2)), i, end) })
		}
		chaos := rand.New(rand.NewPCG(seed, 99))
		for time.Now().Before(end) {
			time.Sleep(50*time.Millisecond + time.Duration(chaos.Int64N(int64(700*time.Millisecond))))
			cluster.disturb()
		}
		clients.Wait()
		// What was held back arrives before the last look.
		time.Sleep(11 * time.Second)
		for block := range int64(simBlocks) {
			recorder.access(v, simClients, access{block: block})
		}
		if n, _ := v.Queued(); n != 0 {
			t.Errorf("seed %d: %d requests have no outcome", seed, n)
		}
		if err := v.Close(ctx); err != nil {
			t.Errorf("seed %d: close: %v", seed, err)
		}
		if n := testutil.ToFloat64(stats.illegalMoves); n != 0 {
			t.Errorf("seed %d: %v illegal moves", seed, n)
		}
		cluster.close()
		for kind, n := range cluster.faults {
			faults[kind] += n
		}
		faults["failed"] += int(recorder.failed.Load())
		if deadline == 0 && recorder.failed.Load() > 0 {
			t.Errorf("seed %d: %d requests failed", seed, recorder.failed.Load())
		}
		history = recorder.history
	})
	return porcupine.CheckOperationsTimeout(registers, history, time.Minute)
}

// simRecorder notes what clients did and saw.
type simRecorder struct {
	clock  atomic.Int64 // virtual time stands still for too long to order by
	values atomic.Uint64
	failed atomic.Int64

	mu      sync.Mutex // guards history
	history []porcupine.Operation
}

func (rec *simRecorder) client(v *Volume, random *rand.Rand, id int, end time.Time) {
	for time.Now().Before(end) {
		a := access{block: random.Int64N(simBlocks), write: random.IntN(2) == 0}
		if a.write {
			a.value = rec.values.Add(1)
		}
		rec.access(v, id, a)
		time.Sleep(time.Duration(random.Int64N(int64(60 * time.Millisecond))))
	}
}

// access runs one request to its end. A write that failed may take effect at any
// later time; a read that failed says nothing.
func (rec *simRecorder) access(v *Volume, id int, a access) {
	data := make([]byte, 4096)
	r := &Request{Op: backend.OpRead, Off: a.block%2*scriptGeometry.ChunkSize + a.block*4096, Len: 4096, Data: data}
	if a.write {
		r.Op = backend.OpWrite
		binary.LittleEndian.PutUint64(data, a.value)
	}
	done := make(signal, 1)
	r.Done = done
	op := porcupine.Operation{ClientId: id, Input: a, Call: rec.clock.Add(1)}
	v.Submit(r)
	select {
	case <-done:
	case <-time.After(simPatience):
		panic(fmt.Sprintf("no outcome of %+v after %v: %+v", a, simPatience, v.Stalls()))
	}
	op.Return = rec.clock.Add(1)
	if r.Err != nil {
		rec.failed.Add(1)
		if !a.write {
			return
		}
		op.Return = 1 << 60
	}
	op.Output = binary.LittleEndian.Uint64(data)
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.history = append(rec.history, op)
}
