package copyset

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// wakeup is an operation that goes back to the benchmark when it is complete.
type wakeup struct {
	backend.Op
	ready chan *wakeup
}

func (w *wakeup) OpDone(*backend.Op) { w.ready <- w }

// BenchmarkWrite writes 4 KiB blocks through three replicas in one process, with
// their logs synced to disk; CPU is that of all three.
func BenchmarkWrite(b *testing.B) {
	for _, depth := range []int{1, 32, 128} {
		for _, inFlight := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("depth=%d/inflight=%d", depth, inFlight), func(b *testing.B) {
				g := newRig(b, 3, func(o *Options) { o.InFlight = inFlight })
				c := g.client(1)
				const chunks = 16
				for id := range backend.ChunkID(chunks) {
					c.write(id, 0, pattern(1, testChunkSize))
				}
				leader := g.leader().replica.Load()
				ready := make(chan *wakeup, depth)
				for range depth {
					w := &wakeup{ready: ready}
					w.Data = pattern(2, 4096)
					ready <- w
				}
				began, cpu := time.Now(), cpuTime()
				b.ResetTimer()
				first := c.seq
				for i := range b.N {
					w := <-ready
					if w.Err != nil {
						b.Fatal(w.Err)
					}
					data := w.Data
					w.Op = c.change(backend.OpWrite, backend.ChunkID(i%chunks), int64(i/chunks%(testChunkSize/4096))*4096, data, 4096)
					w.Low = max(1, lowOf(first+uint64(i), depth))
					w.Done = w
					leader.Submit(&w.Op)
				}
				for range depth {
					if w := <-ready; w.Err != nil {
						b.Fatal(w.Err)
					}
				}
				b.StopTimer()
				b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "IOPS")
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
			})
		}
	}
}

// lowOf is a low that is right for writes acknowledged nearly in order.
func lowOf(seq uint64, depth int) uint64 {
	if seq < uint64(8*depth) {
		return 1
	}
	return seq - uint64(8*depth)
}

// BenchmarkRead reads 4 KiB blocks from the leader.
func BenchmarkRead(b *testing.B) {
	g := newRig(b, 3, nil)
	c := g.client(1)
	c.write(1, 0, pattern(1, testChunkSize))
	leader := g.leader().replica.Load()
	g.until("there is a lease", func() bool { return time.Now().Before(leader.net.LeaseUntil()) })
	b.Run("try", func(b *testing.B) {
		op := c.readOp(1, 0, make([]byte, 4096))
		b.ReportAllocs()
		missed := 0
		for range b.N {
			if !leader.Try(&op) {
				missed++
			}
		}
		b.ReportMetric(float64(missed)/float64(b.N), "declined/op")
	})
	b.Run("submit", func(b *testing.B) {
		b.ReportAllocs()
		var wg sync.WaitGroup
		var failed atomic.Int64
		ops := make([]backend.Op, 32)
		free := make(chan *backend.Op, len(ops))
		done := doneFunc(func(op *backend.Op) {
			if op.Err != nil {
				failed.Add(1)
			}
			free <- op
			wg.Done()
		})
		for i := range ops {
			ops[i] = c.readOp(1, 0, make([]byte, 4096))
			ops[i].Done = done
			free <- &ops[i]
		}
		for range b.N {
			op := <-free
			wg.Add(1)
			leader.Submit(op)
		}
		wg.Wait()
		if failed.Load() > 0 {
			b.Errorf("%d reads failed", failed.Load())
		}
	})
}

type doneFunc func(*backend.Op)

func (f doneFunc) OpDone(op *backend.Op) { f(op) }
