package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/volume"
)

// benchCase is one row to measure.
type benchCase struct {
	op        backend.OpKind
	blockSize int64
	depth     int
	time      time.Duration
}

// Latencies are kept with three digits, from 1 ns to maxLatency; a slower
// request counts as that.
const (
	maxLatency    = time.Minute
	latencyDigits = 3
)

// benchDriver does what a front end's connection does: it takes a buffer, tries
// the request inline, and submits it if that would block. It keeps up to a
// fixed number of requests in flight. One goroutine uses it.
type benchDriver struct {
	handle *gateway.Handle
	op     backend.OpKind
	free   []*benchRequest
	// done receives the completed ones; it has room for all of them.
	done     chan *benchRequest
	inFlight int
	inline   int64
	latency  *hdrhistogram.Histogram
	err      error
}

// benchRequest is a request and its clock.
type benchRequest struct {
	volume.Request
	driver   *benchDriver
	buffer   *gateway.Buffer
	started  time.Time
	finished time.Time
}

// RequestDone implements volume.Completer.
func (r *benchRequest) RequestDone(*volume.Request) {
	r.finished = time.Now()
	r.driver.done <- r
}

func newBenchDriver(handle *gateway.Handle, op backend.OpKind, depth int) *benchDriver {
	d := &benchDriver{
		handle: handle, op: op, done: make(chan *benchRequest, depth),
		latency: hdrhistogram.New(1, int64(maxLatency), latencyDigits),
	}
	for range depth {
		d.free = append(d.free, &benchRequest{driver: d})
	}
	return d
}

// one starts a request, waiting for another to end when all are in flight.
func (d *benchDriver) one(ctx context.Context, off, length int64) error {
	for len(d.free) == 0 {
		d.harvest()
	}
	started := time.Now()
	buffer := d.handle.TryBuffer(length)
	for buffer == nil && d.inFlight > 0 {
		d.harvest()
		buffer = d.handle.TryBuffer(length)
	}
	if buffer == nil {
		var err error
		if buffer, err = d.handle.Buffer(ctx, length); err != nil {
			return err
		}
	}
	r := d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	r.Reset()
	r.started, r.buffer = started, buffer
	r.Op, r.Off, r.Len, r.Done = d.op, off, length, r
	if length > 0 {
		r.Data = buffer.Data[:length]
	}
	if d.handle.Try(&r.Request) {
		r.finished = time.Now()
		d.inline++
		d.finish(r)
	} else {
		d.inFlight++
		d.handle.Submit(&r.Request)
	}
	return d.err
}

// harvest waits for one submitted request.
func (d *benchDriver) harvest() {
	r := <-d.done
	d.inFlight--
	d.finish(r)
}

func (d *benchDriver) finish(r *benchRequest) {
	if r.Err != nil && d.err == nil {
		d.err = r.Err
	}
	// The only possible error is a value out of range, which min rules out.
	_ = d.latency.RecordValue(min(max(1, int64(r.finished.Sub(r.started))), int64(maxLatency)))
	r.buffer.Release()
	r.buffer = nil
	d.free = append(d.free, r)
}

// drain waits for all requests in flight and returns the first error of any.
func (d *benchDriver) drain() error {
	for d.inFlight > 0 {
		d.harvest()
	}
	return d.err
}

// close leaves nothing in flight, whatever happened before.
func (d *benchDriver) close() { _ = d.drain() }

// measure runs one case at random aligned offsets.
func measure(ctx context.Context, handle *gateway.Handle, c benchCase) (benchRow, error) {
	d := newBenchDriver(handle, c.op, c.depth)
	defer d.close()
	blocks := handle.Info().Size / c.blockSize
	random := rand.New(rand.NewPCG(1, uint64(c.depth))) // the same offsets in every run

	runtime.GC()
	before, err := takeUsage()
	if err != nil {
		return benchRow{}, err
	}
	for end := before.at.Add(c.time); time.Now().Before(end) && ctx.Err() == nil; {
		if err := d.one(ctx, random.Int64N(blocks)*c.blockSize, c.blockSize); err != nil {
			return benchRow{}, err
		}
	}
	if err := d.drain(); err != nil {
		return benchRow{}, err
	}
	after, err := takeUsage()
	if err != nil {
		return benchRow{}, err
	}
	if err := ctx.Err(); err != nil {
		return benchRow{}, err
	}
	return d.row(c, before, after), nil
}

func (d *benchDriver) row(c benchCase, before, after usage) benchRow {
	seconds := after.at.Sub(before.at).Seconds()
	n := d.latency.TotalCount()
	iops := float64(n) / seconds
	return benchRow{
		Op: c.op.String(), BlockSize: c.blockSize, Depth: c.depth,
		Seconds: seconds, Requests: n, Inline: d.inline,
		IOPS: iops, BytesPerSecond: iops * float64(c.blockSize),
		P50: d.latency.ValueAtQuantile(50), P95: d.latency.ValueAtQuantile(95),
		P99: d.latency.ValueAtQuantile(99), P999: d.latency.ValueAtQuantile(99.9), Max: d.latency.Max(),
		CPUPerIO:    float64(after.cpu-before.cpu) / float64(n),
		AllocsPerIO: float64(after.allocs-before.allocs) / float64(n),
	}
}

// usage is what the process has used up to a moment.
type usage struct {
	at     time.Time
	cpu    time.Duration
	allocs uint64
}

func takeUsage() (usage, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return usage{}, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{
		at:     time.Now(),
		cpu:    time.Duration(unix.TimevalToNsec(r.Utime) + unix.TimevalToNsec(r.Stime)),
		allocs: m.Mallocs,
	}, nil
}
