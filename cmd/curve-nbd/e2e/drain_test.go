package e2e

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTermFinishesAndKeepsWhatIsInFlight(t *testing.T) {
	dataDir := t.TempDir()
	g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	// Slow enough to be seen in flight, and done in some seconds.
	g.must("volume", "create", "pg", "--size", "4M", "--bps", "128K", "--bps-burst", "128K")
	conn := g.open("pg")
	data := bytes.Repeat([]byte{0xab}, 384<<10)
	replies := make(chan error, 2)
	for i := range 2 {
		go func() { replies <- conn.Write(context.Background(), data, uint64(i)<<20, 0) }()
	}
	g.awaitQueued()
	g.signal(syscall.SIGTERM)
	for range 2 {
		if err := <-replies; err != nil {
			t.Errorf("a write that was in flight: %v", err)
		}
	}
	if code := g.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}

	g = serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	got := make([]byte, len(data))
	conn = g.open("pg")
	for i := range 2 {
		// In pieces, so that the throttle lets them pass soon.
		if err := conn.Read(context.Background(), got[:4096], uint64(i)<<20, 0); err != nil || !bytes.Equal(got[:4096], data[:4096]) {
			t.Errorf("write %d is gone after the restart (%v)", i, err)
		}
	}
}

func TestDrainThatTakesTooLongIsCutOffAndSaysSo(t *testing.T) {
	g := throttledGateway(t, "--drain-timeout", "200ms")
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	if !strings.Contains(g.said(), "still in flight after 200ms") {
		t.Errorf("it does not say why:\n%s", g.said())
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(socketDir(t), "notify.sock")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	g := serve(t, []string{"NOTIFY_SOCKET=" + path}, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	told := func(want string) {
		t.Helper()
		message := make([]byte, 256)
		n, err := notify.Read(message)
		if err != nil || string(message[:n]) != want {
			t.Errorf("told %q, %v; want %s", message[:n], err, want)
		}
	}
	told("READY=1")
	g.stop()
	told("STOPPING=1")
}
