package remote_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// metaServer is an MDS that listens on this machine.
type metaServer struct {
	mds    *mds.MDS
	server *mds.Server
	addr   string
	served chan error
}

// serveMDS serves store at addr, "" for any free port.
func serveMDS(t *testing.T, store mds.Store, addr string, opts mds.Options) *metaServer {
	t.Helper()
	m, err := mds.New(store, opts)
	if err != nil {
		t.Fatal(err)
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &metaServer{mds: m, server: mds.NewServer(m, mds.ServerOptions{}), addr: l.Addr().String(), served: make(chan error, 1)}
	go func() { s.served <- s.server.Serve(l) }()
	return s
}

// stop ends the server and its MDS, cancelling what is in progress.
func (s *metaServer) stop(t *testing.T) {
	t.Helper()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	s.server.Shutdown(now)
	if err := <-s.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := s.mds.Close(); err != nil {
		t.Errorf("close MDS: %v", err)
	}
}

func dialMeta(t *testing.T, o remote.MetaOptions, addrs ...string) *remote.Meta {
	t.Helper()
	m, err := remote.DialMeta(addrs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
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

func leakCheck(t *testing.T) {
	t.Helper()
	already := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, already) })
}

func TestMDSOverTheNetworkIsAMeta(t *testing.T) {
	leakCheck(t)
	backendtest.TestMeta(t, func(t *testing.T) backend.Meta {
		s := serveMDS(t, mds.NewMemStore(), "", mds.Options{})
		t.Cleanup(func() { s.stop(t) })
		return dialMeta(t, remote.MetaOptions{}, s.addr)
	})
}

func TestMDSOverTheNetworkOutlivesReopening(t *testing.T) {
	leakCheck(t)
	type opened struct {
		server *metaServer
		path   string
	}
	clients := map[backend.Meta]opened{}
	open := func(t *testing.T, path, addr string) backend.Meta {
		s := serveMDS(t, openBolt(t, path), addr, mds.Options{})
		m := dialMeta(t, remote.MetaOptions{}, s.addr)
		clients[m] = opened{s, path}
		t.Cleanup(func() {
			if o, ok := clients[m]; ok {
				o.server.stop(t)
			}
		})
		return m
	}
	backendtest.TestMetaReopened(t,
		func(t *testing.T) backend.Meta { return open(t, filepath.Join(t.TempDir(), "meta.db"), "") },
		func(t *testing.T, m backend.Meta) backend.Meta {
			// The client stays: it finds the MDS again by itself.
			o := clients[m]
			o.server.stop(t)
			o.server = serveMDS(t, openBolt(t, o.path), o.server.addr, mds.Options{})
			clients[m] = o
			return m
		})
}

func createVolume(t *testing.T, m backend.Meta, name string) backend.VolumeInfo {
	t.Helper()
	v, err := m.CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func shortly(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
