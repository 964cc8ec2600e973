package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend/audit"
	"github.com/opencurve/curve-nbd/nbd/client"
)

const (
	// faultVolume is the size of the tests' volumes, in bytes: 4 chunks.
	faultVolume  = 64 << 20
	faultWorkers = 2
	faultDepth   = 4
)

// faultLoad is a load on a volume that checks what it reads, while servers fail.
type faultLoad struct {
	t     *testing.T
	open  func(ctx context.Context) (audit.Device, error)
	log   *audit.Log
	meter *audit.Meter
	stop  context.CancelFunc
	done  chan error
}

// opener connects to an export; unlike gateway.open it may be used on any
// goroutine.
func (g *gateway) opener(volume string) func(ctx context.Context) (audit.Device, error) {
	network, address, _ := strings.Cut(g.address("nbd"), ":")
	return func(ctx context.Context) (audit.Device, error) {
		conn, err := client.Open(ctx, client.Target{Network: network, Address: address, Export: volume}, client.Options{})
		if err != nil {
			return nil, err
		}
		return nbdDevice{conn}, nil
	}
}

// load starts a load on the volume that the parts of the test share.
func (f *fleet) load(g *gateway) *faultLoad {
	f.t.Helper()
	const volume = "pg"
	if f.volumes.log == nil {
		f.volumes.log = f.newVolume(g, volume)
	}
	return f.loadOn(g, volume, f.volumes.log)
}

// newVolume makes a volume that has its segment, and a log of it.
func (f *fleet) newVolume(g *gateway, volume string) *audit.Log {
	f.t.Helper()
	g.must("volume", "create", volume, "--size", fmt.Sprint(faultVolume))
	log, err := audit.NewLog(audit.LogOptions{Volume: 1, Blocks: faultVolume / audit.BlockBytes, Seed: uint64(time.Now().UnixNano())})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := oneWrite(g.open(volume), log, log.Options().Blocks-1); err != nil {
		f.t.Fatal(err)
	}
	return log
}

// loadOn starts a load that goes on until its end is called.
func (f *fleet) loadOn(g *gateway, volume string, log *audit.Log) *faultLoad {
	f.t.Helper()
	l := &faultLoad{t: f.t, open: g.opener(volume), log: log, meter: audit.NewMeter(), done: make(chan error, 1)}
	work := audit.Workload{
		Open:    func(ctx context.Context, _ int) (audit.Device, error) { return l.open(ctx) },
		Workers: faultWorkers, Depth: faultDepth, Reads: 0.5, Log: log, Meter: l.meter, Seed: log.Options().Seed,
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	ended := make(chan struct{})
	f.t.Cleanup(func() {
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		outcome, err := work.Run(ctx, patience)
		f.t.Log(outcome)
		l.done <- errors.Join(err, outcome.Err())
	}()
	l.progress(100)
	return l
}

// progress waits until the load has completed n more requests than now.
func (l *faultLoad) progress(n int64) {
	l.t.Helper()
	completed := func() (sum int64) {
		for _, e := range l.meter.Events() {
			sum += e.Completed
		}
		return sum
	}
	deadline := time.Now().Add(patience)
	for target := completed() + n; completed() < target; {
		select {
		case err := <-l.done:
			l.t.Fatalf("the load has ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the load does not go on: %d requests missing after %v", target-completed(), patience)
		}
	}
}

// end stops the load and fails the test for every error and every block that was
// wrong, and for those that are wrong now.
func (l *faultLoad) end() {
	l.t.Helper()
	l.stop()
	if err := l.outcome(); err != nil {
		l.t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dev, err := l.open(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	defer dev.Close()
	if err := audit.VerifyAll(ctx, l.log, dev); err != nil {
		l.t.Error(err)
	}
}

// outcome is what the load ended with, after stop.
func (l *faultLoad) outcome() error {
	l.t.Helper()
	select {
	case err := <-l.done:
		return err
	case <-time.After(2 * patience):
		l.t.Fatal("the load does not end")
		return nil
	}
}
