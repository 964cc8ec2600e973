package raftlog_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// BenchmarkStoreLogs appends entries one at a time to each of so many groups at
// once, and waits for each until it is durable, with at most window of them not
// durable in a group.
func BenchmarkStoreLogs(b *testing.B) {
	for _, size := range []int{512, 4096, 65536} {
		for _, groups := range []int{1, 8} {
			for _, window := range []int{1, 32} {
				b.Run(fmt.Sprintf("size=%d/groups=%d/window=%d", size, groups, window), func(b *testing.B) {
					benchmarkStoreLogs(b, size, groups, window)
				})
			}
		}
	}
}

func benchmarkStoreLogs(b *testing.B, size, groups, window int) {
	l, err := raftlog.Open(disk.OS(), b.TempDir()+"/log", raftlog.Options{Logger: quiet, SegmentBytes: 32 << 20, CacheBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan error, groups)
	for i := range groups {
		n := b.N / groups
		if i < b.N%groups {
			n++
		}
		go func() { done <- storeMany(l.Group(backend.CopysetID(i+1)), data, n, window) }()
	}
	for range groups {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/l.Batches(), "entries/batch")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

func storeMany(g *raftlog.Group, data []byte, n, window int) error {
	logs := make([]raft.Log, n)
	one := make([]*raft.Log, 1)
	for i := range logs {
		index := uint64(i + 1)
		logs[i] = raft.Log{Index: index, Term: 1, Data: data, AppendedAt: time.Unix(1, 0)}
		one[0] = &logs[i]
		if err := g.StoreLogs(one); err != nil {
			return err
		}
		if i+1 >= window {
			if err := g.WaitDurable(index + 1 - uint64(window)); err != nil {
				return err
			}
		}
		if index%4096 == 0 { // as raft does after a snapshot
			if err := g.DeleteRange(1, index-1024); err != nil {
				return err
			}
		}
	}
	return g.WaitDurable(uint64(n))
}

// BenchmarkPlainWriteAndSync is the bar: one write and one sync each, over a file
// that has its space.
func BenchmarkPlainWriteAndSync(b *testing.B) {
	for _, size := range []int{512, 4096, 65536, 131072} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			const span = 32 << 20
			f, err := disk.OS().Create(b.TempDir() + "/plain")
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, span), 0); err != nil {
				b.Fatal(err)
			}
			if err := f.SyncData(); err != nil {
				b.Fatal(err)
			}
			data := bytes.Repeat([]byte{7}, size)
			b.SetBytes(int64(size))
			b.ResetTimer()
			for i := range b.N {
				if _, err := f.WriteAt(data, int64(i*size)%(span-int64(size)+1)); err != nil {
					b.Fatal(err)
				}
				if err := f.SyncData(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
