package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/nbd/client"
)

// volumeJSON is what scripts rely on in `volume info -o json`.
type volumeJSON struct {
	Name           string `json:"name"`
	ID             uint64 `json:"id"`
	SizeBytes      int64  `json:"size_bytes"`
	BlockSize      int64  `json:"block_size"`
	AllocatedBytes int64  `json:"allocated_bytes"`
	Epoch          uint64 `json:"epoch"`
	State          string `json:"state"`
}

// open connects to an export over the gateway's first NBD listener.
func (g *gateway) open(volume string) *client.Conn {
	g.t.Helper()
	network, address, _ := strings.Cut(g.address("nbd"), ":")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := client.Open(ctx, client.Target{Network: network, Address: address, Export: volume}, client.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

func TestLifeOfAVolume(t *testing.T) {
	dataDir := filepath.Join(t.TempDir(), "data")
	nbd := "unix:" + filepath.Join(socketDir(t), "nbd.sock")
	g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", nbd)

	// Flags after the argument, as users type them.
	created := mustJSON[volumeJSON](g, "volume", "create", "team/pg-data", "--size", "64M")
	if created.Name != "team/pg-data" || created.SizeBytes != 64<<20 || created.BlockSize != 4096 || created.State != "active" || created.ID == 0 {
		t.Errorf("created %+v", created)
	}
	data := bytes.Repeat([]byte("curve"), 4096*2)[:4096*8]
	ctx := context.Background()
	conn := g.open("team/pg-data")
	if err := conn.Write(ctx, data, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if info := mustJSON[volumeJSON](g, "volume", "info", "team/pg-data"); info.AllocatedBytes < int64(len(data)) || info.Epoch == 0 {
		t.Errorf("after a write: %+v", info)
	}
	if du := mustJSON[volumeJSON](g, "volume", "du", "team/pg-data"); du.AllocatedBytes < int64(len(data)) || du.SizeBytes != 64<<20 {
		t.Errorf("du: %+v", du)
	}
	if o := g.cli("volume", "rm", "team/pg-data"); o.code != 4 {
		t.Errorf("rm of an open volume: exit code %d, want 4: %s", o.code, o.stderr)
	}
	if grown := mustJSON[volumeJSON](g, "volume", "resize", "team/pg-data", "128M"); grown.SizeBytes != 128<<20 {
		t.Errorf("resized: %+v", grown)
	}
	if err := conn.Write(ctx, data, 127<<20, 0); err != nil {
		t.Errorf("write into the new part of an open volume: %v", err)
	}
	if err := conn.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}

	g.removeWhenClosed("team/pg-data")
	if list := mustJSON[[]volumeJSON](g, "volume", "list"); len(list) != 0 {
		t.Errorf("after rm the list holds %+v", list)
	}
	for _, args := range [][]string{{"volume", "recycled"}, {"volume", "list", "--recycled"}} {
		if bin := mustJSON[[]volumeJSON](g, args...); len(bin) != 1 || bin[0].ID != created.ID || bin[0].State != "recycled" {
			t.Errorf("%s: %+v", strings.Join(args, " "), bin)
		}
	}
	g.stop()

	// Nothing is lost by a restart, and the bin gives back what was in it.
	g = serve(t, nil, "--data-dir", dataDir, "--nbd-listen", nbd)
	back := mustJSON[volumeJSON](g, "volume", "recover", fmt.Sprint(created.ID), "pg")
	if back.ID != created.ID || back.Name != "pg" || back.SizeBytes != 128<<20 {
		t.Errorf("recovered: %+v", back)
	}
	got := make([]byte, len(data))
	conn = g.open("pg")
	for _, off := range []uint64{1 << 20, 127 << 20} {
		if err := conn.Read(ctx, got, off, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("data at %d is not what was written (%v)", off, err)
		}
	}
	if err := conn.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	g.removeWhenClosed("pg", "--purge")
	if bin := g.must("volume", "recycled", "-o", "json"); strings.TrimSpace(bin) != "[]" {
		t.Errorf("after --purge the recycle bin holds %s", bin)
	}
}

// removeWhenClosed removes a volume whose client has just disconnected: the
// gateway may still be closing its export.
func (g *gateway) removeWhenClosed(name string, flags ...string) {
	g.t.Helper()
	g.awaitNoExports()
	g.must(append([]string{"volume", "rm", name}, flags...)...)
}

// awaitNoExports waits until no export is open.
func (g *gateway) awaitNoExports() {
	g.t.Helper()
	g.eventually("an export stays open", func() bool {
		volumes := mustJSON[[]struct {
			Owner string `json:"owner"`
		}](g, "volume", "list")
		for _, v := range volumes {
			if v.Owner != "" {
				return false
			}
		}
		return true
	})
}

func TestResultsAloneGoToStdout(t *testing.T) {
	g := serve(t, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	if out := g.must("volume", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("empty list as JSON is %q", out)
	}
	if out := g.must("volume", "list", "-o", "yaml"); out != "[]\n" {
		t.Errorf("empty list as YAML is %q", out)
	}
	g.must("volume", "create", "pg", "--size", "1M")
	o := g.cli("volume", "rm", "pg")
	if o.code != 0 || o.stdout != "" || !strings.Contains(o.stderr, "recover") {
		t.Errorf("rm: code %d, stdout %q, stderr %q", o.code, o.stdout, o.stderr)
	}
	o = g.cli("volume", "info", "none")
	if o.code != 3 || o.stdout != "" || !strings.HasPrefix(o.stderr, "curve-nbd: volume info none: ") {
		t.Errorf("info of nothing: code %d, stdout %q, stderr %q", o.code, o.stdout, o.stderr)
	}
}
