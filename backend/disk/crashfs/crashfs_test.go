package crashfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

const (
	dir  = "/d"
	path = "/d/f"
)

func create(t *testing.T, m *crashfs.FS) disk.File {
	t.Helper()
	if err := m.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	f, err := m.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, f disk.File, off int64, b byte) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{b}, 512), off); err != nil {
		t.Fatal(err)
	}
}

func syncAll(t *testing.T, m *crashfs.FS, f disk.File) {
	t.Helper()
	if err := errors.Join(f.SyncData(), m.SyncDir(dir)); err != nil {
		t.Fatal(err)
	}
}

// outcomes crashes often and collects what the file's first bytes of two
// sectors are; "-" stands for no file.
func outcomes(t *testing.T, m *crashfs.FS) map[string]int {
	t.Helper()
	seen := make(map[string]int)
	for seed := range uint64(400) {
		f, err := m.Crash(seed).Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			seen["-"]++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 1024)
		n, _ := f.ReadAt(p, 0) // a short file reads short, the rest stays 0
		clear(p[n:])
		seen[string([]byte{'0' + p[0], '0' + p[512]})]++
	}
	return seen
}

func wantOutcomes(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if got[w] == 0 {
			t.Errorf("outcome %q never happens in %v", w, got)
		}
		delete(got, w)
	}
	if len(got) != 0 {
		t.Errorf("outcomes %v must not happen", got)
	}
}

func TestNothingUnsyncedIsSure(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	// The second sector, cut off by the size of the file or not written.
	wantOutcomes(t, outcomes(t, m), "-", "00", "10", "01", "11")
}

func TestSyncedContentAndNameSurvive(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	syncAll(t, m, f)
	wantOutcomes(t, outcomes(t, m), "11")
	put(t, f, 0, 2)
	put(t, f, 0, 3) // each version may be the one, the sectors apart
	put(t, f, 512, 2)
	wantOutcomes(t, outcomes(t, m), "11", "21", "31", "12", "22", "32")
}

func TestContentSyncDoesNotCoverTheName(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "-", "11")
}

func TestRemovedFileMayComeBackUntilTheDirectoryIsSynced(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	syncAll(t, m, f)
	if err := m.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "-", "10")
	f, err := m.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, f, 0, 2)
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "-", "10", "20")
	if err := m.SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "20")
}

func TestFailedSyncIsNotMadeGoodByTheNext(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	syncAll(t, m, f)
	put(t, f, 0, 2)
	m.OnCall(func(c crashfs.Call) error {
		if c.Op == crashfs.OpSyncData {
			return unix.EIO
		}
		return nil
	})
	if err := f.SyncData(); !errors.Is(err, unix.EIO) {
		t.Fatalf("got error %v", err)
	}
	m.OnCall(nil)
	put(t, f, 512, 2)
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "12", "22")
}

func TestPunchedHoleMayComeBackUntilSynced(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	syncAll(t, m, f)
	if err := f.PunchHole(0, 512); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "11", "01")
	if n, err := m.Allocated(path); n != 512 || err != nil {
		t.Errorf("%d bytes allocated, %v", n, err)
	}
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, m), "01")
}

func TestKilledProcessLeavesTheCache(t *testing.T) {
	m := crashfs.New(crashfs.Options{})
	f := create(t, m)
	put(t, f, 0, 1)
	put(t, f, 512, 1)
	next := m.Kill()
	if _, err := f.WriteAt([]byte{9}, 0); !errors.Is(err, crashfs.ErrDead) {
		t.Errorf("write by a dead process: %v", err)
	}
	if _, err := next.Open(path); err != nil {
		t.Error(err)
	}
	wantOutcomes(t, outcomes(t, next), "-", "00", "10", "01", "11")
	if err := next.SyncAll("/"); err != nil {
		t.Fatal(err)
	}
	wantOutcomes(t, outcomes(t, next), "11")
}

func TestCapacityCountsWhatIsAllocated(t *testing.T) {
	m := crashfs.New(crashfs.Options{Capacity: 1024})
	f := create(t, m)
	n, err := f.WriteAt(make([]byte, 2048), 0)
	if n != 1024 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := f.PunchHole(0, 512); err != nil {
		t.Fatal(err)
	}
	put(t, f, 4096, 1)
	if err := m.Remove(path); err != nil {
		t.Fatal(err)
	}
	if f, err = m.Create(path); err != nil {
		t.Fatal(err)
	}
	put(t, f, 0, 1)
	put(t, f, 512, 1)
}
