package chunkstore_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk"
)

func openOnDisk(tb testing.TB) *chunkstore.Store {
	s, err := chunkstore.Open(disk.OS(), tb.TempDir(), chunkstore.Options{Logger: quiet})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

type wakeup chan struct{}

func (w wakeup) OpDone(*backend.Op) { w <- struct{}{} }

// readsWithoutWaiting says whether the tests' directory is on a file system that
// has RWF_NOWAIT; tmpfs, for one, has not, so that Try declines what it would
// have to read.
func readsWithoutWaiting(t *testing.T) bool {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(t.TempDir(), &fs); err != nil {
		t.Fatal(err)
	}
	return fs.Type != unix.TMPFS_MAGIC
}

func TestOperationsAllocateNothing(t *testing.T) {
	s := openOnDisk(t)
	canRead := readsWithoutWaiting(t)
	ref := backend.ChunkRef{ID: 1, Size: backend.DefaultChunkSize}
	done := make(wakeup, 1)
	for _, tc := range []struct {
		name   string
		kind   backend.OpKind
		off    int64
		length int64
		inline bool
	}{
		{"write 4k", backend.OpWrite, 4096, 4096, true},
		{"write 128k", backend.OpWrite, 0, 128 << 10, true},
		{"write 512", backend.OpWrite, 512, 512, true},
		{"read 4k", backend.OpRead, 4096, 4096, true},
		{"read 128k", backend.OpRead, 0, 128 << 10, true},
		{"read 512", backend.OpRead, 512, 512, true},
		{"read of a missing chunk", backend.OpRead, 0, 4096, true},
		{"trim", backend.OpTrim, 1 << 20, 4096, false},
		{"flush", backend.OpFlush, 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op := &backend.Op{Kind: tc.kind, Volume: 1, Chunk: ref, Off: tc.off, Len: tc.length, Data: make([]byte, tc.length), Done: done}
			if tc.name == "read of a missing chunk" {
				op.Chunk.ID = 2
			}
			submit := func() {
				s.Submit(op)
				<-done
			}
			submit()
			if op.Err != nil {
				t.Fatal(op.Err)
			}
			if n := testing.AllocsPerRun(100, submit); n != 0 {
				t.Errorf("Submit allocates %v times", n)
			}
			reads := tc.kind == backend.OpRead || tc.length%backend.ChecksumBlock != 0
			if !tc.inline || (reads && tc.name != "read of a missing chunk" && !canRead) {
				return
			}
			if n := testing.AllocsPerRun(100, func() {
				if !s.Try(op) || op.Err != nil {
					t.Errorf("Try refused, or failed with %v", op.Err)
				}
			}); n != 0 {
				t.Errorf("Try allocates %v times", n)
			}
		})
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
		{"op=write/size=128k", backend.OpWrite, 128 << 10},
		{"op=read/size=1M", backend.OpRead, 1 << 20},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := openOnDisk(b)
			const size = backend.DefaultChunkSize
			done := make(wakeup, 1)
			op := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: backend.ChunkRef{ID: 1, Size: size}, Len: size, Data: make([]byte, size), Done: done}
			s.Submit(op)
			<-done
			op.Kind, op.Len, op.Data = bench.kind, bench.size, op.Data[:bench.size]
			b.SetBytes(bench.size)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range int64(b.N) {
				op.Off = min(i*7919*4096%size, size-bench.size)
				if !s.Try(op) {
					s.Submit(op)
					<-done
				}
				if op.Err != nil {
					b.Fatal(op.Err)
				}
			}
		})
	}
}

func BenchmarkSubmit(b *testing.B) {
	s := openOnDisk(b)
	done := make(wakeup, 1)
	data := make([]byte, 4096)
	op := &backend.Op{Kind: backend.OpWrite, Volume: 1, Chunk: backend.ChunkRef{ID: 1, Size: backend.DefaultChunkSize}, Len: 4096, Data: data, Done: done}
	b.ReportAllocs()
	for b.Loop() {
		s.Submit(op)
		<-done
	}
}
