package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// SocketMode is the mode of the control socket: who may connect may do
	// everything, so that is the owner alone.
	SocketMode fs.FileMode = 0o600

	// maxSocketPath is sizeof(sockaddr_un.sun_path) without its final zero.
	maxSocketPath = 107

	// probeTimeout bounds the question whether a socket's owner still lives.
	probeTimeout = time.Second
)

// SocketPath returns PATH of an address "unix:PATH".
func SocketPath(addr string) (string, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	switch {
	case !ok:
		return "", fmt.Errorf("%w: socket address %q: write it as unix:PATH", backend.ErrInvalid, addr)
	case path == "":
		return "", fmt.Errorf("%w: socket address %q has no path: write it as unix:PATH", backend.ErrInvalid, addr)
	case len(path) > maxSocketPath:
		return "", fmt.Errorf("%w: socket path of %d bytes, the system allows %d: %s: choose a shorter one",
			backend.ErrInvalid, len(path), maxSocketPath, path)
	}
	return path, nil
}

// ListenUnix listens on a unix socket. It makes the directory (0755), replaces
// the socket that a dead process left behind, and refuses with ErrBusy one on
// which somebody still listens. The socket has the given mode from its first
// moment on; mode 0 leaves that to the umask. Closing removes the socket.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if _, err := SocketPath("unix:" + path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of socket unix:%s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{}
	if mode != 0 {
		// The mode of the unbound socket is what bind gives the file, so
		// there is no moment at which others could connect.
		config.Control = func(_, _ string, raw syscall.RawConn) error {
			var chmodErr error
			err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), uint32(mode.Perm())) })
			return errors.Join(err, chmodErr)
		}
	}
	listener, err := config.Listen(context.Background(), "unix", path)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, inUse(path)
	case err != nil:
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return listener, nil
}

// removeStale removes the socket at path if nobody listens on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket unix:%s: %w", path, err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%w: %s exists and is not a socket: remove it or choose another path", backend.ErrInvalid, path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		return errors.Join(inUse(path), conn.Close())
	}
	// Anything but a refusal (a full backlog, no permission) leaves the owner
	// possibly alive.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w (%w)", inUse(path), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket unix:%s: %w", path, err)
	}
	return nil
}

func inUse(path string) error {
	return fmt.Errorf("%w: another process listens on unix:%s: stop it or choose another path", backend.ErrBusy, path)
}
