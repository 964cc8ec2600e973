package embedded_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

// removeWritten makes a volume with a chunk of data in it and removes it.
func removeWritten(t *testing.T, b *embedded.Backend, name string) (backend.VolumeInfo, backend.ChunkRef) {
	t.Helper()
	createVolume(t, b, name, 2)
	lease := openVolume(t, b, name)
	chunk := allocate(t, b, lease, 1).Chunks[0]
	if err := write(b, lease, chunk, "data"); err != nil {
		t.Fatal(err)
	}
	closeVolume(t, b, lease)
	v, err := b.Meta().RemoveVolume(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return v, chunk
}

func chunkUsage(t *testing.T, b *embedded.Backend, chunk backend.ChunkRef) int64 {
	t.Helper()
	n, err := b.Chunks().Usage(t.Context(), []backend.ChunkRef{chunk})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func binSize(t *testing.T, b *embedded.Backend) int {
	t.Helper()
	infos, err := b.Meta().Recycled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(infos)
}

func TestRecycledVolumesArePurgedWhenTheirTimeIsOver(t *testing.T) {
	for name, c := range map[string]struct{ keep, want time.Duration }{
		"default":  {0, embedded.DefaultRecycleKeep},
		"an hour":  {time.Hour, time.Hour},
		"half a s": {time.Second / 2, time.Second / 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := openMemory(t, embedded.Options{RecycleKeep: c.keep})
				_, first := removeWritten(t, b, "first")
				time.Sleep(c.want / 2)
				_, second := removeWritten(t, b, "second")
				time.Sleep(c.want/2 - time.Nanosecond)
				synctest.Wait()
				if n := binSize(t, b); n != 2 || chunkUsage(t, b, first) == 0 {
					t.Fatalf("before its time: %d in the bin, first volume takes %d", n, chunkUsage(t, b, first))
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if n := binSize(t, b); n != 1 || chunkUsage(t, b, first) != 0 || chunkUsage(t, b, second) == 0 {
					t.Fatalf("when the first is due: %d in the bin, volumes take %d and %d", n, chunkUsage(t, b, first), chunkUsage(t, b, second))
				}
				time.Sleep(c.want)
				synctest.Wait()
				if n := binSize(t, b); n != 0 || chunkUsage(t, b, second) != 0 {
					t.Fatalf("when both are due: %d in the bin, second volume takes %d", n, chunkUsage(t, b, second))
				}
				closeBackend(t, b)
			})
		})
	}
}

func TestPurgeAtOncePurgesWhatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openMemory(t, embedded.Options{RecycleKeep: embedded.PurgeAtOnce})
		v, chunk := removeWritten(t, b, "v")
		synctest.Wait()
		if n := binSize(t, b); n != 0 || chunkUsage(t, b, chunk) != 0 {
			t.Errorf("%d in the bin, chunk takes %d", n, chunkUsage(t, b, chunk))
		}
		if _, err := b.Meta().RecoverVolume(t.Context(), v.ID, ""); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("recover a purged volume: %v, want ErrNotFound", err)
		}
		closeBackend(t, b)
	})
}

func TestRecoveredVolumeIsNotPurged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openMemory(t, embedded.Options{RecycleKeep: time.Hour})
		v, chunk := removeWritten(t, b, "v")
		time.Sleep(30 * time.Minute)
		if _, err := b.Meta().RecoverVolume(t.Context(), v.ID, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Meta().RemoveVolume(t.Context(), "v"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Minute) // longer than an hour since the first removal
		synctest.Wait()
		if n := binSize(t, b); n != 1 || chunkUsage(t, b, chunk) == 0 {
			t.Errorf("the clock was not set back by the recovery: %d in the bin", n)
		}
		closeBackend(t, b)
	})
}

// waitFor asks again and again until the background work has brought cond about.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestInterruptedPurgeIsFinishedOnOpen(t *testing.T) {
	dir := t.TempDir()
	b := openDir(t, dir, embedded.Options{})
	v, chunk := removeWritten(t, b, "v")
	kept, keptChunk := removeWritten(t, b, "kept")
	if _, err := b.Meta().PurgeVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	closeBackend(t, b) // after PurgeVolume, before Delete and PurgeDone

	b = openDir(t, dir, embedded.Options{})
	waitFor(t, "purge", func() bool { return binSize(t, b) == 1 })
	if n := chunkUsage(t, b, chunk); n != 0 {
		t.Errorf("chunk of the purged volume takes %d", n)
	}
	if _, err := b.Meta().RecoverVolume(t.Context(), kept.ID, ""); err != nil || chunkUsage(t, b, keptChunk) == 0 {
		t.Errorf("the other volume: %v, takes %d", err, chunkUsage(t, b, keptChunk))
	}
}

func TestOrphanChunksAreDeletedOnOpen(t *testing.T) {
	dir := t.TempDir()
	b := openDir(t, dir, embedded.Options{})
	createVolume(t, b, "v", 2)
	lease := openVolume(t, b, "v")
	chunk := allocate(t, b, lease, 0).Chunks[0]
	_, orphan := removeWritten(t, b, "gone")
	if err := write(b, lease, chunk, "kept"); err != nil {
		t.Fatal(err)
	}
	if chunkUsage(t, b, orphan) == 0 {
		t.Fatal("the chunk to be orphaned takes nothing already")
	}
	purgeInMetadataOnly(t, b)
	closeBackend(t, b)

	b = openDir(t, dir, embedded.Options{})
	waitFor(t, "deletion of the orphan", func() bool { return chunkUsage(t, b, orphan) == 0 })
	if got := read(t, b, openVolume(t, b, "v"), chunk); got[:4] != "kept" {
		t.Errorf("a chunk in use reads %.8q", got)
	}
}

// purgeInMetadataOnly forgets all recycled volumes and leaves their chunks.
func purgeInMetadataOnly(t *testing.T, b *embedded.Backend) {
	t.Helper()
	bin, err := b.Meta().Recycled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range bin {
		if _, err := b.Meta().PurgeVolume(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		if err := b.Meta().PurgeDone(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOlderMetadataPutBackReusesNoChunk(t *testing.T) {
	dir := t.TempDir()
	closeBackend(t, openDir(t, dir, embedded.Options{}))
	metaFile := filepath.Join(dir, "meta", "meta.db")
	old, err := os.ReadFile(metaFile)
	if err != nil {
		t.Fatal(err)
	}
	b := openDir(t, dir, embedded.Options{})
	createVolume(t, b, "v", 1)
	lease := openVolume(t, b, "v")
	chunk := allocate(t, b, lease, 0).Chunks[3]
	if err := write(b, lease, chunk, "lost"); err != nil {
		t.Fatal(err)
	}
	closeBackend(t, b)
	if err := os.WriteFile(metaFile, old, 0o600); err != nil {
		t.Fatal(err)
	}

	b = openDir(t, dir, embedded.Options{})
	createVolume(t, b, "w", 1)
	fresh := openVolume(t, b, "w")
	for _, c := range allocate(t, b, fresh, 0).Chunks {
		if c.ID <= chunk.ID {
			t.Errorf("%s is handed out again; the store has chunks up to %s", c.ID, chunk.ID)
		}
	}
	// A later open finds ids in order again, and must still not take the chunks
	// of the lost metadata for orphans, while it deletes real ones.
	_, orphan := removeWritten(t, b, "gone")
	purgeInMetadataOnly(t, b)
	closeBackend(t, b)
	b = openDir(t, dir, embedded.Options{})
	waitFor(t, "deletion of the orphan", func() bool { return chunkUsage(t, b, orphan) == 0 })
	if chunkUsage(t, b, chunk) == 0 {
		t.Error("a chunk that only the newer metadata knows was deleted")
	}
}

func TestMetadataOfAnotherDirectoryIsRefused(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	closeBackend(t, openDir(t, a, embedded.Options{}))
	closeBackend(t, openDir(t, b, embedded.Options{}))
	if err := os.Rename(filepath.Join(a, "meta", "meta.db"), filepath.Join(b, "meta", "meta.db")); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Open(b, embedded.Options{Log: quiet})
	wantErr(t, err, backend.ErrInvalid, b, "put the right metadata file back")
}
