package embedded_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

// Whether a legacy is believed shows in a chunk file that it does not have.
func TestLegacyIsBelievedWhileItHolds(t *testing.T) {
	cases := map[string]struct {
		between func(t *testing.T, dir string, legacy []byte) []byte
		want    bool
	}{
		"handed over": {func(_ *testing.T, _ string, legacy []byte) []byte { return legacy }, true},
		"somebody else was here": {func(t *testing.T, dir string, legacy []byte) []byte {
			b := openDir(t, dir, embedded.Options{})
			createVolume(t, b, "other", 1)
			closeBackend(t, b)
			return legacy
		}, false},
		"a record was put since": {func(t *testing.T, dir string, legacy []byte) []byte {
			b := openDir(t, dir, embedded.Options{})
			putRecord(t, b, "fe/b")
			closeBackend(t, b)
			return legacy
		}, false},
		"another directory's": {func(t *testing.T, _ string, _ []byte) []byte {
			b := openDir(t, t.TempDir(), embedded.Options{})
			closeBackend(t, b)
			return b.Legacy()
		}, false},
		"cut short": {func(_ *testing.T, _ string, legacy []byte) []byte { return legacy[:len(legacy)/2] }, false},
		"none":      {func(*testing.T, string, []byte) []byte { return nil }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := openDir(t, dir, embedded.Options{})
			createVolume(t, b, "v", 1)
			putRecord(t, b, "fe/a")
			if b.Legacy() != nil {
				t.Error("a legacy of what is open")
			}
			if err := b.Settle(t.Context()); err != nil {
				t.Error(err)
			}
			closeBackend(t, b)
			legacy := c.between(t, dir, b.Legacy())
			unknown := filepath.Join(dir, "chunks", "ff", "00000000000000ff")
			if err := os.WriteFile(unknown, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			next := openDir(t, dir, embedded.Options{Legacy: legacy})
			ids, err := next.Chunks().(interface {
				ChunkIDs(ctx context.Context) ([]backend.ChunkID, error)
			}).ChunkIDs(t.Context())
			if err != nil || (len(ids) == 0) != c.want {
				t.Errorf("chunks %v, %v; believed: want %v", ids, err, c.want)
			}
		})
	}
}

func putRecord(t *testing.T, b *embedded.Backend, key string) {
	t.Helper()
	if _, err := b.Meta().PutRecord(t.Context(), key, nil, 0); err != nil {
		t.Fatal(err)
	}
}
