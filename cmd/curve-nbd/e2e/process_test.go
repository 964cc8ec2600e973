package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
)

// program is the binary, built once.
var program string

// patience is how long anything here may take before the test gives up; it is
// long because the machine may be busy, and nothing waits for it to pass.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "curve-nbd-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "curve-nbd")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build curve-nbd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// outcome is what a finished command left.
type outcome struct {
	stdout, stderr string
	code           int
}

// cli runs one command to its end. Variables are "NAME=value"; the test's own
// CURVE_* variables are not passed on.
func cli(t *testing.T, variables []string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(cleanEnv(), variables...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("curve-nbd %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return outcome{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CURVE_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			env = append(env, v)
		}
	}
	// No machine's own configuration file.
	return append(env, "CURVE_CONFIG="+os.DevNull)
}

// gateway is a running `curve-nbd serve`, or another role that launch started.
type gateway struct {
	t       *testing.T
	cmd     *exec.Cmd
	control string // unix:PATH, of a gateway
	// addresses by what listens there: "control", "nbd", "http".
	addresses map[string][]string

	mu    sync.Mutex // guards log and watchers
	log   strings.Builder
	watch map[string]chan struct{}

	exited chan struct{} // closed once waitErr is set
}

// serve starts a gateway with a control socket of its own and waits until it
// listens. It is killed at the end of the test if it still runs.
func serve(t *testing.T, variables []string, args ...string) *gateway {
	t.Helper()
	return serveAt(t, "unix:"+filepath.Join(socketDir(t), "control.sock"), variables, args...)
}

func serveAt(t *testing.T, control string, variables []string, args ...string) *gateway {
	t.Helper()
	g := launch(t, variables, append([]string{"serve", "--control", control}, args...)...)
	g.control = control
	g.waitReady()
	return g
}

// launch starts a server of any role and does not wait for it.
func launch(t *testing.T, variables []string, args ...string) *gateway {
	t.Helper()
	g := &gateway{
		t: t, addresses: map[string][]string{},
		watch: map[string]chan struct{}{}, exited: make(chan struct{}),
	}
	g.cmd = exec.Command(program, args...)
	g.cmd.Env = append(cleanEnv(), variables...)
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.exited)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			g.line(lines.Text())
		}
		_ = g.cmd.Wait() // the code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.exited
		if t.Failed() {
			t.Logf("%s said:\n%s", args[0], g.said())
		}
	})
	return g
}

// socketDir is a directory whose name leaves room for a socket's.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (g *gateway) line(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.log.WriteString(text + "\n")
	if words := strings.Fields(text); len(words) == 3 && words[0] == "listening" {
		g.addresses[words[1]] = append(g.addresses[words[1]], words[2])
	}
	for part, seen := range g.watch {
		if strings.Contains(text, part) {
			close(seen)
			delete(g.watch, part)
		}
	}
}

func (g *gateway) said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// awaitLog waits until a line of the log contains part.
func (g *gateway) awaitLog(part string) {
	g.t.Helper()
	seen := make(chan struct{})
	g.mu.Lock()
	if strings.Contains(g.log.String(), part) {
		close(seen)
	} else {
		g.watch[part] = seen
	}
	g.mu.Unlock()
	select {
	case <-seen:
	case <-g.exited:
		g.t.Fatalf("it exited without saying %q:\n%s", part, g.said())
	case <-time.After(patience):
		g.t.Fatalf("it does not say %q:\n%s", part, g.said())
	}
}

// address returns where the gateway serves kind, the first of them.
func (g *gateway) address(kind string) string {
	g.t.Helper()
	g.awaitLog("listening " + kind + " ")
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addresses[kind][0]
}

// waitReady waits until the gateway is healthy, which is after it announced
// its listeners.
func (g *gateway) waitReady() {
	g.t.Helper()
	g.awaitLog("listening nbd")
	for deadline := time.Now().Add(patience); ; {
		if o := cli(g.t, nil, "health", "--control", g.control); o.code == 0 {
			return
		} else if time.Now().After(deadline) {
			g.t.Fatalf("gateway does not become healthy: %s", o.stderr)
		}
	}
}

// cli runs a command against this gateway.
func (g *gateway) cli(args ...string) outcome {
	g.t.Helper()
	return cli(g.t, []string{"CURVE_CONTROL=" + g.control}, args...)
}

// must is cli for a command that has to succeed; it returns stdout.
func (g *gateway) must(args ...string) string {
	g.t.Helper()
	o := g.cli(args...)
	if o.code != 0 {
		g.t.Fatalf("curve-nbd %s: exit code %d: %s", strings.Join(args, " "), o.code, o.stderr)
	}
	return o.stdout
}

// mustJSON is must with -o json, decoded.
func mustJSON[T any](g *gateway, args ...string) T {
	g.t.Helper()
	var v T
	out := g.must(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		g.t.Fatalf("curve-nbd %s: %v in %s", strings.Join(args, " "), err, out)
	}
	return v
}

func (g *gateway) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// standStill stops the process, and returns when none of its threads runs any more: the
// signal alone stops them a little later.
func (g *gateway) standStill() {
	g.t.Helper()
	g.signal(syscall.SIGSTOP)
	running := func(p procfs.Proc) bool {
		stat, err := p.Stat()
		return err == nil && stat.State != "T"
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		threads, err := procfs.AllThreads(g.cmd.Process.Pid)
		if err != nil {
			g.t.Fatal(err)
		}
		if !slices.ContainsFunc(threads, running) {
			return
		}
	}
	g.t.Fatal("the gateway does not stop")
}

// wait returns the exit code, -1 when a signal ended the process.
func (g *gateway) wait() int {
	g.t.Helper()
	select {
	case <-g.exited:
		return g.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		g.t.Fatalf("gateway does not exit:\n%s", g.said())
		return -1
	}
}

// stop ends the gateway in good order.
func (g *gateway) stop() {
	g.t.Helper()
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != 0 {
		g.t.Fatalf("exit code %d after SIGTERM, want 0:\n%s", code, g.said())
	}
}
