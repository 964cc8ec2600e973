package raftlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

// written is a closed log on a healthy disk and what it holds.
type written struct {
	fs    *crashfs.FS
	want  map[backend.CopysetID]*reference
	files []string
}

// writeLog fills several segments for four groups, some with a past.
func writeLog(t *testing.T, groups int) *written {
	t.Helper()
	w := &written{fs: newMachine(crashfs.Options{}), want: make(map[backend.CopysetID]*reference)}
	l := mustOpen(t, w.fs, smallOptions())
	next := make(map[backend.CopysetID]uint64)
	for round := range 12 {
		for id := backend.CopysetID(1); int(id) <= groups; id++ {
			if round > 3 && id == 4 { // this one rests
				continue
			}
			var logs []*raft.Log
			for range 3 {
				next[id]++
				logs = append(logs, &raft.Log{Index: next[id], Term: uint64(round + 1), Data: bytes.Repeat([]byte{byte(id), byte(round)}, 400*int(id))})
			}
			err := l.Group(id).StoreLogs(logs)
			if round%4 == 0 {
				err = errors.Join(err, l.Group(id).SetUint64([]byte("CurrentTerm"), uint64(round+1)))
			}
			if round == 6 {
				err = errors.Join(err, l.Group(id).DeleteRange(1, 7))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for id := range next {
		ref, err := readGroup(l.Group(id))
		if err != nil {
			t.Fatal(err)
		}
		w.want[id] = ref
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := w.fs.ReadDir(logDir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	for _, name := range names {
		w.files = append(w.files, logDir+"/"+name)
	}
	return w
}

// check opens a damaged log: each group is whole or called damaged. It returns
// those that are called damaged.
func (w *written) check(fsys *crashfs.FS) ([]backend.CopysetID, error) {
	l, err := raftlog.Open(fsys, logDir, smallOptions())
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = l.Close() }()
	damaged := l.Damaged()
	var ids []backend.CopysetID
	for id, ref := range w.want {
		g := l.Group(id)
		if damaged[id] == nil {
			if err := ref.differs(g); err != nil {
				return nil, fmt.Errorf("%v is not called damaged: %w", id, err)
			}
			continue
		}
		ids = append(ids, id)
		if err := refusesAll(g); err != nil {
			return nil, fmt.Errorf("%v: %w", id, err)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// refusesAll says that a damaged group answers nothing but its damage.
func refusesAll(g *raftlog.Group) error {
	_, err1 := g.FirstIndex()
	_, err2 := g.LastIndex()
	_, err3 := g.Get([]byte("CurrentTerm"))
	for _, err := range []error{err1, err2, err3, g.GetLog(1, new(raft.Log)), g.StoreLog(&raft.Log{Index: 1, Term: 1}), g.Set([]byte("k"), nil)} {
		if !errors.Is(err, backend.ErrChecksum) {
			return fmt.Errorf("a damaged group answers %v, expected ErrChecksum", err)
		}
	}
	return nil
}

// revive deletes the damaged groups of a log and sees that they stay damaged
// until then, over restarts, and are usable afterwards.
func revive(fsys *crashfs.FS, damaged []backend.CopysetID) error {
	open := func() (*raftlog.Log, error) { return raftlog.Open(fsys, logDir, smallOptions()) }
	l, err := open()
	if err != nil {
		return err
	}
	for _, id := range damaged {
		if l.Damaged()[id] == nil {
			return fmt.Errorf("%v is whole after a restart", id)
		}
		g := l.Group(id)
		if err := errors.Join(g.Delete(), g.SetUint64([]byte("CurrentTerm"), 99), g.StoreLog(&raft.Log{Index: 500, Term: 99})); err != nil {
			return fmt.Errorf("using a deleted group: %w", err)
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	if l, err = open(); err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	for _, id := range damaged {
		if d := l.Damaged()[id]; d != nil {
			return fmt.Errorf("%v, which was deleted, is still damaged: %w", id, d)
		}
		if term, err := l.Group(id).GetUint64([]byte("CurrentTerm")); err != nil || term != 99 {
			return fmt.Errorf("%v has term %d, %w", id, term, err)
		}
	}
	return nil
}

// spoil damages a file in a sector.
type spoil struct {
	name string
	do   func(fsys *crashfs.FS, path string, off int64) error
}

func wipe(length int64) func(*crashfs.FS, string, int64) error {
	return func(fsys *crashfs.FS, path string, off int64) error {
		hit := false
		for end := off + length; off < end; off += 512 {
			hit = fsys.Wipe(path, off, 512) == nil || hit
		}
		if !hit {
			return errors.New("nothing there")
		}
		return nil
	}
}

func flip(in int64) func(*crashfs.FS, string, int64) error {
	return func(fsys *crashfs.FS, path string, off int64) error { return fsys.Flip(path, off+in, uint8(off/512)) }
}

var spoils = []spoil{
	{"flip near the start", flip(9)}, {"flip in the middle", flip(250)}, {"flip at the end", flip(511)},
	{"wipe a sector", wipe(512)}, {"wipe 4 KiB", wipe(4096)}, {"wipe 20 KiB", wipe(20 << 10)},
}

func TestDamageIsRepairedOrReported(t *testing.T) {
	w := writeLog(t, 4)
	for _, s := range spoils {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			hits, reported, revived := 0, 0, 0
			for _, path := range w.files {
				for off := int64(0); off < 2*70<<10; off += 512 {
					fsys := w.fs.Crash(1) // all is synced: an exact copy
					if s.do(fsys, path, off) != nil {
						continue
					}
					hits++
					damaged, err := w.check(fsys)
					if err != nil {
						t.Fatalf("%s at %#x of %s: %v", s.name, off, path, err)
					}
					reported += len(damaged)
					if strings.HasSuffix(path, "mark") && len(damaged) > 0 {
						t.Errorf("damage to the mark alone was taken for damage to %v", damaged)
					}
					if len(damaged) > 0 && revived < 20 {
						revived++
						if err := revive(fsys, damaged); err != nil {
							t.Fatalf("%s at %#x of %s: %v", s.name, off, path, err)
						}
					}
				}
			}
			t.Logf("%d damages, %.2f groups reported each", hits, float64(reported)/float64(hits))
			if reported == 0 || hits < 500 {
				t.Errorf("only %d damages, %d groups reported: this test tests nothing", hits, reported)
			}
		})
	}
}

// TestDamageTestNoticesPlantedBugs: without checksums, or without knowledge of
// what was durable, damage goes unnoticed, and check says so.
func TestDamageTestNoticesPlantedBugs(t *testing.T) {
	w := writeLog(t, 4)
	for _, bug := range []string{"skip checksums", "forget what was durable"} {
		t.Run(bug, func(t *testing.T) {
			for _, path := range w.files {
				for off := int64(0); off < 64<<10; off += 512 {
					fsys := w.fs.Crash(1)
					if fsys.Flip(path, off+250, 3) != nil {
						continue
					}
					l, err := raftlog.Open(fsys, logDir, smallOptions().WithBug(bug))
					if err != nil {
						t.Fatal(err)
					}
					for id, ref := range w.want {
						if l.Damaged()[id] == nil && ref.differs(l.Group(id)) != nil {
							t.Logf("noticed at %#x of %s", off, path)
							_ = l.Close()
							return
						}
					}
					_ = l.Close()
				}
			}
			t.Error("not noticed anywhere")
		})
	}
}

func TestMissingSegmentIsReported(t *testing.T) {
	w := writeLog(t, 4)
	for _, path := range w.files {
		fsys := w.fs.Crash(1)
		if err := errors.Join(fsys.Remove(path), fsys.SyncDir(logDir)); err != nil {
			t.Fatal(err)
		}
		damaged, err := w.check(fsys)
		if err != nil {
			t.Errorf("without %s: %v", path, err)
		}
		t.Logf("without %s: damaged %v", path, damaged)
	}
}

func TestEntryThatRotsAfterOpenIsNotReturned(t *testing.T) {
	w := writeLog(t, 1)
	l := mustOpen(t, w.fs, smallOptions())
	defer func() { _ = l.Close() }()
	found := false
	for _, path := range w.files {
		for off := int64(8192); off < 64<<10; off += 512 {
			_ = w.fs.Flip(path, off+100, 1)
		}
	}
	for i := w.want[1].first; i <= w.want[1].last; i++ {
		var log raft.Log
		switch err := l.Group(1).GetLog(i, &log); {
		case errors.Is(err, backend.ErrChecksum):
			found = true
		case err != nil || !sameEntry(log, w.want[1].entries[i]):
			t.Errorf("entry %d: %v, %s", i, err, brief(log))
		}
	}
	if !found {
		t.Error("no entry was found to be rotten")
	}
}
