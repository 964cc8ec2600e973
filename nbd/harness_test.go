package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// The conformance tests can be pointed at another server, to see where they ask
// for more than the protocol does:
//
//	CURVE_NBD_FOREIGN=unix:/tmp/sock CURVE_NBD_FOREIGN_EXPORT=name go test -run Conformance ./nbd
const (
	foreignEnv       = "CURVE_NBD_FOREIGN"
	foreignExportEnv = "CURVE_NBD_FOREIGN_EXPORT"
)

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

const (
	testVolume = "vol"
	testSize   = 64 << 20
	testBlock  = 512
)

// testGeometry has chunks so small that ordinary requests fall on several.
func testGeometry(blockSize int64) backend.Geometry {
	return backend.Geometry{BlockSize: blockSize, ChunkSize: 256 << 10, SegmentSize: 2 << 20}
}

// setup of a server under test. The zero value is a memory backend with one
// volume, on a unix socket.
type setup struct {
	dir     string // data directory of the embedded backend; "" for memory
	network string // "unix" or "tcp"
	nbd     nbd.Options
	gateway gateway.Options
	volumes []backend.VolumeSpec
	// wrap may put a decorator around the chunks.
	wrap func(backend.Chunks) backend.Chunks
	// listen may put a decorator around the listener.
	listen func(net.Listener) net.Listener
	leaky  bool // the test looks for leaked goroutines itself, or cannot
}

// target is a server under test.
type target struct {
	client.Target
	size    uint64
	gateway *gateway.Gateway // nil when foreign
	server  *nbd.Server
	stop    func() // stops the server in order; may be called early
}

func (tg *target) foreign() bool { return tg.gateway == nil }

// uri of an export of the server.
func (tg *target) uri(export string) string {
	if tg.Network == "unix" {
		return "nbd+unix:///" + export + "?socket=" + tg.Address
	}
	return "nbd://" + tg.Address + "/" + export
}

// serve starts a server and stops it when the test is over; then nothing of it
// may be left.
func serve(t testing.TB, s setup) *target {
	t.Helper()
	if !s.leaky {
		ignore := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	}
	var b *embedded.Backend
	var err error
	if s.dir == "" {
		b, err = embedded.OpenMemory(embedded.Options{})
	} else {
		b, err = embedded.Open(s.dir, embedded.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	chunks := b.Chunks()
	if s.wrap != nil {
		chunks = s.wrap(chunks)
	}
	g := gateway.New(b.Meta(), chunks, s.gateway)
	if s.volumes == nil {
		s.volumes = []backend.VolumeSpec{{Name: testVolume, Size: testSize, Geometry: testGeometry(testBlock)}}
	}
	for _, spec := range s.volumes {
		if _, err := g.CreateVolume(t.Context(), spec); err != nil && !errors.Is(err, backend.ErrExists) {
			t.Fatal(err)
		}
	}
	l := listen(t, s.network)
	tg := &target{gateway: g, server: nbd.NewServer(g, s.nbd), size: testSize}
	tg.Target = client.Target{Network: l.Addr().Network(), Address: l.Addr().String(), Export: testVolume}
	if s.listen != nil {
		l = s.listen(l)
	}
	served := make(chan error, 1)
	go func() { served <- tg.server.Serve(l) }()

	stopped := false
	tg.stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for what, err := range map[string]error{
			"shutdown":      tg.server.Shutdown(ctx),
			"serve":         <-served,
			"close gateway": g.Close(ctx),
			"close backend": b.Close(),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	t.Cleanup(tg.stop)
	return tg
}

// listen opens a listener on an address of its own.
func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network != "tcp" {
		network = "unix"
		dir, err := os.MkdirTemp("", "nbd") // t.TempDir is too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "sock")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// forEachTarget runs a test over unix and TCP, or against the foreign server.
func forEachTarget(t *testing.T, test func(t *testing.T, tg *target)) {
	if address := os.Getenv(foreignEnv); address != "" {
		t.Run("foreign", func(t *testing.T) { test(t, foreignTarget(t, address)) })
		return
	}
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) { test(t, serve(t, setup{network: network})) })
	}
}

func foreignTarget(t *testing.T, address string) *target {
	network, address, ok := strings.Cut(address, ":")
	if !ok {
		t.Fatalf("%s=%q: want unix:PATH or tcp:HOST:PORT", foreignEnv, address)
	}
	tg := &target{Target: client.Target{Network: network, Address: address, Export: os.Getenv(foreignExportEnv)}, stop: func() {}}
	info, err := dial(t, tg).Info(t.Context(), tg.Export)
	if err != nil {
		t.Fatal(err)
	}
	tg.size = info.Size
	return tg
}

// oursOnly skips a test that needs more than an address.
func oursOnly(t testing.TB, tg *target) {
	t.Helper()
	if tg.foreign() {
		t.Skip("needs a server of our own")
	}
}

// styles are the forms of replies a client can agree on.
var styles = []client.ReplyStyle{client.SimpleReplies, client.StructuredReplies, client.ExtendedHeaders}

// forEachStyle runs a test with each form of replies the server knows.
func forEachStyle(t *testing.T, test func(t *testing.T, tg *target, style client.ReplyStyle)) {
	forEachTarget(t, func(t *testing.T, tg *target) {
		for _, style := range styles {
			t.Run(style.String(), func(t *testing.T) {
				if tg.foreign() && style == client.ExtendedHeaders && dial(t, tg).AgreeExtended(t.Context()) != nil {
					t.Skip("server has no extended headers")
				}
				test(t, tg, style)
			})
		}
	})
}

// dial returns a handshake that has greeted.
func dial(t testing.TB, tg *target) *client.Handshake {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, err := client.Dial(ctx, tg.Network, tg.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// attach enters the transmission phase with that form of replies, and block
// status where the form allows it.
func attach(t testing.TB, tg *target, style client.ReplyStyle) *client.Wire {
	t.Helper()
	h := dial(t, tg)
	agree(t, h, style)
	if style != client.SimpleReplies {
		if _, err := h.SetMetaContexts(t.Context(), tg.Export, client.BaseAllocation); err != nil {
			t.Fatal(err)
		}
	}
	w, err := h.Go(t.Context(), tg.Export, client.InfoBlockSize)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func agree(t testing.TB, h *client.Handshake, style client.ReplyStyle) {
	t.Helper()
	var err error
	switch style {
	case client.StructuredReplies:
		err = h.AgreeStructured(t.Context())
	case client.ExtendedHeaders:
		err = h.AgreeExtended(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// connect is attach with the engine on.
func connect(t testing.TB, tg *target, style client.ReplyStyle) *client.Conn {
	t.Helper()
	c := attach(t, tg, style).Conn(0)
	t.Cleanup(func() { c.Close() })
	return c
}

// within is a context for something that must not take long.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// must fails the test on err.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErrno checks that a request was refused with errno, 0 for success.
func wantErrno(t testing.TB, err error, want client.Errno) {
	t.Helper()
	got := client.Errno(0)
	if refused := new(client.Error); errors.As(err, &refused) {
		got = refused.Errno
	} else if err != nil {
		t.Fatalf("got %v, want errno %v", err, want)
	}
	if got != want {
		t.Fatalf("got errno %v (%v), want %v", got, err, want)
	}
}

// wantRefusal checks that an option was refused with that reply.
func wantRefusal(t testing.TB, err error, want uint32) {
	t.Helper()
	refused := new(client.OptionError)
	if !errors.As(err, &refused) || refused.Reply != want {
		t.Fatalf("got %v, want option error %d", err, want&^client.RepError)
	}
}

// alive checks that the connection still serves requests in step.
func alive(t testing.TB, c *client.Conn) {
	t.Helper()
	if err := c.Read(within(t), make([]byte, 4096), 0, 0); err != nil {
		t.Fatalf("connection does not live on: %v", err)
	}
}

// haggling checks that the handshake is still in step.
func haggling(t testing.TB, h *client.Handshake) {
	t.Helper()
	if err := h.Option(within(t), client.OptStructuredReply, nil, nil); err != nil {
		t.Fatalf("handshake is out of step: %v", err)
	}
}

// wantHangUp checks that the server closes the connection, after at most limit
// more bytes.
func wantHangUp(t testing.TB, r io.Reader, conn net.Conn, limit int64) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	n, err := io.Copy(io.Discard, io.LimitReader(r, limit+1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("server sent %d bytes and did not hang up", n)
	}
	if n > limit {
		t.Fatalf("server sent more than %d bytes instead of hanging up", limit)
	}
}

// pattern fills b with bytes that tell where they belong.
func pattern(b []byte, seed byte) []byte {
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i) ^ seed
	}
	return b
}

// firstDifference says where two buffers part.
func firstDifference(got, want []byte) string {
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return "equal"
}
