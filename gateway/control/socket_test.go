package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func TestSocketIsPrivateInADirectoryOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "control.sock")
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != SocketMode {
		t.Errorf("mode %v, want %v", info.Mode().Perm(), SocketMode)
	}
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as after kill -9
	dead.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("the stale socket is not there: %v", err)
	}
	listener, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("closing left the socket behind: %v", err)
	}
}

func TestLiveSocketIsRefusedAndLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	live, err := ListenUnix(path, SocketMode)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if _, err := ListenUnix(path, SocketMode); !errors.Is(err, backend.ErrBusy) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want ErrBusy that names %s", err, path)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the live socket was harmed: %v", err)
	}
	conn.Close()
}

func TestFileThatIsNoSocketIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(path, SocketMode); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "data" {
		t.Errorf("the file is now %q, %v", text, err)
	}
}

func TestSocketAddresses(t *testing.T) {
	for _, c := range []struct {
		name, addr, path string
		says             string
	}{
		{"absolute", "unix:/run/x.sock", "/run/x.sock", ""},
		{"relative", "unix:x.sock", "x.sock", ""},
		{"tcp", "tcp:127.0.0.1:1", "", "unix:PATH"},
		{"bare path", "/run/x.sock", "", "unix:PATH"},
		{"no path", "unix:", "", "no path"},
		{"empty", "", "", "unix:PATH"},
		{"longest", "unix:" + strings.Repeat("a", maxSocketPath), strings.Repeat("a", maxSocketPath), ""},
		{"too long", "unix:" + strings.Repeat("a", maxSocketPath+1), "", "shorter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, err := SocketPath(c.addr)
			if c.says == "" {
				if err != nil || path != c.path {
					t.Errorf("got %q, %v; want %q", path, err, c.path)
				}
				return
			}
			if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want ErrInvalid that says %q", err, c.says)
			}
		})
	}
}
