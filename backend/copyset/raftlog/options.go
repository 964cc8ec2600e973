package raftlog

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Options of a Log. Zero values stand for the defaults.
type Options struct {
	// SegmentBytes is the size of a segment file. Default 64 MiB. It may change
	// from one Open to the next.
	SegmentBytes int64
	// CacheBytes bounds the entries kept in memory for followers, all groups
	// together. Default 64 MiB.
	CacheBytes int64
	// QueueBytes bounds what is queued and not yet durable; StoreLogs waits
	// beyond. Default 64 MiB.
	QueueBytes int64
	// Reserve is how many segments are kept ready for use, so that a full disk
	// is known long before the log needs it. Default 2.
	Reserve int
	// Blocking makes StoreLogs and DeleteRange wait for the sync. Otherwise they
	// return when their records are queued, and whoever needs them durable asks
	// AfterDurable.
	Blocking bool
	// Failed is told once when the log cannot be written any more: nothing that
	// was queued and not reported durable may be relied on, and the process must
	// stop serving. Called on a goroutine of the log; it must not call Close.
	Failed func(error)
	Logger *slog.Logger

	planted planted
	// idle is markIdle, shorter in tests.
	idle time.Duration
}

// planted are bugs that tests put in to see that they are noticed.
type planted struct {
	skipSync, skipChecksum, publishEarly, skipTailSync, skipHeaderSync              bool
	skipTruncateRecord, skipClamp, freeEarly, ignoreDurable, skipDirSync, skipReset bool
}

const (
	minSegmentBytes = 64 << 10
	maxSegmentBytes = 256 << 20
	// maxGroups bounds the roster, which every segment starts with.
	maxGroups = 4096
	// maxBatch is where a round is cut into several writes, in bytes.
	maxBatch = 4 << 20
	// minBuffer is the least room, in bytes, that a batch is built in.
	minBuffer = 64 << 10
	// keepSegments in use are no reason to move anything out of the oldest.
	keepSegments = 4
	// maxSpares is how many freed segments are kept for reuse; the rest is
	// given back to the file system.
	maxSpares = 16
	// markIdle after the last batch, and every markBusy while there is no rest,
	// the mark is brought up to date.
	markIdle = 100 * time.Millisecond
	markBusy = time.Second
	// retryReserve is how often a missing spare segment is tried again.
	retryReserve = time.Second
	maxKey       = 1 << 10
	maxValue     = 64 << 10
)

func (o Options) withDefaults() (Options, error) {
	defaults := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	defaults(&o.SegmentBytes, 64<<20)
	defaults(&o.CacheBytes, 64<<20)
	defaults(&o.QueueBytes, 64<<20)
	if o.Reserve == 0 {
		o.Reserve = 2
	}
	if o.idle == 0 {
		o.idle = markIdle
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	switch {
	case o.SegmentBytes < minSegmentBytes || o.SegmentBytes > maxSegmentBytes || o.SegmentBytes%blockBytes != 0:
		return o, fmt.Errorf("%w: raft log segments of %d bytes: use a multiple of %d from %d to %d",
			backend.ErrInvalid, o.SegmentBytes, blockBytes, minSegmentBytes, maxSegmentBytes)
	case o.CacheBytes < 0 || o.QueueBytes < 0 || o.Reserve < 0:
		return o, fmt.Errorf("%w: raft log cache of %d, queue of %d bytes, reserve of %d segments: must not be negative",
			backend.ErrInvalid, o.CacheBytes, o.QueueBytes, o.Reserve)
	}
	return o, nil
}

// maxRecord is the longest record that any segment can take.
func (o Options) maxRecord() int64 { return o.SegmentBytes / 2 }

// maxRestate is the most that is written again to free a group's oldest segment.
func (o Options) maxRestate() int64 { return min(1<<20, o.SegmentBytes/16) }

// diskError wraps an error of the file system and says what the log was doing.
func diskError(what string, err error) error { return disk.Error("raft log: "+what, err) }
