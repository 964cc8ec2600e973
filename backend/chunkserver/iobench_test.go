package chunkserver

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// BenchmarkIO is the wire alone: the replica holds its chunks in memory. CPU is that
// of client and server together.
func BenchmarkIO(b *testing.B) {
	for _, kind := range []backend.OpKind{backend.OpWrite, backend.OpRead} {
		for _, size := range []int64{4 << 10, 64 << 10} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%v/%dk/qd=%d", kind, size>>10, depth), func(b *testing.B) {
					benchmarkIO(b, kind, size, depth)
				})
			}
		}
	}
}

func benchmarkIO(b *testing.B, kind backend.OpKind, size int64, depth int) {
	s, _ := serveMemory(b)
	c := dialChunks(b, bookOf(s), remote.Options{})
	if err := start(c, newOp(backend.OpWrite, 0, 1<<20)).wait(b); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	var wg sync.WaitGroup
	for d := range depth {
		wg.Go(func() {
			op := newOp(kind, int64(d)*size%(1<<20), size)
			done := make(completion, 1)
			op.Done = done
			for n := d; n < b.N; n += depth {
				c.Submit(op)
				if <-done; op.Err != nil {
					b.Error(op.Err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
}

func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
