package raftlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// PlantedBugs are the names that WithBug takes.
var PlantedBugs = []string{
	"skip sync", "publish before sync", "skip sync of the tail at open", "skip sync of segment headers",
	"skip truncation record", "keep durable over truncation", "skip directory sync", "free before durable", "skip reset",
}

// WithBug breaks the log on purpose.
func (o Options) WithBug(name string) Options {
	switch name {
	case "":
	case "skip sync":
		o.planted.skipSync = true
	case "publish before sync":
		o.planted.publishEarly = true
	case "skip sync of the tail at open":
		o.planted.skipTailSync = true
	case "skip sync of segment headers":
		o.planted.skipHeaderSync = true
	case "skip truncation record":
		o.planted.skipTruncateRecord = true
	case "keep durable over truncation":
		o.planted.skipClamp = true
	case "skip directory sync":
		o.planted.skipDirSync = true
	case "free before durable":
		o.planted.freeEarly = true
	case "skip reset":
		o.planted.skipReset = true
	case "skip checksums":
		o.planted.skipChecksum = true
	case "forget what was durable":
		o.planted.ignoreDurable = true
	default:
		panic(fmt.Sprintf("no bug %q", name))
	}
	return o
}

// WithIdle writes the mark after so short a rest.
func (o Options) WithIdle(d time.Duration) Options {
	o.idle = d
	return o
}

// Segments says how many are in use.
func (l *Log) Segments() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.segs)
}

// SetVersion makes a segment file one of another format version.
func SetVersion(t *testing.T, fsys disk.FS, path string, version uint32) {
	t.Helper()
	f, err := fsys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var b [sectorBytes]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
	if _, err := f.WriteAt(b[:], 0); err != nil {
		t.Fatal(err)
	}
}

// Dump describes the segments in use.
func (l *Log) Dump() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("drops %d queue %d spares %d;", len(l.drops), len(l.queue), l.pool.count())
	for _, seg := range l.segs {
		s += fmt.Sprintf(" %d:%d", seg.seq, seg.live)
	}
	return s
}

// Cached is the bytes of entries in memory.
func (l *Log) Cached() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cache.bytes
}

// Batches is how many were written.
func (l *Log) Batches() float64 { return testutil.ToFloat64(l.meters.batches) }
