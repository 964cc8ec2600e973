package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/nbd/client"
)

// eventually asks again until cond holds.
func (g *gateway) eventually(complaint string, cond func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			g.t.Fatal(complaint)
		}
	}
}

func TestSecondGatewayIsToldWhoHoldsTheData(t *testing.T) {
	dataDir := t.TempDir()
	g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	o := cli(t, nil, "serve", "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0",
		"--control", "unix:"+filepath.Join(socketDir(t), "c.sock"))
	if o.code != exitBusy || !strings.Contains(o.stderr, fmt.Sprintf("pid %d", g.cmd.Process.Pid)) || !strings.Contains(o.stderr, dataDir) {
		t.Errorf("exit code %d, want %d with the directory and the pid %d: %s", o.code, exitBusy, g.cmd.Process.Pid, o.stderr)
	}
	g.must("volume", "create", "unharmed", "--size", "1M")
}

func TestTermStopsWithZeroAndRemovesTheSockets(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			socket := filepath.Join(socketDir(t), "sub", "nbd.sock")
			g := serve(t, nil, "--memory", "--nbd-listen", "unix:"+socket)
			g.must("volume", "create", "pg", "--size", "1M")
			conn := g.open("pg") // an idle client does not keep it
			if err := conn.Write(context.Background(), make([]byte, 4096), 0, 0); err != nil {
				t.Fatal(err)
			}
			g.signal(s)
			if code := g.wait(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			for _, path := range []string{socket, strings.TrimPrefix(g.control, "unix:")} {
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("socket %s is still there (%v)", path, err)
				}
			}
		})
	}
}

// throttledGateway serves a volume on which one of two requests has to wait
// for a minute or so, and has both in flight.
func throttledGateway(t *testing.T, args ...string) *gateway {
	t.Helper()
	g := serve(t, nil, append([]string{"--memory", "--nbd-listen", "tcp:127.0.0.1:0"}, args...)...)
	g.must("volume", "create", "slow", "--size", "16M", "--bps", "8K", "--bps-burst", "8K")
	conn := g.open("slow")
	for range 2 {
		r := &client.Request{Command: client.CmdWrite, Length: 1 << 19, Data: make([]byte, 1<<19)}
		if err := conn.Start(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	g.awaitQueued()
	return g
}

// awaitQueued waits until a request waits in the gateway's queues.
func (g *gateway) awaitQueued() {
	g.t.Helper()
	g.eventually("no request is in flight", func() bool {
		status := mustJSON[struct {
			Exports []struct {
				Queued int `json:"queued"`
			} `json:"exports"`
		}](g, "status")
		return len(status.Exports) == 1 && status.Exports[0].Queued > 0
	})
}

func TestSecondSignalExitsAtOnceWithOne(t *testing.T) {
	g := throttledGateway(t)
	g.signal(syscall.SIGTERM)
	g.awaitLog("stopping")
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
}

func TestHealthIsDegradedWhileItStalls(t *testing.T) {
	g := throttledGateway(t)
	g.eventually("a stall is not reported", func() bool {
		o := g.cli("health", "--stall-after", "10ms")
		return o.code == 7 && strings.Contains(o.stdout, "degraded") && strings.Contains(o.stderr, "slow")
	})
	if o := g.cli("health", "--stall-after", "1h"); o.code != 0 || !strings.Contains(o.stdout, "healthy") {
		t.Errorf("with an hour's patience: exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
}

func TestHealthDuringTheDrainIsDegraded(t *testing.T) {
	g := throttledGateway(t)
	g.signal(syscall.SIGTERM)
	g.awaitLog("stopping")
	g.eventually("a drain is not reported", func() bool { return g.cli("health").code == 7 })
}

func TestKilledGatewayStartsAgainOnTheSameSockets(t *testing.T) {
	dataDir, dir := t.TempDir(), socketDir(t)
	control := "unix:" + filepath.Join(dir, "control.sock")
	nbd := "unix:" + filepath.Join(dir, "nbd.sock")
	g := serveAt(t, control, nil, "--data-dir", dataDir, "--nbd-listen", nbd)
	g.must("volume", "create", "pg", "--size", "1M")
	conn := g.open("pg")
	if err := conn.Write(context.Background(), make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGKILL)
	g.wait()
	if o := g.cli("status"); o.code != exitNoServer {
		t.Errorf("status of a dead gateway: exit code %d, want %d", o.code, exitNoServer)
	}
	g = serveAt(t, control, nil, "--data-dir", dataDir, "--nbd-listen", nbd)
	g.open("pg") // its old lease is gone
	g.must("volume", "info", "pg")
}

func TestHTTPShowsMetricsAndReadiness(t *testing.T) {
	g := serve(t, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	g.must("volume", "create", "pg", "--size", "1M")
	conn := g.open("pg")
	if err := conn.Read(context.Background(), make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, says string }{
		{"/healthz", "ok"},
		{"/readyz", "ready"},
		{"/metrics", "curve_volume_connections{volume=\"pg\"} 1"},
		{"/metrics", "go_goroutines"},
		{"/debug/pprof/", "goroutine"},
	} {
		t.Run(c.path, func(t *testing.T) {
			answer, err := http.Get("http://" + g.address("http") + c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), c.says) {
				t.Errorf("status %s, %v; want 200 and %q", answer.Status, err, c.says)
			}
		})
	}
}

func TestReadOnlyGatewayRefusesWrites(t *testing.T) {
	g := serve(t, nil, "--memory", "--read-only", "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("volume", "create", "pg", "--size", "1M")
	if err := g.open("pg").Write(context.Background(), make([]byte, 4096), 0, 0); err == nil {
		t.Error("a write succeeded")
	}
}

func TestFlagsBeatEnvironmentBeatsFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "curve-nbd.yaml")
	fromFile, fromEnv, fromFlag := filepath.Join(dir, "file"), filepath.Join(dir, "env"), filepath.Join(dir, "flag")
	text := fmt.Sprintf("data_dir: %s\nnbd_listen: [\"tcp:127.0.0.1:0\"]\nlog_format: json\n", fromFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		variables []string
		args      []string
		want      string
	}{
		{"file", []string{"CURVE_CONFIG=" + file}, nil, fromFile},
		{"environment over file", []string{"CURVE_DATA_DIR=" + fromEnv}, []string{"--config", file}, fromEnv},
		{"flag over both", []string{"CURVE_CONFIG=" + file, "CURVE_DATA_DIR=" + fromEnv}, []string{"--data-dir", fromFlag}, fromFlag},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := serve(t, c.variables, c.args...)
			status := mustJSON[struct {
				DataDir string `json:"data_dir"`
			}](g, "status")
			if status.DataDir != c.want {
				t.Errorf("serves %s, want %s", status.DataDir, c.want)
			}
			g.stop()
			if !strings.Contains(g.said(), `"msg":"stopping"`) {
				t.Errorf("log_format of the file was lost:\n%s", g.said())
			}
		})
	}
	o := cli(t, []string{"CURVE_OUTPUT=yaml"}, "version")
	if o.code != 0 || !strings.Contains(o.stdout, "version: ") {
		t.Errorf("CURVE_OUTPUT=yaml: %+v", o)
	}
	if o := cli(t, []string{"CURVE_OUTPUT=yaml"}, "version", "-o", "json"); !strings.HasPrefix(o.stdout, "{") {
		t.Errorf("-o json over CURVE_OUTPUT=yaml: %+v", o)
	}
}

func TestBenchMeasuresEveryRow(t *testing.T) {
	type row struct {
		Backend string  `json:"backend"`
		IOPS    float64 `json:"iops"`
		P50     int64   `json:"latency_p50_ns"`
		Max     int64   `json:"latency_max_ns"`
		CPU     float64 `json:"cpu_ns_per_io"`
	}
	g := &gateway{t: t}
	rows := mustJSON[[]row](g, "bench", "--time", "20ms", "--size", "8M", "--block-size", "4k,64k", "--depth", "1,8", "--dir", t.TempDir())
	if len(rows) != 3*2*2*2 {
		t.Errorf("%d rows, want 24", len(rows))
	}
	for _, r := range rows {
		if r.IOPS <= 0 || r.P50 <= 0 || r.Max < r.P50 || r.CPU <= 0 {
			t.Errorf("row %+v", r)
		}
	}
}
