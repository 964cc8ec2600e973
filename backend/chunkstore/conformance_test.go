package chunkstore_test

import (
	"io"
	"log/slog"
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/disk/crashfs"
)

func TestMain(m *testing.M) {
	// Power cuts make thousands of short-lived stores in a tiny heap.
	debug.SetGCPercent(800)
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestConformanceOnDisk(t *testing.T) {
	backendtest.TestChunks(t, func(t *testing.T) backend.Chunks {
		s, err := chunkstore.Open(disk.OS(), t.TempDir(), chunkstore.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestConformanceInMemory runs with few chunks open and cache misses, so that
// eviction and the slow read path are met all the time.
func TestConformanceInMemory(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts chunkstore.Options
	}{
		{"defaults", chunkstore.Options{Logger: quiet}},
		{"two chunks open", chunkstore.Options{Logger: quiet, MaxOpenChunks: 2}},
		{"one worker and queue slot", chunkstore.Options{Logger: quiet, WriteWorkers: 1, ReadWorkers: 1, FlushWorkers: 1, SyncWorkers: 1, QueueDepth: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			backendtest.TestChunks(t, func(t *testing.T) backend.Chunks {
				s, err := chunkstore.Open(crashfs.New(crashfs.Options{MissEvery: 3}), storeDir, tc.opts)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}
