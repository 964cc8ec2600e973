package raftlog_test

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry(index uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, size)}
}

// inLog says whether a call is about records, not about spare segments being made.
func inLog(c crashfs.Call, op crashfs.OpKind) bool {
	return c.Op == op && strings.HasSuffix(c.Path, "00000001.segment")
}

func TestFailedWriteOrSyncFailsTheLogForGood(t *testing.T) {
	for _, op := range []crashfs.OpKind{crashfs.OpWrite, crashfs.OpSyncData} {
		t.Run(op.String(), func(t *testing.T) {
			fsys := newMachine(crashfs.Options{})
			var failures atomic.Int32
			failed := make(chan error, 1)
			opts := smallOptions()
			opts.Failed = func(err error) {
				failures.Add(1)
				failed <- err
			}
			l := mustOpen(t, fsys, opts)
			defer func() { _ = l.Close() }()
			g := l.Group(1)
			if err := errors.Join(g.StoreLog(entry(1, 100)), g.WaitDurable(1)); err != nil {
				t.Fatal(err)
			}
			fsys.OnCall(func(c crashfs.Call) error {
				if inLog(c, op) {
					return unix.EIO
				}
				return nil
			})
			if err := g.StoreLog(entry(2, 100)); err != nil && !errors.Is(err, backend.ErrIO) {
				t.Errorf("StoreLog: %v", err)
			}
			g.AfterDurable(func() { t.Error("AfterDurable called for what is not durable") })
			if err := g.WaitDurable(2); !errors.Is(err, backend.ErrIO) || !errors.Is(err, unix.EIO) {
				t.Errorf("WaitDurable: %v, expected ErrIO with its cause", err)
			}
			if err := <-failed; !errors.Is(err, backend.ErrIO) {
				t.Errorf("Failed was told %v", err)
			}
			fsys.OnCall(nil) // a disk that works again changes nothing
			g.AfterDurable(func() { t.Error("AfterDurable called after the log failed") })
			for what, err := range map[string]error{
				"Set": g.Set([]byte("k"), nil), "StoreLog": g.StoreLog(entry(3, 1)), "Delete": g.Delete(), "Close": l.Close(),
				"DeleteRange": g.DeleteRange(1, 1),
			} {
				if !errors.Is(err, backend.ErrIO) {
					t.Errorf("%s after the failure: %v, expected ErrIO", what, err)
				}
			}
			if got := g.Durable(); got != 1 {
				t.Errorf("durable up to %d, expected 1", got)
			}
			if n := failures.Load(); n != 1 {
				t.Errorf("Failed called %d times", n)
			}
		})
	}
}

// TestNothingThatAFailedSyncLostIsTrustedLater: after a failed sync a kernel may
// hold what it will never write, and take it for clean. The next process reads
// it from the cache, and the power cut after that must not lose it.
func TestNothingThatAFailedSyncLostIsTrustedLater(t *testing.T) {
	for seed := range uint64(40) {
		fsys := newMachine(crashfs.Options{})
		l := mustOpen(t, fsys, smallOptions())
		fsys.OnCall(func(c crashfs.Call) error {
			if inLog(c, crashfs.OpSyncData) {
				return unix.EIO
			}
			return nil
		})
		if err := l.Group(1).StoreLog(entry(1, 3000)); err != nil {
			t.Fatal(err)
		}
		_ = l.Group(1).WaitDurable(1)
		_ = l.Close()
		fsys.OnCall(nil)
		fsys = fsys.Kill()
		l = mustOpen(t, fsys, smallOptions())
		durable := l.Group(1).Durable()
		after := mustOpen(t, fsys.Crash(seed), smallOptions())
		last, err := after.Group(1).LastIndex()
		if err != nil || last < durable {
			t.Errorf("seed %d: entry %d was durable, the log ends at %d, %v", seed, durable, last, err)
		}
		_ = after.Close()
		_ = l.Close()
	}
}

func TestFullDiskIsKnownBeforeTheLogFails(t *testing.T) {
	opts := smallOptions()
	opts.Reserve = 2
	fsys := newMachine(crashfs.Options{Capacity: 6*opts.SegmentBytes + 300<<10})
	failed := make(chan error, 1)
	opts.Failed = func(err error) { failed <- err }
	l := mustOpen(t, fsys, opts)
	defer func() { _ = l.Close() }()
	g := l.Group(1)
	fullAt := uint64(0)
	var err error
	index := uint64(1)
	for ; err == nil; index++ {
		err = errors.Join(g.StoreLog(entry(index, 4000)), g.WaitDurable(index))
		if l.Full() && fullAt == 0 {
			fullAt = index
		}
		if index > 1000 {
			t.Fatal("the disk never fills")
		}
	}
	if !errors.Is(err, backend.ErrIO) || !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("log failed with %v, expected ErrIO for want of space", err)
	}
	if err := <-failed; !errors.Is(err, backend.ErrNoSpace) {
		t.Errorf("Failed was told %v", err)
	}
	if fullAt == 0 || index-fullAt < 12 {
		t.Errorf("full was said at entry %d, the log failed at %d: too late to do anything", fullAt, index)
	}
}

func TestFullEndsWhenSegmentsAreFreed(t *testing.T) {
	opts := smallOptions()
	opts.Reserve = 2
	fsys := newMachine(crashfs.Options{Capacity: 6*opts.SegmentBytes + 300<<10})
	l := mustOpen(t, fsys, opts)
	defer func() { _ = l.Close() }()
	g := l.Group(1)
	index := uint64(0)
	for !l.Full() {
		index++
		if err := errors.Join(g.StoreLog(entry(index, 4000)), g.WaitDurable(index)); err != nil {
			t.Fatal(err)
		}
	}
	if id, bytes := l.Pinning(); id != 1 || bytes < opts.SegmentBytes {
		t.Errorf("pinning %v, %d bytes, expected copyset 1 and segments", id, bytes)
	}
	if err := errors.Join(g.DeleteRange(1, index), g.SetUint64([]byte("k"), 1)); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		index++
		if err := errors.Join(g.StoreLog(entry(index, 4000)), g.WaitDurable(index), g.DeleteRange(index, index)); err != nil {
			t.Fatalf("with the log empty: %v; %s", err, l.Dump())
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for l.Full() {
		if time.Now().After(deadline) {
			t.Fatal("still full after everything was freed")
		}
		time.Sleep(time.Millisecond) // the reserve is looked at once a second
	}
}

func TestStalledTellsOfAHangingSync(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	l := mustOpen(t, fsys, smallOptions())
	entered, leave := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	fsys.OnCall(func(c crashfs.Call) error {
		if inLog(c, crashfs.OpSyncData) && !once.Swap(true) {
			close(entered)
			<-leave
		}
		return nil
	})
	g := l.Group(1)
	if err := g.StoreLog(entry(1, 10)); err != nil {
		t.Fatal(err)
	}
	<-entered
	first := l.Stalled()
	for l.Stalled() <= first { // time goes by
		time.Sleep(time.Millisecond)
	}
	if l.Group(1).Durable() != 0 {
		t.Error("an entry is durable before its sync returns")
	}
	if err := g.StoreLog(entry(2, 10)); err != nil {
		t.Errorf("appending while the disk hangs: %v", err)
	}
	close(leave)
	if err := g.WaitDurable(2); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if s := l.Stalled(); s != 0 {
		t.Errorf("stalled for %v when idle", s)
	}
}

func TestQueueIsBounded(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	opts := smallOptions()
	opts.QueueBytes = 20 << 10
	l := mustOpen(t, fsys, opts)
	defer func() { _ = l.Close() }()
	leave := make(chan struct{})
	fsys.OnCall(func(c crashfs.Call) error {
		if inLog(c, crashfs.OpSyncData) {
			<-leave
		}
		return nil
	})
	var stored atomic.Int64
	done := make(chan error, 1)
	go func() {
		var err error
		for i := uint64(1); i <= 40 && err == nil; i++ {
			err = l.Group(1).StoreLog(entry(i, 1000))
			stored.Add(1)
		}
		done <- err
	}()
	for stored.Load() < 18 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-done:
		t.Error("40 KiB went into a queue of 20 while the disk hung")
	case <-time.After(20 * time.Millisecond): // it waits
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestOtherVersionIsRefused(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	l := mustOpen(t, fsys, smallOptions())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raftlog.SetVersion(t, fsys, logDir+"/00000001.segment", 2)
	if _, err := raftlog.Open(fsys, logDir, smallOptions()); !errors.Is(err, backend.ErrNotSupported) {
		t.Errorf("open: %v, expected ErrNotSupported", err)
	}
}
