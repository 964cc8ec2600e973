package embedded_test

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

func TestEmbeddedInADirectoryIsABackend(t *testing.T) {
	t.Run("Meta", func(t *testing.T) {
		backendtest.TestMeta(t, func(t *testing.T) backend.Meta {
			return openDir(t, t.TempDir(), embedded.Options{}).Meta()
		})
	})
	t.Run("Chunks", func(t *testing.T) {
		backendtest.TestChunks(t, func(t *testing.T) backend.Chunks {
			return openDir(t, t.TempDir(), embedded.Options{}).Chunks()
		})
	})
}

func TestEmbeddedInMemoryIsABackend(t *testing.T) {
	t.Run("Meta", func(t *testing.T) {
		backendtest.TestMeta(t, func(t *testing.T) backend.Meta {
			return openMemory(t, embedded.Options{}).Meta()
		})
	})
	t.Run("Chunks", func(t *testing.T) {
		backendtest.TestChunks(t, func(t *testing.T) backend.Chunks {
			return openMemory(t, embedded.Options{}).Chunks()
		})
	})
}

func TestMetadataOutlivesReopening(t *testing.T) {
	backends := map[backend.Meta]*embedded.Backend{}
	open := func(t *testing.T, dir string) backend.Meta {
		b := openDir(t, dir, embedded.Options{})
		m := b.Meta()
		backends[m] = b
		return m
	}
	backendtest.TestMetaReopened(t,
		func(t *testing.T) backend.Meta { return open(t, t.TempDir()) },
		func(t *testing.T, m backend.Meta) backend.Meta {
			b := backends[m]
			closeBackend(t, b)
			return open(t, b.Dir())
		})
}
