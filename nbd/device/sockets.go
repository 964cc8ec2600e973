package device

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
)

// sockets are connections on their way to the kernel: its ends of the pairs. The
// server has the others and serves them already.
type sockets struct{ ends []*os.File }

// close gives this process's references of the kernel's ends back. Where the kernel
// took none, the server sees the connection end.
func (s *sockets) close() {
	for _, f := range s.ends {
		_ = f.Close()
	}
	s.ends = nil
}

// link makes n connections and has them served; ended is told of the end of each.
func (m *mapping) link(ctx context.Context, n int) (*sockets, error) {
	s := &sockets{}
	for range n {
		handle, err := m.manager.gateway.Open(ctx, m.record.Volume)
		if err != nil {
			s.close()
			return nil, err
		}
		end, err := m.serve(handle)
		if err != nil {
			s.close()
			return nil, err
		}
		s.ends = append(s.ends, end)
	}
	return s, nil
}

// serve has the server serve one connection, and returns the other end of it.
func (m *mapping) serve(handle *gateway.Handle) (*os.File, error) {
	ours, theirs, err := pair()
	if err != nil {
		handle.Release()
		return nil, err
	}
	if err := m.attach(ours, handle); err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	return theirs, nil
}

// attach has the server serve a connection.
func (m *mapping) attach(ours net.Conn, handle *gateway.Handle) error {
	a, err := m.manager.server.Attach(ours, handle, &m.siblings)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.links = append(m.links, a)
	m.mu.Unlock()
	m.live.Add(1)
	go func() {
		<-a.Ended()
		m.mu.Lock()
		m.links = slices.DeleteFunc(m.links, func(x *nbd.Attachment) bool { return x == a })
		m.mu.Unlock()
		m.live.Add(-1)
		m.poke()
	}()
	return nil
}

// adopt goes on serving sockets that another gateway has served.
func (m *mapping) adopt(ctx context.Context) error {
	for len(m.handed) > 0 {
		handle, err := m.manager.gateway.Open(ctx, m.record.Volume)
		if err != nil {
			return err
		}
		f := m.handed[0]
		m.handed = m.handed[1:]
		conn, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			handle.Release()
			return err
		}
		if err := m.attach(conn, handle); err != nil {
			return err
		}
	}
	return nil
}

// pair makes a connected pair of stream sockets.
func pair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "nbd")
	theirs = os.NewFile(uintptr(fds[1]), "nbd kernel end")
	defer mine.Close() // FileConn duplicates it
	if ours, err = net.FileConn(mine); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}
