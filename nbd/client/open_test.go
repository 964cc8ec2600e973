package client

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	gonbd "github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/pojntfx/go-nbd/pkg/server"

	"github.com/opencurve/curve-nbd/backend"
)

func newTestReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]Target{
		"nbd://host/vol":                         {"tcp", "host:10809", "vol"},
		"nbd://host":                             {"tcp", "host:10809", ""},
		"nbd://host/":                            {"tcp", "host:10809", ""},
		"nbd://host:1234/dir/vol":                {"tcp", "host:1234", "dir/vol"},
		"nbd://[::1]:1234/a%20b":                 {"tcp", "[::1]:1234", "a b"},
		"nbd://[::1]/vol":                        {"tcp", "[::1]:10809", "vol"},
		"nbd+unix:///vol?socket=/run/nbd.sock":   {"unix", "/run/nbd.sock", "vol"},
		"nbd+unix:///?socket=/run/nbd.sock":      {"unix", "/run/nbd.sock", ""},
		"nbd+unix:///a/b?socket=relative%2fsock": {"unix", "relative/sock", "a/b"},
	} {
		if got, err := ParseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	for uri, want := range map[string]error{
		"":                             backend.ErrInvalid,
		"vol":                          backend.ErrInvalid,
		"http://host/vol":              backend.ErrInvalid,
		"nbd:///vol":                   backend.ErrInvalid,
		"nbd://host:port/vol":          backend.ErrInvalid,
		"nbd+unix:///vol":              backend.ErrInvalid,
		"nbd+unix://host/vol?socket=x": backend.ErrInvalid,
		"nbds://host/vol":              backend.ErrNotSupported,
	} {
		if _, err := ParseURI(uri); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", uri, err, want)
		}
	}
}

// foreign starts nbdkit, somebody else's reading of the protocol.
func foreign(t *testing.T, args ...string) Target {
	t.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		if os.Getenv("CURVE_REQUIRE_TOOLS") == "1" {
			t.Fatal("nbdkit is not installed and CURVE_REQUIRE_TOOLS=1")
		}
		t.Skip("SKIPPED, NOT TESTED: nbdkit is not installed")
	}
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "sock")
	cmd := exec.Command("nbdkit", append([]string{"--foreground", "--exit-with-parent", "-U", socket}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it has temporary files to remove
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return Target{"unix", socket, ""}
		}
		if time.Now().After(deadline) {
			t.Fatal("nbdkit does not listen")
		}
	}
}

func TestOpenWorksWithAForeignServer(t *testing.T) {
	for name, args := range map[string][]string{
		"as it comes":           {"memory", "64M"},
		"no structured replies": {"--no-sr", "memory", "64M"},
		"many small extents":    {"data", "(0x31*512 0*512)*1000 @0x3ffffff 0"},
		"old handshake":         {"--mask-handshake=0", "memory", "64M"},
	} {
		t.Run(name, func(t *testing.T) {
			target := foreign(t, args...)
			c, err := Open(t.Context(), target, Options{})
			if name == "old handshake" {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("got %v, want %v", err, ErrProtocol)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if size := c.Export().Size; size != 64<<20 {
				t.Fatalf("size %d", size)
			}
			want := bytes.Repeat([]byte("curve"), 1<<20)
			if err := c.Write(t.Context(), want, 1<<20, 0); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if err := c.Read(t.Context(), got, 1<<20, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read back: %v, equal: %t", err, bytes.Equal(got, want))
			}
			if c.Style() == SimpleReplies {
				if _, err := c.BlockStatus(t.Context(), 0, 1<<20, 0); err == nil {
					t.Error("block status without a context")
				}
			} else if extents, err := c.BlockStatus(t.Context(), 0, 1<<20, 0); err != nil || len(extents) == 0 {
				t.Errorf("block status: %v, %v", extents, err)
			}
			if err := c.Read(t.Context(), got, 64<<20, 0); !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("read past the end: %v, want %v", err, backend.ErrInvalid)
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			if err := c.Disconnect(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenSaysWhichExportIsMissing(t *testing.T) {
	target := foreign(t, "eval", "open=case \"$3\" in good) ;; *) echo ENOENT >&2; exit 1;; esac", "get_size=echo 1M", "pread=dd if=/dev/zero count=$3 iflag=count_bytes")
	target.Export = "nosuch"
	_, err := Open(t.Context(), target, Options{})
	if !errors.Is(err, backend.ErrNotFound) {
		t.Fatalf("got %v, want %v", err, backend.ErrNotFound)
	}
}

// go-nbd's server knows GO and little else; it has no flush and answers nothing
// it cannot do. We must get along with what it has.
func TestOpenWorksWithGoNBD(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() {
		exports := []*server.Export{{Name: "vol", Backend: gonbd.NewFileBackend(file)}}
		served <- server.Handle(theirs, exports, &server.Options{MaximumBlockSize: 1 << 20, SupportsMultiConn: true})
		theirs.Close()
	}()
	h, err := Greet(t.Context(), ours, uint32(FixedNewstyle))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Info(t.Context(), "vol", InfoBlockSize); err != nil {
		t.Fatal(err)
	}
	w, err := negotiate(t.Context(), h, "vol", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w.Style != SimpleReplies || w.Export.Size != 1<<20 {
		t.Fatalf("%+v with %v replies", w.Export, w.Style)
	}
	c := w.Conn(4)
	want := bytes.Repeat([]byte("curve..."), 8192)
	if err := c.Write(t.Context(), want, 4096, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := c.Read(t.Context(), got, 4096, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read back: %v, equal: %t", err, bytes.Equal(got, want))
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}
