package mds_test

import (
	"path/filepath"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/mds"
)

func newMDS(t *testing.T, store mds.Store, opts mds.Options) *mds.MDS {
	t.Helper()
	m, err := mds.New(store, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func openBolt(t *testing.T, path string) mds.Store {
	t.Helper()
	store, err := mds.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestMDSInMemoryIsAMeta(t *testing.T) {
	backendtest.TestMeta(t, func(t *testing.T) backend.Meta {
		return newMDS(t, mds.NewMemStore(), mds.Options{})
	})
}

func TestMDSOnBoltIsAMeta(t *testing.T) {
	backendtest.TestMeta(t, func(t *testing.T) backend.Meta {
		return newMDS(t, openBolt(t, filepath.Join(t.TempDir(), "meta.db")), mds.Options{})
	})
}

func TestMDSOnBoltOutlivesReopening(t *testing.T) {
	paths := map[backend.Meta]string{}
	open := func(t *testing.T, path string) backend.Meta {
		m := newMDS(t, openBolt(t, path), mds.Options{})
		paths[m] = path
		return m
	}
	backendtest.TestMetaReopened(t,
		func(t *testing.T) backend.Meta { return open(t, filepath.Join(t.TempDir(), "meta.db")) },
		func(t *testing.T, m backend.Meta) backend.Meta {
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, paths[m])
		})
}
