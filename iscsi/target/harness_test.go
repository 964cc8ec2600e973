package target_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/iscsi/registry"
	"github.com/opencurve/curve-nbd/iscsi/target"
)

// patience bounds every wait for something that must happen.
const patience = 10 * time.Second

const (
	targetName    = "iqn.2026-11.io.curve:vm1"
	initiatorName = "iqn.1993-08.org.debian:host1"
	otherName     = "iqn.1993-08.org.debian:host2"

	blockSize  = 512
	volumeSize = 16 << 20
	kib, mib   = 1 << 10, 1 << 20
)

// setup of a server under test. The zero value serves one target to all initiators,
// with one unit of volumeSize in memory.
type setup struct {
	options target.Options
	gateway gateway.Options
	// luns of the target, each a volume of its own; 0 alone if nil.
	luns []int
	// listen may put a decorator around the listener.
	listen func(net.Listener) net.Listener
	// leaky: the test cannot look for leaked goroutines.
	leaky bool
}

// portal is a server under test.
type portal struct {
	address  string
	server   *target.Server
	gateway  *gateway.Gateway
	registry *registry.Registry
	meta     backend.Meta
	chunks   *gatedChunks
	stop     func() // stops the server in order; may be called early
}

// serve starts a server and stops it when the test is over; then nothing of it may
// be left.
func serve(t testing.TB, s setup) *portal {
	t.Helper()
	if !s.leaky {
		ignore := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	}
	b, err := embedded.OpenMemory(embedded.Options{})
	must(t, err)
	p := newPortal(b.Meta(), b.Chunks(), s)
	p.makeTarget(t, s)
	p.listen(t, s, b.Close)
	return p
}

// newPortal is a gateway that does not listen yet.
func newPortal(meta backend.Meta, chunks backend.Chunks, s setup) *portal {
	p := &portal{meta: meta, chunks: &gatedChunks{Chunks: chunks}}
	p.gateway = gateway.New(meta, p.chunks, s.gateway)
	p.registry = registry.New(meta, registry.Options{Poll: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	return p
}

// makeTarget makes the target of a setup, with its units.
func (p *portal) makeTarget(t testing.TB, s setup) {
	t.Helper()
	_, err := p.registry.Create(t.Context(), targetName, "")
	must(t, err)
	if s.luns == nil {
		s.luns = []int{0}
	}
	for _, n := range s.luns {
		p.addUnit(t, n)
	}
	_, err = p.registry.Allow(t.Context(), targetName, registry.AnyInitiator, nil)
	must(t, err)
}

// listen serves until the test is over, or stop is called, which closes the backend
// at last.
func (p *portal) listen(t testing.TB, s setup, closeBackend func() error) {
	t.Helper()
	if os.Getenv("CURVE_TEST_LOG") != "" {
		s.options.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s.options.Cluster = "test"
	p.server = target.NewServer(p.gateway, p.registry, s.options)
	p.registry.SetSessions(p.server)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p.address = l.Addr().String()
	if s.listen != nil {
		l = s.listen(l)
	}
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(l) }()
	p.stop = sync.OnceFunc(func() {
		p.chunks.open()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		check := func(what string, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		check("shutdown", p.server.Shutdown(ctx))
		check("serve", <-served)
		check("close registry", p.registry.Close())
		check("close gateway", p.gateway.Close(ctx))
		check("close backend", closeBackend())
	})
	t.Cleanup(p.stop)
}

// volumeOf names the volume of a unit.
func volumeOf(lun int) string { return "vol" + string(rune('a'+lun%26)) }

// addUnit makes a volume, and a unit of it.
func (p *portal) addUnit(t testing.TB, lun int) {
	t.Helper()
	p.addVolume(t, lun)
	_, err := p.registry.AddUnit(t.Context(), targetName, registry.Unit{Number: lun, Volume: volumeOf(lun)})
	must(t, err)
}

// addVolume makes the volume of a unit.
func (p *portal) addVolume(t testing.TB, lun int) {
	t.Helper()
	g := backend.Geometry{BlockSize: blockSize, ChunkSize: 256 * kib, SegmentSize: 2 * mib}
	_, err := p.gateway.CreateVolume(t.Context(), backend.VolumeSpec{Name: volumeOf(lun), Size: volumeSize, Geometry: g})
	must(t, err)
}

// gatedChunks holds operations back while it is shut, like a backend that stalls.
type gatedChunks struct {
	backend.Chunks
	mu   sync.Mutex // guards all below
	shut bool
	only backend.VolumeID // the one that stalls, 0 for all
	held []*backend.Op
	came chan struct{} // closed when the first operation is held
}

// stops says whether an operation is held back. With mu held.
func (g *gatedChunks) stops(op *backend.Op) bool {
	return g.shut && (g.only == 0 || g.only == op.Volume)
}

// Try implements backend.Chunks.
func (g *gatedChunks) Try(op *backend.Op) bool {
	g.mu.Lock()
	stops := g.stops(op)
	g.mu.Unlock()
	return !stops && g.Chunks.Try(op)
}

// Submit implements backend.Chunks.
func (g *gatedChunks) Submit(op *backend.Op) {
	g.mu.Lock()
	if g.stops(op) {
		if len(g.held) == 0 {
			close(g.came)
		}
		g.held = append(g.held, op)
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.Chunks.Submit(op)
}

// close shuts the gate.
func (g *gatedChunks) close() { g.closeFor(0) }

// closeFor shuts it for one volume, or for all with 0.
func (g *gatedChunks) closeFor(volume backend.VolumeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.only, g.came = true, volume, make(chan struct{})
}

// open lets everything through, in order.
func (g *gatedChunks) open() {
	g.mu.Lock()
	held := g.held
	g.shut, g.held = false, nil
	g.mu.Unlock()
	for _, op := range held {
		g.Chunks.Submit(op)
	}
}

// wait returns when an operation is held.
func (g *gatedChunks) wait(t testing.TB) {
	t.Helper()
	select {
	case <-g.came:
	case <-time.After(patience):
		t.Fatal("no operation reaches the backend")
	}
}

// Close implements backend.Chunks: the backend is closed by who opened it.
func (g *gatedChunks) Close() error { return nil }

// must fails the test on err.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something is as it must become.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never comes to this: %s", what)
		}
	}
}

// pattern is n bytes that tell where they belong.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>9)*7 ^ byte(i) ^ seed
	}
	return b
}
