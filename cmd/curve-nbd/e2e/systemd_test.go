package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/nbd/device"
)

// manager hears what a service manager would.
type manager struct {
	t    *testing.T
	path string

	mu    sync.Mutex
	heard []notice
}

// notice is a message of sd_notify(3), and who sent it.
type notice struct {
	pid  int
	text string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(socketDir(t), "notify")}
	on, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := on.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { on.Close() })
	go m.hear(on)
	return m
}

func (m *manager) hear(on *net.UnixConn) {
	text, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, rightsLen, _, _, err := on.ReadMsgUnix(text, rights)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(rights[:rightsLen])
		if err != nil || len(messages) != 1 {
			m.t.Errorf("a notice from nobody: %v", err)
			return
		}
		from, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil {
			m.t.Error(err)
			return
		}
		m.mu.Lock()
		m.heard = append(m.heard, notice{int(from.Pid), string(text[:n])})
		m.mu.Unlock()
	}
}

// all is what was heard so far, apart from the pings.
func (m *manager) all() (list []notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.heard {
		if n.text != "WATCHDOG=1" {
			list = append(list, n)
		}
	}
	return list
}

func (m *manager) pings(pid int) (count int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.heard {
		if n == (notice{pid, "WATCHDOG=1"}) {
			count++
		}
	}
	return count
}

func (m *manager) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("not within %v: %s; heard %v", patience, what, m.all())
		}
	}
}

func (m *manager) variables() []string {
	return []string{"NOTIFY_SOCKET=" + m.path, "WATCHDOG_USEC=200000"}
}

// reload runs a command as systemd does for ExecReload: with its log, which is a file
// that others may hold open, and with a watchdog for the process that it starts.
func (m *manager) reload(args ...string) (code int, said string) {
	m.t.Helper()
	log, err := os.Create(filepath.Join(m.t.TempDir(), "log"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stderr = append(append(cleanEnv(), m.variables()...), "WATCHDOG_PID=1"), log
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	text, err := os.ReadFile(log.Name())
	if err != nil {
		m.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

func TestSystemdIsToldOfAGatewaysLife(t *testing.T) {
	m := newManager(t)
	g := serve(t, m.variables(), "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	pid := g.cmd.Process.Pid
	m.until("it is ready", func() bool { return len(m.all()) > 0 })
	m.until("it pings again and again", func() bool { return m.pings(pid) > 3 })
	g.stop()
	m.until("it stops", func() bool { return len(m.all()) == 2 })
	if got := m.all(); got[0] != (notice{pid, "READY=1"}) || got[1] != (notice{pid, "STOPPING=1"}) {
		t.Errorf("heard %v of process %d", got, pid)
	}
}

// TestSystemdFollowsAReplacement: the service goes on, with another main process.
func TestSystemdFollowsAReplacement(t *testing.T) {
	m := newManager(t)
	data := []string{"--data-dir", t.TempDir(), "--nbd-listen", "unix:" + filepath.Join(socketDir(t), "nbd")}
	g := serve(t, m.variables(), data...)
	again := append([]string{"serve", "--control", g.control, "--replace", "--background"}, data...)

	if code, said := m.reload(append(again, "--max-connections", "0")...); code == 0 || !strings.Contains(said, "give a value above zero") {
		t.Errorf("with settings that are wrong: exit code %d: %s", code, said)
	}
	if o := g.cli("health"); o.code != 0 {
		t.Fatalf("the gateway did not outlive a successor that could not start: %s", o.stderr)
	}
	if code, said := m.reload(again...); code != 0 {
		t.Fatalf("serve --replace --background: exit code %d: %s", code, said)
	}
	if code := g.wait(); code != 0 {
		t.Errorf("the gateway that was replaced ended with exit code %d", code)
	}
	status := mustJSON[struct{ PID int }](g, "status")
	t.Cleanup(func() { syscall.Kill(status.PID, syscall.SIGKILL) }) // if it is still there
	old := g.cmd.Process.Pid
	want := fmt.Sprint([]notice{{old, "READY=1"}, {status.PID, "MAINPID=" + strconv.Itoa(status.PID)}, {status.PID, "READY=1"}})
	if got := fmt.Sprint(m.all()); status.PID == old || got != want {
		t.Errorf("heard %s, want %s", got, want)
	}
	m.until("the successor pings", func() bool { return m.pings(status.PID) > 3 })
	if err := syscall.Kill(status.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.until("it is gone", func() bool {
		_, err := os.Stat(strings.TrimPrefix(g.control, "unix:"))
		return os.IsNotExist(err)
	})
}

// TestMapAllWaitsForItsGateway: at boot the gateway may come later. Whether this machine
// can map anything is another matter.
// A gateway that refuses its successor stays the service's main process.
func TestSystemdKeepsAGatewayThatGoesOn(t *testing.T) {
	m := newManager(t)
	dir := socketDir(t)
	on, err := net.Listen("unix", filepath.Join(dir, "control.sock.replace"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { on.Close() })
	go func() {
		for {
			conn, err := on.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, len("replace 1\n")))
			device.Refuse(conn, errors.New("it has a device by ioctl"))
			conn.Close()
		}
	}()
	t.Setenv("MAINPID", "4711")
	code, said := m.reload("serve", "--replace", "--background", "--control", "unix:"+filepath.Join(dir, "control.sock"), "--data-dir", t.TempDir())
	if code == 0 || !strings.Contains(said, "by ioctl") {
		t.Errorf("exit code %d: %s", code, said)
	}
	m.until("the gateway that runs is the main process", func() bool {
		heard := m.all()
		return len(heard) > 1 && heard[len(heard)-1].text == "MAINPID=4711"
	})
}

func TestMapAllWaitsForItsGateway(t *testing.T) {
	dir := socketDir(t)
	tab, control := filepath.Join(dir, "tab"), "unix:"+filepath.Join(dir, "control.sock")
	if err := os.WriteFile(tab, []byte("+ /dev/nbd0 nothing-here defaults\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"map", "--all", "--no-start", "--tab", tab, "--control", control}
	const noGateway = "no gateway answers"
	if o := cli(t, nil, args...); o.code != 6 || !strings.Contains(o.stderr, noGateway) {
		t.Errorf("without --retry: exit code %d: %s", o.code, o.stderr)
	}
	waits := launch(t, nil, append(args, "--retry", "60s")...)
	serveAt(t, control, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	if code := waits.wait(); code == 0 || code == 6 || strings.Contains(waits.said(), noGateway) {
		t.Errorf("with --retry: exit code %d: %s", code, waits.said())
	}
}
