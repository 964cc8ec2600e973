package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// testDevice is a volume in memory that takes a millisecond per request, and
// breaks promises when told to.
type testDevice struct {
	mu     sync.Mutex
	data   []byte
	calls  int
	before func(call int, write bool, off int64) (skip bool, err error)
	paused chan struct{} // closed: go on
}

func newTestDevice(blocks int) *testDevice {
	return &testDevice{data: make([]byte, blocks*BlockBytes)}
}

func (d *testDevice) do(write bool, p []byte, off int64) error {
	time.Sleep(ms)
	d.mu.Lock()
	paused := d.paused
	d.mu.Unlock()
	if paused != nil {
		<-paused
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	if d.before != nil {
		if skip, err := d.before(d.calls, write, off); skip || err != nil {
			return err
		}
	}
	if write {
		copy(d.data[off:], p)
	} else {
		copy(p, d.data[off:])
	}
	return nil
}

func (d *testDevice) Read(_ context.Context, p []byte, off int64) error  { return d.do(false, p, off) }
func (d *testDevice) Write(_ context.Context, p []byte, off int64) error { return d.do(true, p, off) }
func (d *testDevice) Close() error                                       { return nil }

func (d *testDevice) open(context.Context, int) (Device, error) { return d, nil }

func runFor(t *testing.T, w Workload, d time.Duration) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	o, err := w.Run(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestWorkloadMeasuresAndVerifies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newTestDevice(64)
		l := newTestLog(t, LogOptions{})
		o := runFor(t, Workload{Open: dev.open, Workers: 2, Depth: 4, Reads: 0.5, Log: l, Seed: 1}, time.Second)
		if o.Err() != nil {
			t.Error(o.Err())
		}
		// Eight lanes of a request per millisecond.
		if o.IOPS() < 7900 || o.IOPS() > 8100 || o.Reads < 3000 || o.Writes < 3000 || o.Bytes != (o.Reads+o.Writes)*BlockBytes {
			t.Errorf("%v", o)
		}
		if o.ReadLatency.P50 != ms || o.WriteLatency.Max != ms || o.Stalls.Longest != ms {
			t.Errorf("latency of a millisecond: %v", o)
		}
		if err := VerifyAll(t.Context(), l, dev); err != nil {
			t.Error(err)
		}
		dev.data[17*BlockBytes+5] ^= 1
		if err := VerifyAll(t.Context(), l, dev); err == nil || !strings.Contains(err.Error(), "block 17: ") {
			t.Errorf("a flipped bit in block 17 reads as %v", err)
		}
	})
}

func TestWorkloadSeesAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newTestDevice(64)
		m := NewMeter()
		go func() {
			time.Sleep(500 * ms)
			resume := make(chan struct{})
			dev.mu.Lock()
			dev.paused = resume
			dev.mu.Unlock()
			m.Mark("pause")
			time.Sleep(750 * ms)
			close(resume)
		}()
		o := runFor(t, Workload{Open: dev.open, Depth: 4, Log: newTestLog(t, LogOptions{}), Meter: m}, 2*time.Second)
		if s := o.Stalls.Longest; s < 750*ms || s > 752*ms || o.Stalls.Marked[0].Stall != s {
			t.Errorf("a pause of 750ms reads as %v", o.Stalls)
		}
	})
}

func TestWorkloadFindsALostWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newTestDevice(64)
		dev.before = func(call int, write bool, _ int64) (bool, error) { return write && call%50 == 0, nil }
		l := newTestLog(t, LogOptions{})
		o := runFor(t, Workload{Open: dev.open, Depth: 4, Reads: 0.5, Log: l, Seed: 2}, time.Second)
		if o.MismatchCount == 0 || verdictOf(t, o.Mismatches) != Lost {
			t.Errorf("%v: %v", o, o.Mismatches)
		}
	})
}

func TestWorkloadCollectsEveryError(t *testing.T) {
	boom := errors.New("boom")
	for _, allowed := range []int{0, 5, 1000} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := newTestDevice(64)
				failures := int64(0)
				dev.before = func(call int, _ bool, _ int64) (bool, error) {
					if call%20 == 0 {
						failures++
						return false, boom
					}
					return false, nil
				}
				l := newTestLog(t, LogOptions{})
				o := runFor(t, Workload{Open: dev.open, Workers: 2, Depth: 2, Reads: 0.5, Log: l, MaxErrors: allowed}, time.Second)
				if o.ErrorCount != failures || !errors.Is(o.Errors, boom) || o.MismatchCount != 0 {
					t.Errorf("%d failures: %v, %v", failures, o, o.Mismatches)
				}
				if ended := o.Elapsed < 900*ms; ended != (allowed < 1000) {
					t.Errorf("it ran for %v with %d errors of %d allowed", o.Elapsed, o.ErrorCount, allowed)
				}
				if err := VerifyAll(t.Context(), l, newCopy(dev)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// newCopy holds the same, and keeps its promises.
func newCopy(d *testDevice) *testDevice { return &testDevice{data: d.data} }

func TestWorkloadThatCannotRunSaysWhy(t *testing.T) {
	l := newTestLog(t, LogOptions{})
	dev := newTestDevice(64)
	for name, w := range map[string]Workload{
		"no device":           {Log: l},
		"no log":              {Open: dev.open},
		"more lanes":          {Open: dev.open, Log: l, Workers: 8, Depth: 9},
		"requests too large":  {Open: dev.open, Log: l, Blocks: 65},
		"requests that large": {Open: dev.open, Log: l, Blocks: maxChangeBlocks + 1},
	} {
		if _, err := w.Run(t.Context(), 0); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device that never answers must not hold the load for ever.
func TestWorkloadGivesUpOnWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Workload{Open: func(context.Context, int) (Device, error) { return hung{}, nil }, Depth: 2, Log: newTestLog(t, LogOptions{})}
		o := runFor(t, w, time.Second)
		if o.ErrorCount == 0 || !errors.Is(o.Errors, context.Canceled) || o.Elapsed != 2*time.Second {
			t.Errorf("%v: %v", o, o.Errors)
		}
	})
}

type hung struct{}

func (hung) Read(ctx context.Context, _ []byte, _ int64) error  { <-ctx.Done(); return ctx.Err() }
func (hung) Write(ctx context.Context, _ []byte, _ int64) error { <-ctx.Done(); return ctx.Err() }
func (hung) Close() error                                       { return nil }

func TestRegistersAreLinearizableOnAGoodDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newTestDevice(8)
		dev.before = func(call int, write bool, _ int64) (bool, error) {
			switch {
			case call%97 == 0 && write:
				return false, errors.New("not done")
			case call%89 == 0:
				return true, errors.New("no answer")
			}
			return false, nil
		}
		h := NewHistory()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		failed, errs := Registers{Open: dev.open, Clients: 4, Reads: 0.5, History: h, Volume: 7, Seed: 3}.Run(ctx)
		if failed == 0 || errs == nil {
			t.Error("the errors are gone")
		}
		if j := h.Check(time.Minute, ""); j.Answer != Linearizable || j.Operations < 3000 {
			t.Error(j)
		}
	})
}

func TestRegistersFindAStaleRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newTestDevice(8)
		old := make([]byte, len(dev.data))
		dev.before = func(call int, write bool, off int64) (bool, error) {
			if !write && call == 700 {
				copy(dev.data[off:off+BlockBytes], old[off:]) // as an old leader would answer
			}
			if call == 300 {
				copy(old, dev.data)
			}
			return false, nil
		}
		h := NewHistory()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, errs := (Registers{Open: dev.open, Clients: 4, Blocks: []int64{1, 2}, Reads: 0.9, History: h, Volume: 7, Seed: 3}).Run(ctx); errs != nil {
			t.Error(errs)
		}
		if j := h.Check(time.Minute, t.TempDir()); j.Answer != Violated || len(j.Files) != 1 {
			t.Error(j)
		}
	})
}
