package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// lane is one request in flight at a time, on blocks that no other lane touches.
type lane struct {
	load          *load
	dev           Device
	writer        uint32
	first, blocks int64
	rnd           *rand.Rand
	data          []byte
}

// run goes on until ctx ends or the device fails.
func (r *lane) run(ctx, requests context.Context) {
	r.data = make([]byte, r.load.Blocks*BlockBytes)
	reads, writes := hdrhistogram.New(1, slowestTracked, 3), hdrhistogram.New(1, slowestTracked, 3)
	defer func() {
		r.load.mu.Lock()
		defer r.load.mu.Unlock()
		r.load.readTimes.Merge(reads)
		r.load.writingTimes.Merge(writes)
	}()
	for ctx.Err() == nil {
		block := r.first + r.rnd.Int64N(r.blocks-int64(r.load.Blocks)+1)
		var took time.Duration
		var err error
		times, count := writes, &r.load.writes
		if r.rnd.Float64() < r.load.Reads {
			times, count = reads, &r.load.reads
			took, err = r.read(requests, block)
		} else {
			took, err = r.write(requests, block)
		}
		if err != nil {
			r.load.fail(err)
			return
		}
		// A time beyond the histogram's range counts as its end.
		_ = times.RecordValue(min(max(took.Microseconds(), 1), slowestTracked))
		count.Add(1)
		r.load.bytes.Add(int64(len(r.data)))
		if r.load.Pause > 0 {
			pause(ctx, r.load.Pause)
		}
	}
}

func (r *lane) read(ctx context.Context, block int64) (time.Duration, error) {
	read, err := r.load.Log.BeginRead(block, r.load.Blocks)
	if err != nil {
		return 0, err
	}
	ticket := r.load.Meter.Submit()
	err = r.dev.Read(ctx, r.data, block*BlockBytes)
	took := r.load.Meter.Complete(ticket)
	if err != nil {
		read.Abandon()
		return took, fmt.Errorf("read at block %d: %w", block, err)
	}
	if bad := read.Verify(r.data); bad != nil {
		r.load.mismatch(bad)
	}
	return took, nil
}

func (r *lane) write(ctx context.Context, block int64) (time.Duration, error) {
	change, err := r.load.Log.Write(r.writer, block, r.data)
	if err != nil {
		return 0, err
	}
	ticket := r.load.Meter.Submit()
	err = r.dev.Write(ctx, r.data, block*BlockBytes)
	took := r.load.Meter.Complete(ticket)
	if err != nil {
		return took, fmt.Errorf("write of version at block %d: %w", block, err)
	}
	return took, r.load.Log.Acknowledge(change, false)
}

// VerifyAll reads every block of the log through dev and holds it against it. The
// error joins what is wrong. Nothing else may write meanwhile.
func VerifyAll(ctx context.Context, log *Log, dev Device) error {
	return sweep(ctx, log, func(block int64, data []byte) error {
		read, err := log.BeginRead(block, len(data)/BlockBytes)
		if err != nil {
			return err
		}
		if err := dev.Read(ctx, data, block*BlockBytes); err != nil {
			read.Abandon()
			return fmt.Errorf("read at block %d: %w", block, err)
		}
		return read.Verify(data)
	})
}

// RecoverAll is VerifyAll after a crash; see Log.Recover.
func RecoverAll(ctx context.Context, log *Log, dev Device) error {
	return sweep(ctx, log, func(block int64, data []byte) error {
		if err := dev.Read(ctx, data, block*BlockBytes); err != nil {
			return fmt.Errorf("read at block %d: %w", block, err)
		}
		return log.Recover(block, data)
	})
}

// sweepBlocks are read at once: 1 MiB.
const sweepBlocks = 256

func sweep(ctx context.Context, log *Log, check func(block int64, data []byte) error) error {
	data := make([]byte, sweepBlocks*BlockBytes)
	var bad []error
	total := log.Options().Blocks
	for block := int64(0); block < total; block += sweepBlocks {
		n := min(sweepBlocks, total-block)
		if err := check(block, data[:n*BlockBytes]); err != nil && len(bad) < maxNoted {
			bad = append(bad, err)
		}
		if err := ctx.Err(); err != nil {
			bad = append(bad, err)
			break
		}
	}
	return errors.Join(bad...)
}
