package mds_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

func TestBoltFileThatIsOpenIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := openBolt(t, path)
	_, err := mds.OpenBolt(path)
	if !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), path) {
		t.Errorf("second open: %v, want ErrBusy with the path", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openBolt(t, path).Close()
}

// filled makes a file with many volumes and closes it.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.db")
	m := newMDS(t, openBolt(t, path), mds.Options{})
	for _, name := range []string{"needle-in-the-file", "b", "c"} {
		if _, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 64 << 30}); err != nil {
			t.Fatal(err)
		}
		lease, err := m.OpenVolume(t.Context(), name, "gw", backend.OpenExclusive)
		if err != nil {
			t.Fatal(err)
		}
		for i := range backend.SegmentIndex(30) {
			if _, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDamagedBoltFileIsRefused(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"flipped bit in a value":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("exclusive"), []byte("exclusivf")) },
		"both heads":               func(b []byte) []byte { clear(b[:8192]); return b },
		"cut behind the heads":     func(b []byte) []byte { return b[:8192] },
		"cut inside a page":        func(b []byte) []byte { return b[:9000] },
		"zeros behind the heads":   func(b []byte) []byte { clear(b[8192:]); return b },
		"garbage behind the heads": func(b []byte) []byte { fill(b[8192:], 0xa5); return b },
		"text":                     func(b []byte) []byte { return bytes.Repeat([]byte("hello "), 5000) },
		"one byte":                 func(b []byte) []byte { return b[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := mds.OpenBolt(path)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, backend.ErrChecksum) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
				t.Fatalf("open: %v, want ErrChecksum with the path and what to do", err)
			}
			// The refusal must have let the lock go.
			if _, err := mds.OpenBolt(path); errors.Is(err, backend.ErrBusy) {
				t.Errorf("open again: %v", err)
			}
		})
	}
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

func TestBoltFileOfAnotherProgramIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("their-bucket"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = mds.OpenBolt(path)
	if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), "their-bucket") {
		t.Errorf("open: %v, want ErrInvalid that names the bucket", err)
	}
}

func TestBoltPathsThatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{"a directory": dir, "no parent": filepath.Join(dir, "no", "meta.db")} {
		if _, err := mds.OpenBolt(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error with the path", name, err)
		}
	}
}

func TestUnreadablePageIsAnErrorNotACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	s := openBolt(t, path)
	update(t, s, "k", "v")
	// A file that another program cut short faults when its mapping is read, as
	// a page does that the disk cannot read.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := s.View(t.Context(), func(tx mds.Txn) error {
			_, err := tx.Get([]byte("k"))
			return err
		})
		if !errors.Is(err, backend.ErrIO) {
			t.Errorf("read: %v, want ErrIO", err)
		}
		err = s.Update(t.Context(), func(tx mds.Txn) error { return tx.Put([]byte("k"), []byte("w")) })
		if !errors.Is(err, backend.ErrIO) {
			t.Errorf("write: %v, want ErrIO", err)
		}
	}
}
