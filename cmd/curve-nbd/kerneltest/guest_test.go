package kerneltest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds what should take a moment, on a guest of one slow processor.
const patience = 60 * time.Second

// gateway is a `curve-nbd serve` in the guest that is killed and started again.
type gateway struct {
	t       *testing.T
	dir     string
	control string
	logPath string
	backend []string // serve's flags for it
	front   []string // and for what clients connect to besides
	under   []string // the command that it runs under, if any
	cmd     *exec.Cmd
	exited  chan struct{}
}

// startGateway starts one on a data directory, or on the backend that flags name.
func startGateway(t *testing.T, backend ...string) *gateway {
	t.Helper()
	g := newGateway(t, backend...)
	g.start()
	return g
}

// newGateway is one that is not started yet.
func newGateway(t *testing.T, backend ...string) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: dir, control: "unix:" + filepath.Join(dir, "control.sock"), logPath: filepath.Join(dir, "log")}
	if g.backend = backend; len(backend) == 0 {
		g.backend = []string{"--data-dir", filepath.Join(dir, "data")}
	}
	t.Cleanup(func() {
		if g.cmd == nil {
			return
		}
		for _, d := range g.mapped() {
			g.run("unmap", "--force", d.Device)
		}
		g.stop(syscall.SIGTERM)
		if t.Failed() {
			log, _ := os.ReadFile(g.logPath)
			kernel, _ := exec.Command("sh", "-c", "dmesg | tail -30").Output()
			t.Logf("gateway's log:\n%s\nkernel's log:\n%s", log, kernel)
		}
		os.RemoveAll(dir)
	})
	return g
}

// state is the file that the gateway writes its devices down in.
func (g *gateway) state() string { return strings.TrimPrefix(g.control, "unix:") + ".devices" }

// replace starts another gateway in the place of this one.
func (g *gateway) replace() {
	g.t.Helper()
	old, cmd := g.exited, g.cmd
	g.start("--replace")
	select {
	case <-old:
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			g.t.Errorf("the gateway that was replaced ended with exit code %d", code)
		}
	case <-time.After(patience):
		g.t.Fatal("the gateway that was replaced still runs")
	}
}

// start starts the gateway and waits until it serves.
func (g *gateway) start(flags ...string) {
	g.t.Helper()
	log, err := os.OpenFile(g.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	command := append(slices.Clone(g.under), os.Getenv("CURVE_NBD"), "serve", "--control", g.control,
		"--nbd-listen", "unix:"+filepath.Join(g.dir, "nbd.sock"))
	command = append(append(append(command, g.backend...), g.front...), flags...)
	g.cmd = exec.Command(command[0], command[1:]...)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan struct{})
	g.exited = exited
	go func() { defer close(exited); g.cmd.Wait() }()
	// The one that is replaced answers too.
	serves := fmt.Sprintf(`"pid": %d,`, g.cmd.Process.Pid)
	g.until("the gateway serves", func() bool {
		return strings.Contains(g.run("status", "-o", "json").out, serves) && g.run("health").code == 0
	})
}

// stop sends a signal and waits for the end of the gateway.
func (g *gateway) stop(sig syscall.Signal) {
	g.t.Helper()
	g.cmd.Process.Signal(sig)
	select {
	case <-g.exited:
	case <-time.After(patience):
		g.t.Fatalf("the gateway still runs %v after %v", patience, sig)
	}
}

func (g *gateway) until(what string, ok func() bool) {
	g.t.Helper()
	until(g.t, what, ok)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// outcome is how a command ended.
type outcome struct {
	code        int
	out, errors string
}

// run runs a command of curve-nbd against the gateway.
func (g *gateway) run(args ...string) outcome {
	g.t.Helper()
	return execute(g.t, []string{"CURVE_CONTROL=" + g.control}, os.Getenv("CURVE_NBD"), args...)
}

// ok runs one that must succeed, and returns its output.
func (g *gateway) ok(args ...string) string {
	g.t.Helper()
	o := g.run(args...)
	if o.code != 0 {
		g.t.Fatalf("curve-nbd %s: exit code %d: %s", strings.Join(args, " "), o.code, o.errors)
	}
	return strings.TrimSpace(o.out)
}

// refused runs one that must fail with a code, and say something.
func (g *gateway) refused(code int, says string, args ...string) {
	g.t.Helper()
	if o := g.run(args...); o.code != code || !strings.Contains(o.errors, says) || o.out != "" {
		g.t.Errorf("curve-nbd %s: exit code %d, stdout %q, stderr %q; want %d, nothing, and %q", strings.Join(args, " "), o.code, o.out, o.errors, code, says)
	}
}

type mappedDevice struct {
	Device, Volume, State, Problem string
	Size                           int64  `json:"size_bytes"`
	AttachedBy                     string `json:"attached_by"`
	PID                            int
}

func (g *gateway) mapped() (list []mappedDevice) {
	g.t.Helper()
	o := g.run("list-mapped", "-o", "json")
	if o.code != 0 {
		return nil
	}
	if err := json.Unmarshal([]byte(o.out), &list); err != nil {
		g.t.Fatal(err)
	}
	return list
}

// device makes a volume and maps it.
func (g *gateway) device(volume, size string, flags ...string) string {
	g.t.Helper()
	g.ok("volume", "create", volume, "--size", size)
	return g.ok(append([]string{"map", volume}, flags...)...)
}

func execute(t *testing.T, env []string, program string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("%s %s did not end", program, strings.Join(args, " "))
	case err != nil && !errors.As(err, &exit):
		t.Fatal(err)
	}
	return outcome{code: cmd.ProcessState.ExitCode(), out: out.String(), errors: errs.String()}
}

// must runs any command, which must succeed, and returns what it says.
func must(t *testing.T, program string, args ...string) string {
	t.Helper()
	o := execute(t, nil, program, args...)
	if o.code != 0 {
		t.Fatalf("%s %s: exit code %d: %s%s", program, strings.Join(args, " "), o.code, o.out, o.errors)
	}
	return o.out
}

// mount makes a file system and mounts it until the test ends.
func mount(t *testing.T, kind, dev string) string {
	t.Helper()
	must(t, "mkfs."+kind, "-q", dev)
	dir, err := os.MkdirTemp("/tmp", "mnt")
	if err != nil {
		t.Fatal(err)
	}
	must(t, "mount", dev, dir)
	t.Cleanup(func() {
		exec.Command("umount", dir).Run() // most tests have done it
		os.Remove(dir)
	})
	return dir
}

// load is a fio that writes and verifies until it has had its time.
type load struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func startLoad(t *testing.T, dir string, runtime time.Duration) *load {
	t.Helper()
	l := &load{t: t, done: make(chan error, 1)}
	l.cmd = exec.Command("fio", "--name=load", "--directory="+dir, "--size=24M", "--rw=randwrite", "--bsrange=4k-64k", "--ioengine=io_uring",
		"--iodepth=8", "--direct=1", "--verify=crc32c", "--verify_backlog=64", "--do_verify=1", "--time_based",
		fmt.Sprintf("--runtime=%d", int(runtime.Seconds())), "--output-format=json")
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.out
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- l.cmd.Wait() }()
	return l
}

// working waits until the load has written to the device for a while.
func (l *load) working(dev string) {
	l.t.Helper()
	written := func() int64 {
		stat, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/stat")
		if err != nil {
			l.t.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(stat))[4], 10, 64) // writes done
		if err != nil {
			l.t.Fatal(err)
		}
		return n
	}
	begun := written()
	until(l.t, "the load writes", func() bool { return written() >= begun+100 || len(l.done) > 0 })
}

// end waits for its end, and returns the longest time that a write took.
func (l *load) end() time.Duration {
	l.t.Helper()
	select {
	case err := <-l.done:
		if err != nil {
			l.t.Fatalf("load: %v\n%s", err, l.out.String())
		}
	case <-time.After(3 * patience):
		l.cmd.Process.Kill()
		l.t.Fatalf("the load does not end")
	}
	var report struct {
		Jobs []struct {
			Write struct {
				TotalIOs int64 `json:"total_ios"`
				Lat      struct {
					Max int64 `json:"max"`
				} `json:"lat_ns"`
			} `json:"write"`
			Errors int `json:"total_err"`
		} `json:"jobs"`
	}
	text := l.out.Bytes()
	if i := bytes.IndexByte(text, '{'); i > 0 {
		text = text[i:]
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report.Jobs) != 1 {
		l.t.Fatalf("fio's report: %v\n%s", err, l.out.String())
	}
	w := report.Jobs[0].Write
	if report.Jobs[0].Errors != 0 || w.TotalIOs == 0 {
		l.t.Errorf("load: %d errors in %d writes", report.Jobs[0].Errors, w.TotalIOs)
	}
	l.t.Logf("%d writes, the slowest %v", w.TotalIOs, time.Duration(w.Lat.Max))
	return time.Duration(w.Lat.Max)
}

// wantSound checks that a file system that was mounted all along is still writable,
// and clean once it is not mounted any more.
func wantSound(t *testing.T, dir, dev string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "still-writable"), []byte("yes"), 0o600); err != nil {
		t.Error(err)
	}
	must(t, "umount", dir)
	if o := execute(t, nil, "e2fsck", "-fn", dev); o.code != 0 {
		t.Errorf("e2fsck: exit code %d\n%s%s", o.code, o.out, o.errors)
	}
}

// wantNobodyHangs checks that no process waits for a device and cannot be killed.
func wantNobodyHangs(t *testing.T) {
	t.Helper()
	until(t, "no process hangs in the kernel", func() bool { return len(hanging(t)) == 0 })
}

// hanging are the threads that wait in the kernel and cannot be killed.
func hanging(t *testing.T) (list []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		// The state comes after the name, which may hold anything.
		if _, rest, ok := bytes.Cut(text, []byte(") ")); err == nil && ok && rest[0] == 'D' {
			list = append(list, stat)
		}
	}
	return list
}
