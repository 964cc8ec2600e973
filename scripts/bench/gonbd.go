package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/docker/go-units"
	"github.com/pojntfx/go-nbd/pkg/backend"
	gonbd "github.com/pojntfx/go-nbd/pkg/server"
)

// serveGoNBD is the peer "go-nbd": its server package on a unix socket, with
// its own file backend, or with memory. Its memory backend deadlocks on a
// request out of range and serialises everything, so memory is a plain slice
// here, which is its best case.
func serveGoNBD(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("go-nbd: want SOCKET memory SIZE or SOCKET file PATH")
	}
	var b backend.Backend
	switch args[1] {
	case "memory":
		size, err := units.RAMInBytes(args[2])
		if err != nil {
			return err
		}
		b = sliceBackend(make([]byte, size))
	case "file":
		f, err := os.OpenFile(args[2], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		b = backend.NewFileBackend(f)
	}
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = gonbd.Handle(conn, []*gonbd.Export{{Name: "", Backend: b}}, &gonbd.Options{SupportsMultiConn: true})
		}()
	}
}

type sliceBackend []byte

func (s sliceBackend) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(s)) {
		return 0, io.EOF
	}
	return copy(p, s[off:]), nil
}

func (s sliceBackend) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(s)) {
		return 0, io.ErrShortWrite
	}
	return copy(s[off:], p), nil
}

func (s sliceBackend) Size() (int64, error) { return int64(len(s)), nil }
func (s sliceBackend) Sync() error          { return nil }
