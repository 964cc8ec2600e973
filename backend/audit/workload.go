package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/opencurve/curve-nbd/backend"
)

// Device is a connection to a volume. Its methods may be called concurrently, and
// return when the request is complete. Offsets are bytes.
type Device interface {
	Read(ctx context.Context, p []byte, off int64) error
	Write(ctx context.Context, p []byte, off int64) error
	Close() error
}

// Workload is a load that checks what it reads. Every worker has a device of its
// own and blocks of its own, which its lanes share out.
type Workload struct {
	// Open connects one worker. After an error of Open or of the device, a worker
	// that may go on (MaxErrors) opens again.
	Open func(ctx context.Context, worker int) (Device, error)
	// Workers times Depth requests are in flight. Default 1 each.
	Workers, Depth int
	// Blocks per request. Default 1.
	Blocks int
	// Reads is the share of reads, from 0 to 1.
	Reads float64
	// Log holds what is written; its blocks are those used.
	Log *Log
	// Meter to use; nil for a new one.
	Meter *Meter
	// Seed of the choice of blocks.
	Seed uint64
	// MaxErrors is how many errors end the load; 0 for the first one.
	MaxErrors int
	// Pause of a lane between two requests, for a light load.
	Pause time.Duration
}

// Outcome of a Workload.
type Outcome struct {
	Elapsed       time.Duration
	Reads, Writes int64
	Bytes         int64
	// ReadLatency and WriteLatency are of what succeeded.
	ReadLatency, WriteLatency Latency
	Stalls                    Stalls
	// Mismatches joins what reads found that must not be there, and Errors what
	// failed; each joins the first 100, and the counts are of all.
	Mismatches, Errors        error
	MismatchCount, ErrorCount int64
}

// Err is nil if nothing failed and everything read was right.
func (o Outcome) Err() error { return errors.Join(o.Mismatches, o.Errors) }

// IOPS is requests per second.
func (o Outcome) IOPS() float64 { return float64(o.Reads+o.Writes) / max(o.Elapsed.Seconds(), 1e-9) }

func (o Outcome) String() string {
	return fmt.Sprintf("%d reads, %d writes in %v: %.0f IOPS, %.1f MB/s; read %v; write %v; %v; %d errors, %d mismatches",
		o.Reads, o.Writes, o.Elapsed.Round(time.Millisecond), o.IOPS(), float64(o.Bytes)/1e6/max(o.Elapsed.Seconds(), 1e-9),
		o.ReadLatency, o.WriteLatency, o.Stalls, o.ErrorCount, o.MismatchCount)
}

// Latency is a distribution.
type Latency struct{ P50, P99, P999, Max time.Duration }

func (l Latency) String() string {
	return fmt.Sprintf("p50 %v p99 %v max %v", l.P50.Round(time.Microsecond), l.P99.Round(time.Microsecond), l.Max.Round(time.Microsecond))
}

const (
	// slowestTracked bounds the latency histograms, in µs: an hour.
	slowestTracked = 3600e6
	// maxNoted bounds the errors, and the mismatches, that are kept.
	maxNoted = 100
	// reopenAfter keeps a worker whose device is gone from spinning.
	reopenAfter = 10 * time.Millisecond
)

// load is a Workload that runs.
type load struct {
	Workload
	stop context.CancelFunc

	reads, writes, bytes atomic.Int64

	mu                      sync.Mutex // guards what follows
	errors, mismatches      []error
	errorCount, badCount    int64
	readTimes, writingTimes *hdrhistogram.Histogram
}

// Run drives the load until ctx ends or there were too many errors. What is in
// flight then is finished first, within drain.
func (w Workload) Run(ctx context.Context, drain time.Duration) (Outcome, error) {
	w.Workers, w.Depth, w.Blocks = max(w.Workers, 1), max(w.Depth, 1), max(w.Blocks, 1)
	if w.Open == nil || w.Log == nil {
		return Outcome{}, fmt.Errorf("%w: a workload needs Open and Log", backend.ErrInvalid)
	}
	share := w.Log.Options().Blocks / int64(w.Workers*w.Depth)
	if share < int64(w.Blocks) || w.Blocks > maxChangeBlocks {
		return Outcome{}, fmt.Errorf("%w: %d lanes of %d blocks a request on %d blocks", backend.ErrInvalid, w.Workers*w.Depth, w.Blocks, w.Log.Options().Blocks)
	}
	if w.Meter == nil {
		w.Meter = NewMeter()
	}
	l := &load{Workload: w, readTimes: hdrhistogram.New(1, slowestTracked, 3), writingTimes: hdrhistogram.New(1, slowestTracked, 3)}
	// Requests outlive ctx, so that stopping makes no outcome unknown.
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	ctx, l.stop = context.WithCancel(ctx)
	defer l.stop()
	release := context.AfterFunc(ctx, func() { time.AfterFunc(drain, cut) })
	defer release()

	begun := time.Now()
	var workers sync.WaitGroup
	for i := range w.Workers {
		workers.Go(func() { l.worker(ctx, requests, i, share) })
	}
	workers.Wait()
	return l.outcome(time.Since(begun)), nil
}

func (l *load) outcome(elapsed time.Duration) Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Outcome{
		Elapsed: elapsed, Reads: l.reads.Load(), Writes: l.writes.Load(), Bytes: l.bytes.Load(),
		ReadLatency: latencyOf(l.readTimes), WriteLatency: latencyOf(l.writingTimes), Stalls: l.Meter.Stalls(),
		Mismatches: errors.Join(l.mismatches...), Errors: errors.Join(l.errors...),
		MismatchCount: l.badCount, ErrorCount: l.errorCount,
	}
}

func latencyOf(h *hdrhistogram.Histogram) Latency {
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) * time.Microsecond }
	return Latency{P50: at(50), P99: at(99), P999: at(99.9), Max: time.Duration(h.Max()) * time.Microsecond}
}

// worker keeps a device, until the load ends.
func (l *load) worker(ctx, requests context.Context, worker int, share int64) {
	for try := uint64(0); ctx.Err() == nil; try++ {
		dev, err := l.Open(ctx, worker)
		if err != nil {
			if ctx.Err() == nil {
				l.fail(fmt.Errorf("worker %d: open: %w", worker, err))
			}
			pause(ctx, reopenAfter)
			continue
		}
		broken, lost := context.WithCancel(ctx)
		var lanes sync.WaitGroup
		for d := range l.Depth {
			n := worker*l.Depth + d
			r := &lane{load: l, dev: dev, writer: uint32(n), first: int64(n) * share, blocks: share,
				rnd: rand.New(rand.NewPCG(l.Seed, uint64(n)<<32|try))}
			lanes.Go(func() {
				defer lost()
				r.run(broken, requests)
			})
		}
		lanes.Wait()
		lost()
		if err := dev.Close(); err != nil && ctx.Err() == nil {
			l.fail(fmt.Errorf("worker %d: close: %w", worker, err))
		}
		pause(ctx, reopenAfter)
	}
}

// pause waits for d or for ctx to end.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.errorCount++; l.errorCount > int64(l.MaxErrors) {
		l.stop()
	}
	if len(l.errors) < maxNoted {
		l.errors = append(l.errors, err)
	}
}

func (l *load) mismatch(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.badCount++
	if len(l.mismatches) < maxNoted {
		l.mismatches = append(l.mismatches, err)
	}
}
