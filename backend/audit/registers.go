package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Registers is a load for History: clients that read and write the same few blocks
// at the same time.
type Registers struct {
	// Open connects one client. It is called again after an error.
	Open func(ctx context.Context, client int) (Device, error)
	// Clients, each with one request in flight. Default 4.
	Clients int
	// Blocks that they contend for. Default 8.
	Blocks []int64
	// Volume and Seed mark what is written.
	Volume backend.VolumeID
	Seed   uint64
	// Reads is the share of reads, from 0 to 1.
	Reads float64
	// Pause between two requests of a client: a checker needs time for every one.
	Pause time.Duration
	// Timeout of one request, after which its outcome is unknown; 0 for none.
	Timeout time.Duration
	Meter   *Meter
	History *History
}

// registerLoad is Registers that run.
type registerLoad struct {
	Registers
	ids atomic.Int64 // of clients; a client whose outcome is unknown gets a new one

	mu     sync.Mutex // guards errors and failed
	errors []error
	failed int64
}

// Run goes on until ctx ends. Errors make outcomes unknown and do not end it; they
// are returned, the first 100 of so many.
func (r Registers) Run(ctx context.Context) (count int64, errs error) {
	if r.Clients == 0 {
		r.Clients = 4
	}
	if len(r.Blocks) == 0 {
		r.Blocks = []int64{0, 1, 2, 3, 4, 5, 6, 7}
	}
	if r.Meter == nil {
		r.Meter = NewMeter()
	}
	l := &registerLoad{Registers: r}
	var clients sync.WaitGroup
	for i := range r.Clients {
		clients.Go(func() { l.client(ctx, i) })
	}
	clients.Wait()
	return l.failed, errors.Join(l.errors...)
}

func (l *registerLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if len(l.errors) < maxNoted {
		l.errors = append(l.errors, err)
	}
}

func (l *registerLoad) client(ctx context.Context, client int) {
	rnd := rand.New(rand.NewPCG(l.Seed, uint64(client)))
	for ctx.Err() == nil {
		dev, err := l.Open(ctx, client)
		if err != nil {
			if ctx.Err() == nil {
				l.fail(fmt.Errorf("client %d: open: %w", client, err))
			}
			pause(ctx, reopenAfter)
			continue
		}
		id := int(l.ids.Add(1)) - 1
		for version := uint64(1); ctx.Err() == nil; version++ {
			if err := l.request(ctx, dev, rnd, id, version); err != nil {
				l.fail(fmt.Errorf("client %d: %w", client, err))
				break
			}
			if l.Pause > 0 {
				pause(ctx, l.Pause)
			}
		}
		// What is in flight was waited for; how the good-bye goes says nothing.
		_ = dev.Close()
	}
}

func (l *registerLoad) request(ctx context.Context, dev Device, rnd *rand.Rand, id int, version uint64) error {
	// The end of the load does not cut requests off.
	ctx = context.WithoutCancel(ctx)
	if l.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Timeout)
		defer cancel()
	}
	block := l.Blocks[rnd.IntN(len(l.Blocks))]
	data := make([]byte, BlockBytes)
	stamp := Stamp{Volume: l.Volume, Block: block, Version: version, Writer: uint32(id) + 1, Seed: l.Seed}
	if rnd.Float64() < l.Reads {
		call := l.History.Read(id, block)
		ticket := l.Meter.Submit()
		err := dev.Read(ctx, data, block*BlockBytes)
		l.Meter.Complete(ticket)
		if err != nil {
			return fmt.Errorf("read of block %d: %w", block, err)
		}
		call.Saw(ValueOf(data, stamp))
		return nil
	}
	stamp.Fill(data)
	call := l.History.Write(id, block, ValueOf(data, stamp))
	ticket := l.Meter.Submit()
	err := dev.Write(ctx, data, block*BlockBytes)
	l.Meter.Complete(ticket)
	if err != nil {
		return fmt.Errorf("write of block %d: %w", block, err)
	}
	call.Returned()
	return nil
}
