package memory_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/memory"
)

func TestConformance(t *testing.T) {
	backendtest.TestChunks(t, func(*testing.T) backend.Chunks { return memory.New() })
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	m := memory.New()
	data := make([]byte, 64<<10)
	for _, kind := range []backend.OpKind{backend.OpWrite, backend.OpRead, backend.OpFlush} {
		op := &backend.Op{Kind: kind, Volume: 1, Chunk: backend.ChunkRef{ID: 1, Size: 1 << 20}, Len: int64(len(data)), Data: data}
		m.Try(op)
		if n := testing.AllocsPerRun(100, func() { m.Try(op) }); n != 0 || op.Err != nil {
			t.Errorf("%v: %v allocations, error %v", kind, n, op.Err)
		}
	}
}

func BenchmarkTry(b *testing.B) {
	for _, bench := range []struct {
		name string
		kind backend.OpKind
		size int64
	}{
		{"op=read/size=4k", backend.OpRead, 4 << 10},
		{"op=write/size=4k", backend.OpWrite, 4 << 10},
		{"op=read/size=128k", backend.OpRead, 128 << 10},
	} {
		b.Run(bench.name, func(b *testing.B) {
			m := memory.New()
			const chunks, chunkSize = 16, backend.DefaultChunkSize
			fill := make([]byte, chunkSize)
			for id := range backend.ChunkID(chunks) {
				m.Try(&backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: backend.ChunkRef{ID: id, Size: chunkSize}, Len: chunkSize, Data: fill})
			}
			op := &backend.Op{Kind: bench.kind, Volume: 1, Len: bench.size, Data: make([]byte, bench.size)}
			b.SetBytes(bench.size)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range int64(b.N) {
				at := i * 7919 * 4096 % (chunks * chunkSize)
				op.Chunk = backend.ChunkRef{ID: backend.ChunkID(at / chunkSize), Size: chunkSize}
				op.Off = min(at%chunkSize, chunkSize-bench.size)
				if !m.Try(op) || op.Err != nil {
					b.Fatal(op.Err)
				}
			}
		})
	}
}
