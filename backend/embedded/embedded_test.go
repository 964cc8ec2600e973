package embedded_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

// TestMain also is the other process that some tests start: see child_test.go.
func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	goleak.VerifyTestMain(m)
}

// quiet is a log for tests that cause errors on purpose.
var quiet = slog.New(slog.DiscardHandler)

func openDir(t *testing.T, dir string, opts embedded.Options) *embedded.Backend {
	t.Helper()
	if opts.Log == nil {
		opts.Log = quiet
	}
	b, err := embedded.Open(dir, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openMemory(t *testing.T, opts embedded.Options) *embedded.Backend {
	t.Helper()
	opts.Log = quiet
	b, err := embedded.OpenMemory(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func closeBackend(t *testing.T, b *embedded.Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// smallGeometry has 4 chunks of 64 KiB in a segment.
var smallGeometry = backend.Geometry{BlockSize: 4096, ChunkSize: 64 << 10, SegmentSize: 256 << 10}

func createVolume(t *testing.T, b *embedded.Backend, name string, segments int64) backend.VolumeInfo {
	t.Helper()
	v, err := b.Meta().CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: segments * smallGeometry.SegmentSize, Geometry: smallGeometry})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func openVolume(t *testing.T, b *embedded.Backend, name string) backend.Lease {
	t.Helper()
	lease, err := b.Meta().OpenVolume(t.Context(), name, "gw", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func closeVolume(t *testing.T, b *embedded.Backend, lease backend.Lease) {
	t.Helper()
	if err := b.Meta().CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch); err != nil {
		t.Fatal(err)
	}
}

func allocate(t *testing.T, b *embedded.Backend, lease backend.Lease, index backend.SegmentIndex) backend.Segment {
	t.Helper()
	seg, err := b.Meta().AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, index)
	if err != nil {
		t.Fatal(err)
	}
	return seg
}

type opDone chan *backend.Op

func (c opDone) OpDone(op *backend.Op) { c <- op }

// do runs an operation to its end.
func do(b *embedded.Backend, op backend.Op) error {
	done := make(opDone, 1)
	op.Done = done
	b.Chunks().Submit(&op)
	<-done
	return op.Err
}

func write(b *embedded.Backend, lease backend.Lease, chunk backend.ChunkRef, fill string) error {
	data := []byte(strings.Repeat(fill, 4096/len(fill)))
	return do(b, backend.Op{Kind: backend.OpWrite, Flags: backend.FlagFUA, Volume: lease.Volume.ID, Epoch: lease.Epoch, Chunk: chunk, Len: 4096, Data: data})
}

func read(t *testing.T, b *embedded.Backend, lease backend.Lease, chunk backend.ChunkRef) string {
	t.Helper()
	data := make([]byte, 4096)
	if err := do(b, backend.Op{Kind: backend.OpRead, Volume: lease.Volume.ID, Epoch: lease.Epoch, Chunk: chunk, Len: 4096, Data: data}); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestDataAndIdentityOutliveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	b := openDir(t, dir, embedded.Options{})
	if b.Dir() != dir {
		t.Errorf("Dir is %q, want %q", b.Dir(), dir)
	}
	identity, err := os.ReadFile(filepath.Join(dir, "curve-nbd.json"))
	if err != nil {
		t.Fatal(err)
	}
	createVolume(t, b, "v", 1)
	lease := openVolume(t, b, "v")
	chunk := allocate(t, b, lease, 0).Chunks[2]
	if err := write(b, lease, chunk, "kept"); err != nil {
		t.Fatal(err)
	}
	closeBackend(t, b) // with the volume still open, as a crash would

	b = openDir(t, dir, embedded.Options{})
	again, err := b.Meta().OpenVolume(t.Context(), "v", "another gateway", backend.OpenExclusive)
	if err != nil {
		t.Fatalf("the lease of the last gateway was not released: %v", err)
	}
	if got := read(t, b, again, chunk); got != strings.Repeat("kept", 1024) {
		t.Errorf("read %.8q…, want kept…", got)
	}
	if now, err := os.ReadFile(filepath.Join(dir, "curve-nbd.json")); err != nil || string(now) != string(identity) {
		t.Errorf("identity is %s, %v, was %s", now, err, identity)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, %v, want 0700", info.Mode(), err)
	}
}

func TestOldEpochIsRefusedBeforeTheNewOwnersFirstOperation(t *testing.T) {
	for name, b := range map[string]*embedded.Backend{
		"directory": openDir(t, t.TempDir(), embedded.Options{}),
		"memory":    openMemory(t, embedded.Options{}),
	} {
		t.Run(name, func(t *testing.T) {
			createVolume(t, b, "v", 1)
			old := openVolume(t, b, "v")
			chunk := allocate(t, b, old, 0).Chunks[0]
			if err := write(b, old, chunk, "old!"); err != nil {
				t.Fatal(err)
			}
			fresh := openVolume(t, b, "v")
			if err := write(b, old, chunk, "late"); !errors.Is(err, backend.ErrStaleEpoch) {
				t.Errorf("write under the old epoch: %v, want ErrStaleEpoch", err)
			}
			op := &backend.Op{Kind: backend.OpRead, Volume: old.Volume.ID, Epoch: old.Epoch, Chunk: chunk, Len: 4096, Data: make([]byte, 4096)}
			if b.Chunks().Try(op) && !errors.Is(op.Err, backend.ErrStaleEpoch) {
				t.Errorf("read under the old epoch, tried: %v, want ErrStaleEpoch", op.Err)
			}
			if got := read(t, b, fresh, chunk); got != strings.Repeat("old!", 1024) {
				t.Errorf("read %.8q…, want old!…", got)
			}
		})
	}
}

func TestLateWriteCannotReviveARemovedVolume(t *testing.T) {
	b := openDir(t, t.TempDir(), embedded.Options{})
	v := createVolume(t, b, "v", 1)
	lease := openVolume(t, b, "v")
	chunk := allocate(t, b, lease, 0).Chunks[0]
	closeVolume(t, b, lease)
	if _, err := b.Meta().RemoveVolume(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if err := write(b, lease, chunk, "late"); !errors.Is(err, backend.ErrStaleEpoch) {
		t.Errorf("write to a removed volume: %v, want ErrStaleEpoch", err)
	}
	// The fence must not lock out whoever opens the volume after a recovery.
	if _, err := b.Meta().RecoverVolume(t.Context(), v.ID, ""); err != nil {
		t.Fatal(err)
	}
	if err := write(b, openVolume(t, b, "v"), chunk, "good"); err != nil {
		t.Errorf("write after recovery: %v", err)
	}
}

func TestUsageIsWhatTheChunksTake(t *testing.T) {
	for name, b := range map[string]*embedded.Backend{
		"directory": openDir(t, t.TempDir(), embedded.Options{}),
		"memory":    openMemory(t, embedded.Options{}),
	} {
		t.Run(name, func(t *testing.T) {
			v := createVolume(t, b, "v", 4)
			lease := openVolume(t, b, "v")
			var last int64
			for index := range backend.SegmentIndex(3) {
				used, err := b.Usage(t.Context(), v.ID)
				if err != nil || used < last || (index == 0) != (used == 0) {
					t.Errorf("usage with %d chunks written is %d, %v, was %d", index, used, err, last)
				}
				last = used + 4096
				if err := write(b, lease, allocate(t, b, lease, index).Chunks[0], "data"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Usage(t.Context(), 99); !errors.Is(err, backend.ErrNotFound) {
				t.Errorf("usage of no volume: %v, want ErrNotFound", err)
			}
		})
	}
}

func TestCloseIsRepeatableAndEndsEverything(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	b := openDir(t, t.TempDir(), embedded.Options{})
	createVolume(t, b, "v", 1)
	lease := openVolume(t, b, "v")
	chunk := allocate(t, b, lease, 0).Chunks[0]
	if err := write(b, lease, chunk, "data"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		closeBackend(t, b)
	}
	goleak.VerifyNone(t, ignore)
	if _, err := b.Meta().Volumes(t.Context(), ""); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("metadata after Close: %v, want ErrClosed", err)
	}
	if err := write(b, lease, chunk, "data"); !errors.Is(err, backend.ErrClosed) {
		t.Errorf("write after Close: %v, want ErrClosed", err)
	}
}
