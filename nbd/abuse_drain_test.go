package nbd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// loader writes numbers into blocks of its own and remembers what was
// acknowledged, in windows of requests in flight together.
type loader struct {
	base  uint64 // first byte of its blocks
	size  int    // of a write
	acked []uint64
	tried []uint64
	err   error
}

// run writes until the connection ends.
func (l *loader) run(ctx context.Context, c *client.Conn, progress *atomic.Int64) {
	for number := uint64(1); ; number++ {
		requests := make([]*client.Request, len(l.acked))
		for i := range requests {
			data := make([]byte, l.size)
			for at := 0; at < l.size; at += testBlock {
				binary.BigEndian.PutUint64(data[at:], number)
			}
			requests[i] = &client.Request{Command: client.CmdWrite, Offset: l.base + uint64(i*l.size), Data: data}
			if number%3 == 0 {
				requests[i].Flags = client.FlagFUA
			}
			if l.err = c.Start(ctx, requests[i]); l.err != nil {
				requests = requests[:i]
				break
			}
			l.tried[i] = number
		}
		for i, r := range requests {
			if err := r.Wait(); err != nil {
				l.err = err
				continue
			}
			l.acked[i] = number
			progress.Add(1)
		}
		if l.err != nil {
			return
		}
	}
}

// check reads everything back: a block holds what was acknowledged last, or
// something that was tried later.
func (l *loader) check(t *testing.T, c *client.Conn) {
	t.Helper()
	for i := range l.acked {
		data := make([]byte, l.size)
		must(t, c.Read(within(t), data, l.base+uint64(i*l.size), 0))
		for at := 0; at < l.size; at += testBlock {
			got := binary.BigEndian.Uint64(data[at:])
			if got < l.acked[i] || got > l.tried[i] {
				t.Fatalf("block %d of write %d holds %d; %d was acknowledged, %d tried", at/testBlock, i, got, l.acked[i], l.tried[i])
			}
		}
	}
}

// Every write that was acknowledged before or while the server shut down is
// there when it comes back.
func TestShutdownUnderLoadLosesNoAcknowledgedWrite(t *testing.T) {
	const clients, window = 6, 16
	dir := t.TempDir()
	sizes := []int{512, 4096, 12 << 10, 40 << 10, 128 << 10, 256 << 10}
	for round := range 5 {
		tg := serve(t, setup{dir: dir, network: []string{"unix", "tcp"}[round%2]})
		c := connect(t, tg, client.SimpleReplies)
		must(t, c.WriteZeroes(within(t), 0, tg.size, client.FlagFUA)) // of the round before
		loaders := make([]*loader, clients)
		var progress atomic.Int64
		var load sync.WaitGroup
		for i := range loaders {
			loaders[i] = &loader{base: uint64(i) * 8 * mib, size: sizes[(i+round)%len(sizes)], acked: make([]uint64, window), tried: make([]uint64, window)}
			c := connect(t, tg, styles[i%3])
			load.Go(func() { loaders[i].run(within(t), c, &progress) })
		}
		enough := int64(clients*window + rand.IntN(2000))
		eventually(t, "load is running", func() bool { return progress.Load() >= enough })
		tg.stop()
		load.Wait()
		for i, l := range loaders {
			// The end of the connection, or a refusal that says why.
			if refused := new(client.Error); errors.As(l.err, &refused) && refused.Errno != client.ESHUTDOWN {
				t.Errorf("client %d ended with: %v", i, l.err)
			}
		}
		again := serve(t, setup{dir: dir})
		c = connect(t, again, client.StructuredReplies)
		for _, l := range loaders {
			l.check(t, c)
		}
		must(t, c.Disconnect(within(t)))
		again.stop()
	}
}

func TestShutdownWaitsForNobodyWhoIsIdleOrSilent(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network})
		plain(t, tg)                        // has not even greeted
		dial(t, tg)                         // haggles
		attach(t, tg, client.SimpleReplies) // idles
		half := attach(t, tg, client.SimpleReplies)
		_, err := half.NetConn().Write(client.AppendRequest(nil, half.Style, client.Header{Command: client.CmdWrite, Length: mib}))
		must(t, err)
		started := time.Now()
		tg.stop()
		if took := time.Since(started); took > 5*time.Second {
			t.Fatalf("%s: shutdown took %v", network, took)
		}
	}
}

func TestShutdownThatTakesTooLongCutsConnections(t *testing.T) {
	tg := serve(t, setup{})
	fill(t, tg)
	w := attach(t, tg, client.SimpleReplies)
	wait := push(w.NetConn(), manyReads(w.Style, 1000, mib)) // nobody takes them
	defer func() { w.Close(); wait() }()
	eventually(t, "replies are stuck", func() bool { return tg.gateway.Status().InFlightBytes > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := tg.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Shutdown: %v, want %v", err, context.DeadlineExceeded)
	}
	idle(t, tg)
}

func TestVolumeGrowsUnderLoad(t *testing.T) {
	tg := serve(t, setup{})
	l := &loader{size: 4096, acked: make([]uint64, 16), tried: make([]uint64, 16)}
	var progress atomic.Int64
	var load sync.WaitGroup
	busy := connect(t, tg, client.StructuredReplies)
	load.Go(func() { l.run(within(t), busy, &progress) })

	old := connect(t, tg, client.SimpleReplies)
	wantErrno(t, old.Write(within(t), make([]byte, 4096), testSize, 0), client.ENOSPC)
	_, err := tg.gateway.ResizeVolume(within(t), testVolume, 2*testSize)
	must(t, err)
	before := progress.Load()
	eventually(t, "the load goes on", func() bool { return progress.Load() > before+100 })

	fresh := connect(t, tg, client.ExtendedHeaders)
	if fresh.Export().Size != 2*testSize {
		t.Errorf("a new connection sees %d bytes, want %d", fresh.Export().Size, 2*testSize)
	}
	must(t, fresh.Write(within(t), pattern(make([]byte, 4096), 1), 2*testSize-4096, 0))
	wantErrno(t, fresh.Write(within(t), make([]byte, 4096), 2*testSize, 0), client.ENOSPC)
	// A kernel device learns of the new size some other way and uses it on the
	// connections it has.
	must(t, old.Read(within(t), make([]byte, 4096), 2*testSize-4096, 0))
	busy.Close()
	load.Wait()
	l.check(t, old)
}

func TestVolumeInUseIsNotRemoved(t *testing.T) {
	tg := serve(t, setup{})
	c := connect(t, tg, client.SimpleReplies)
	if _, err := tg.gateway.RemoveVolume(within(t), testVolume, false); !errors.Is(err, backend.ErrBusy) {
		t.Fatalf("removing a volume in use: %v, want %v", err, backend.ErrBusy)
	}
	alive(t, c)
	must(t, c.Disconnect(within(t)))
	idle(t, tg)
	_, err := tg.gateway.RemoveVolume(within(t), testVolume, false)
	must(t, err)
	_, err = dial(t, tg).Go(within(t), testVolume)
	wantRefusal(t, err, client.RepErrUnknown)
}

// Flushes of many connections together with writes: none is lost, none hangs.
func TestFlushStorm(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			tg := serve(t, setup{dir: dir})
			ctx := within(t)
			var storm sync.WaitGroup
			for i := range 8 {
				c := connect(t, tg, styles[i%3])
				storm.Go(func() {
					requests := make([]client.Request, 100)
					for j := range requests {
						r := &requests[j]
						r.Command = client.CmdFlush
						if j%4 == 0 {
							r.Command, r.Flags, r.Offset, r.Data = client.CmdWrite, client.FlagFUA, uint64(i*100+j)*4096, make([]byte, 4096)
						}
						if err := c.Start(ctx, r); err != nil {
							t.Error(err)
							return
						}
					}
					for j := range requests {
						if err := requests[j].Wait(); err != nil {
							t.Error(err)
						}
					}
				})
			}
			storm.Wait()
		})
	}
}
