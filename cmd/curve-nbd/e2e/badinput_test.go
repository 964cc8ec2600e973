package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Exit codes, as documented.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitNotFound = 3
	exitBusy     = 4
	exitExists   = 5
	exitNoServer = 6
	exitDegraded = 7
)

func TestBadInputOfClientCommands(t *testing.T) {
	g := serve(t, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("volume", "create", "taken", "--size", "8M")
	for _, c := range []struct {
		name, line string
		code       int
		says       []string
	}{
		{"size zero", "volume create v --size 0", exitUsage, []string{`"0"`, "zero", "10G"}},
		{"size negative", "volume create v --size -4096", exitUsage, []string{"negative"}},
		{"size not a number", "volume create v --size big", exitUsage, []string{"big", "10G"}},
		{"size overflows", "volume create v --size 99999999P", exitUsage, []string{"limit"}},
		{"size no block multiple", "volume create v --size 1000", exitUsage, []string{"1000", "4096"}},
		{"size missing", "volume create v", exitUsage, []string{"--size"}},
		{"bench of requests too large", "bench --backend null --block-size 4M", exitUsage, []string{"4M", "1MiB"}},
		{"block size", "volume create v --size 1M --block-size 1024", exitUsage, []string{"1024", "512 or 4096"}},
		{"stripe without count", "volume create v --size 1M --stripe-unit 64K", exitUsage, []string{"stripe"}},
		{"iops zero", "volume create v --size 1M --iops 0", exitUsage, []string{"--iops"}},
		{"iops not a number", "volume create v --size 1M --iops many", exitUsage, []string{"many"}},
		{"name taken", "volume create taken --size 1M", exitExists, []string{"taken", "already exists"}},
		{"name is a directory", "volume create taken/below --size 1M", exitExists, []string{"taken"}},
		{"name with ..", "volume create a/../b --size 1M", exitUsage, []string{`".."`}},
		{"name with a space", "volume create a%20b --size 1M", exitUsage, []string{"%"}},
		{"name too long", "volume create " + strings.Repeat("n", 300) + " --size 1M", exitUsage, []string{"255"}},
		{"name missing", "volume create --size 1M", exitUsage, []string{"NAME"}},
		{"one argument too many", "volume info taken other", exitUsage, []string{`"other"`}},
		{"no such volume", "volume info none", exitNotFound, []string{"none", "not found"}},
		{"remove nothing", "volume rm none", exitNotFound, []string{"none"}},
		{"resize nothing", "volume resize none 1G", exitNotFound, []string{"none"}},
		{"recover nothing", "volume recover none", exitNotFound, []string{"none", "recycled"}},
		{"shrink", "volume resize taken 4M", exitUsage, []string{"only grows"}},
		{"unknown flag", "volume list --nonsense", exitUsage, []string{"--nonsense", "--help"}},
		{"unknown command", "volume explode", exitUsage, []string{"explode"}},
		{"no command", "", exitUsage, []string{"missing command"}},
		{"unknown output", "volume list -o xml", exitUsage, []string{"xml", "json"}},
		{"control address", "volume list --control /tmp/x", exitUsage, []string{"unix:PATH"}},
		{"nobody there", "volume list --control unix:/nonexistent/x.sock", exitNoServer, []string{"/nonexistent/x.sock", "curve-nbd serve"}},
		{"bad timeout", "volume list --control-timeout soon", exitUsage, []string{"soon"}},
		{"unknown shell", "completion tcsh", exitUsage, []string{"tcsh", "bash"}},
		{"bench backend", "bench --backend tape", exitUsage, []string{"tape", "embedded"}},
		{"bench depth", "bench --depth 0", exitUsage, []string{"--depth"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := g.cli(strings.Fields(c.line)...)
			if o.code != c.code {
				t.Errorf("exit code %d, want %d", o.code, c.code)
			}
			if o.stdout != "" {
				t.Errorf("stdout is not empty: %q", o.stdout)
			}
			if !strings.HasPrefix(o.stderr, "curve-nbd: ") || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("want one line that begins with curve-nbd: , got %q", o.stderr)
			}
			for _, part := range c.says {
				if !strings.Contains(o.stderr, part) {
					t.Errorf("stderr does not say %q: %s", part, o.stderr)
				}
			}
		})
	}
	if list := mustJSON[[]volumeJSON](g, "volume", "list"); len(list) != 1 {
		t.Errorf("bad input left volumes behind: %+v", list)
	}
}

func TestBadInputOfServe(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	dir := socketDir(t)
	unix, err := net.Listen("unix", filepath.Join(dir, "taken.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "holiday.jpg"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(foreign, "holiday.jpg")
	control := "unix:" + filepath.Join(dir, "control.sock")
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"NBD port in use", []string{"--memory", "--nbd-listen", "tcp:" + tcp.Addr().String()}, exitBusy, []string{tcp.Addr().String()}},
		{"HTTP port in use", []string{"--memory", "--nbd-listen", "tcp:127.0.0.1:0", "--http-listen", tcp.Addr().String()}, exitBusy, []string{tcp.Addr().String()}},
		{"NBD socket in use", []string{"--memory", "--nbd-listen", "unix:" + unix.Addr().String()}, exitBusy, []string{unix.Addr().String()}},
		{"control socket in use", []string{"--memory", "--control", "unix:" + unix.Addr().String()}, exitBusy, []string{unix.Addr().String()}},
		{"socket path is a file", []string{"--memory", "--nbd-listen", "unix:" + file}, exitUsage, []string{file, "not a socket"}},
		{"no such scheme", []string{"--memory", "--nbd-listen", "udp:1.2.3.4:5"}, exitUsage, []string{"udp", "unix:PATH"}},
		{"no port", []string{"--memory", "--nbd-listen", "tcp:127.0.0.1"}, exitUsage, []string{"HOST:PORT"}},
		{"foreign directory", []string{"--data-dir", foreign}, exitUsage, []string{foreign, "holiday.jpg"}},
		{"file for a directory", []string{"--data-dir", file}, exitUsage, []string{file}},
		{"unknown flag", []string{"--sata-dir", "x"}, exitUsage, []string{"--sata-dir", "data-dir"}},
		{"argument", []string{"x"}, exitUsage, []string{`"x"`}},
		{"log level", []string{"--log-level", "loud"}, exitUsage, []string{"loud", "debug"}},
		{"limit of zero", []string{"--memory", "--max-connections", "0"}, exitUsage, []string{"--max-connections"}},
		{"negative time", []string{"--memory", "--stall-timeout", "-1s"}, exitUsage, []string{"--stall-timeout"}},
		{"bytes", []string{"--memory", "--max-inflight-bytes", "none"}, exitUsage, []string{"none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := cli(t, []string{"CURVE_CONTROL=" + control, "CURVE_NBD_LISTEN=tcp:127.0.0.1:0"}, append([]string{"serve"}, c.args...)...)
			if o.code != c.code {
				t.Errorf("exit code %d, want %d", o.code, c.code)
			}
			for _, part := range append(c.says, "curve-nbd: serve") {
				// A wrong flag is found before its command runs.
				if part == "curve-nbd: serve" && c.name == "unknown flag" {
					part = "curve-nbd: "
				}
				if !strings.Contains(o.stderr, part) {
					t.Errorf("stderr does not say %q: %s", part, o.stderr)
				}
			}
			if _, err := os.Lstat(strings.TrimPrefix(control, "unix:")); err == nil {
				t.Error("a failed start left its control socket behind")
			}
		})
	}
	if entries, err := os.ReadDir(foreign); err != nil || len(entries) != 1 {
		t.Errorf("the foreign directory was touched: %v, %v", entries, err)
	}
}

func TestUnusableDataDirectoriesSayWhy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root, to mount a read-only and a small file system")
	}
	for _, c := range []struct {
		name, options, says string
	}{
		{"read-only", "size=16m", "read-only"},
		{"full", "size=16k", "space"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, c.options); err != nil {
				t.Skipf("SKIPPED: cannot mount here: %v", err)
			}
			defer func() {
				if err := syscall.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			}()
			if c.name == "read-only" {
				if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
			}
			control := "unix:" + filepath.Join(socketDir(t), "c.sock")
			o := cli(t, nil, "serve", "--data-dir", dir, "--nbd-listen", "tcp:127.0.0.1:0", "--control", control)
			if o.code != exitFailure || !strings.Contains(o.stderr, c.says) || !strings.Contains(o.stderr, dir) {
				t.Errorf("exit code %d, want %d with %q and the directory: %s", o.code, exitFailure, c.says, o.stderr)
			}
		})
	}
}
