package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// TestLogStaysSmallThroughManyRecyclings: a busy group that compacts, beside idle
// ones with a few entries and values, for hundreds of segments.
func TestLogStaysSmallThroughManyRecyclings(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	opts := smallOptions()
	l := mustOpen(t, fsys, opts)
	want := make(map[backend.CopysetID]*reference)
	for id := backend.CopysetID(2); id <= 5; id++ {
		g := l.Group(id)
		err := g.SetUint64([]byte("CurrentTerm"), uint64(id))
		for i := uint64(1); i <= 3; i++ {
			err = errors.Join(err, g.StoreLog(entry(i+uint64(id), 100)))
		}
		if err != nil {
			t.Fatal(err)
		}
		ref, err := readGroup(g)
		if err != nil {
			t.Fatal(err)
		}
		want[id] = ref
	}
	busy := l.Group(1)
	if err := busy.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	const keep = 20 // entries, more than what would be moved
	for i := uint64(1); i <= 4000; i++ {
		err := busy.StoreLog(entry(i, 3000))
		if i > keep && i%10 == 0 {
			err = errors.Join(err, busy.WaitDurable(i), busy.DeleteRange(1, i-keep))
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := l.Segments(); n > 12 {
			t.Fatalf("%d segments in use at entry %d: %s", n, i, l.Dump())
		}
	}
	names, err := fsys.ReadDir(logDir)
	if err != nil || len(names) > 20 {
		t.Errorf("%d files for a log that never needed more than 12 segments, %v", len(names), err)
	}
	check := func(l *raftlog.Log) {
		t.Helper()
		for id, ref := range want {
			if err := ref.differs(l.Group(id)); err != nil {
				t.Errorf("idle %v: %v", id, err)
			}
		}
		if term, err := l.Group(1).GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
			t.Errorf("busy group's term is %d, %v", term, err)
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, fsys, opts)
	check(l)
	if d := l.Damaged(); len(d) > 0 {
		t.Errorf("damaged: %v", d)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPinningNamesTheGroupWithTheOldestEntries(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	l := mustOpen(t, fsys, smallOptions())
	defer func() { _ = l.Close() }()
	store := func(id backend.CopysetID, from, to uint64) {
		for i := from; i <= to; i++ {
			if err := l.Group(id).StoreLog(entry(i, 4000)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Group(id).WaitDurable(to); err != nil {
			t.Fatal(err)
		}
	}
	if id, n := l.Pinning(); n != 0 {
		t.Errorf("an empty log is pinned by %v with %d bytes", id, n)
	}
	store(1, 1, 5)
	store(2, 1, 40)
	store(1, 6, 80)
	if id, n := l.Pinning(); id != 1 && id != 2 || n != 0 {
		t.Errorf("pinning %v, %d bytes, expected none to be freed by one group alone", id, n)
	}
	if err := errors.Join(l.Group(2).DeleteRange(1, 40), l.Group(2).Set([]byte("k"), nil)); err != nil {
		t.Fatal(err)
	}
	before := l.Segments()
	id, n := l.Pinning()
	if id != 1 || n != int64(before-1)*(64<<10) {
		t.Errorf("pinning %v, %d bytes, expected copyset 1 and %d segments", id, n, before-1)
	}
	if err := errors.Join(l.Group(1).DeleteRange(1, 80), l.Group(2).Set([]byte("k"), nil)); err != nil {
		t.Fatal(err)
	}
	for l.Segments() > 4 { // the last ones leave with the following rounds
		if err := l.Group(2).Set([]byte("k"), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyRestartsLeaveFewSegments(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	for i := uint64(1); i <= 60; i++ {
		l := mustOpen(t, fsys, smallOptions())
		g := l.Group(1)
		if err := errors.Join(g.StoreLog(entry(i, 10)), g.SetUint64([]byte("CurrentTerm"), i)); err != nil {
			t.Fatal(err)
		}
		if last, err := g.LastIndex(); last != i || err != nil {
			t.Fatalf("last entry is %d, %v, expected %d", last, err, i)
		}
		if n := l.Segments(); n > 6 {
			t.Fatalf("%d segments after %d restarts", n, i)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSegmentSizeMayChange(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	ref := newReference()
	for i, size := range []int64{64 << 10, 128 << 10, 64 << 10, 256 << 10} {
		opts := smallOptions()
		opts.SegmentBytes = size
		l := mustOpen(t, fsys, opts)
		for range 100 {
			log := entry(ref.last+1, 2000+i)
			ref.store([]*raft.Log{log})
			if err := l.Group(1).StoreLog(log); err != nil {
				t.Fatal(err)
			}
		}
		if err := ref.differs(l.Group(1)); err != nil {
			t.Errorf("segments of %d: %v", size, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCacheIsBoundedAndOldEntriesComeFromDisk(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	l := mustOpen(t, fsys, smallOptions())
	defer func() { _ = l.Close() }()
	ref := newReference()
	for i := uint64(1); i <= 300; i++ {
		log := entry(i, int(i)*7)
		ref.store([]*raft.Log{log})
		if err := l.Group(1).StoreLog(log); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Group(1).WaitDurable(300); err != nil {
		t.Fatal(err)
	}
	if err := l.Group(1).StoreLog(entry(301, 1)); err != nil { // evicts what is written by now
		t.Fatal(err)
	}
	ref.store([]*raft.Log{entry(301, 1)})
	if n := l.Cached(); n > 8<<10+4<<10 {
		t.Errorf("%d bytes in memory, %d allowed", n, 8<<10)
	}
	if err := ref.differs(l.Group(1)); err != nil {
		t.Error(err)
	}
}

// TestGroupsAreIndependentUnderConcurrency: every group has its own writer,
// truncater and readers, all at once, while segments come and go.
func TestGroupsAreIndependentUnderConcurrency(t *testing.T) {
	fsys := newMachine(crashfs.Options{})
	l := mustOpen(t, fsys, smallOptions())
	var wg sync.WaitGroup
	const groups = 6
	refs := make([]*reference, groups+1)
	for id := backend.CopysetID(1); id <= groups; id++ {
		ref := newReference()
		refs[id] = ref
		stop := make(chan struct{})
		wg.Go(func() {
			defer close(stop)
			if err := churn(l.Group(id), ref, rand.New(rand.NewPCG(uint64(id), 9))); err != nil {
				t.Errorf("%v: %v", id, err)
			}
		})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first, _ := l.Group(id).FirstIndex()
				var log raft.Log
				if err := l.Group(id).GetLog(first, &log); err != nil && !errors.Is(err, raft.ErrLogNotFound) {
					t.Errorf("%v: reading entry %d: %v", id, first, err)
					return
				}
				_, _, _, _ = l.Bytes(), l.Stalled(), l.Group(id).Durable(), l.Groups()
				l.Pinning()
			}
		})
	}
	wg.Wait()
	for _, again := range []bool{false, true} {
		for id := backend.CopysetID(1); id <= groups; id++ {
			if err := refs[id].differs(l.Group(id)); err != nil {
				t.Errorf("%v, reopened %v: %v", id, again, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if !again {
			l = mustOpen(t, fsys, smallOptions())
		}
	}
}

// churn appends, overwrites, compacts and votes at random.
func churn(g *raftlog.Group, ref *reference, rng *rand.Rand) error {
	for term := uint64(1); term <= 300; term++ {
		var err error
		switch n := rng.IntN(10); {
		case n == 0 && !ref.empty():
			first, to := ref.first, ref.first+rng.Uint64N(ref.last-ref.first+1)
			ref.dropPrefix(to)
			err = g.DeleteRange(first, to)
		case n == 1 && !ref.empty():
			last, from := ref.last, ref.first+rng.Uint64N(ref.last-ref.first+1)
			ref.dropSuffix(from)
			err = g.DeleteRange(from, last)
		case n == 2:
			val := []byte(fmt.Sprint(rng.Uint64()))
			ref.stable["CurrentTerm"] = val
			err = g.Set([]byte("CurrentTerm"), val)
		case n == 3 && !ref.empty():
			done := make(chan struct{})
			g.AfterDurable(func() { close(done) })
			<-done
			if d := g.Durable(); d < ref.last {
				err = fmt.Errorf("durable up to %d after AfterDurable, expected %d", d, ref.last)
			}
		default:
			log := &raft.Log{Index: ref.last + 1, Term: term, Data: bytes.Repeat([]byte{byte(term)}, rng.IntN(3000))}
			ref.store([]*raft.Log{log})
			err = g.StoreLog(log)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
