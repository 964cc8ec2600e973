package nbd

import (
	"context"
	"io"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/gateway/stream"
)

// Siblings are the connections of one client that sends a request again over one of
// them when another has failed it, as the kernel does. What came over a connection
// that the client has given up must then be over before a sibling serves anything
// newer: an old write would undo its successor.
//
// The client gives a connection up before it sends again. So whoever finds no
// sibling hung up, after it has read a request, has none with an older copy.
type Siblings struct {
	mu    sync.Mutex // guards all below
	conns []*conn
	// hungUp polls all connections at once; nil while there are not several.
	hungUp *hangUps
}

func (s *Siblings) join(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	if s.hungUp != nil {
		s.hungUp.add(c)
	} else if len(s.conns) > 1 {
		s.hungUp = newHangUps(s.conns)
	}
}

// leave is called once nothing of c is under way any more.
func (s *Siblings) leave(c *conn) {
	s.mu.Lock()
	s.conns = slices.DeleteFunc(s.conns, func(x *conn) bool { return x == c })
	if s.hungUp != nil {
		s.hungUp.remove(c)
		if len(s.conns) == 0 {
			s.hungUp.close()
			s.hungUp = nil
		}
	}
	s.mu.Unlock()
	close(c.left)
}

// givenUp says whether the client has given c up, and returns another connection
// that it has, nil for none. In that order: two that are given up must not wait for
// each other.
func (s *Siblings) givenUp(c *conn) (self bool, other *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// There is nowhere to send again what came over an only connection; whoever
	// joins later waits for it.
	if len(s.conns) == 1 || s.hungUp.none() && !slices.ContainsFunc(s.conns, (*conn).wasCut) {
		return false, nil
	}
	if c.hung.up(c.in.Raw()) {
		return true, nil
	}
	for _, x := range s.conns {
		if x != c && x.hung.up(x.in.Raw()) {
			return false, x
		}
	}
	return false, nil
}

// fence holds c until what was read from it may be served; an error when it may not
// be at all, since the client sends it again elsewhere.
func (c *conn) fence() error {
	if c.siblings == nil {
		return nil
	}
	for {
		self, other := c.siblings.givenUp(c)
		if self {
			return io.EOF
		}
		if other == nil {
			return nil
		}
		select {
		case <-other.left:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// hangUp asks whether a connection was shut down by its client. Siblings.mu guards
// it.
type hangUp struct {
	ask func(fd uintptr) // made once, so that asking does not allocate
	yes bool
}

// up says that it was, or that it is closed.
func (h *hangUp) up(raw syscall.RawConn) bool {
	if h.ask == nil {
		h.ask = func(fd uintptr) {
			fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			n, _ := unix.Poll(fds[:], 0) // what cannot be asked is not hung up
			h.yes = n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		}
	}
	h.yes = false
	return raw.Control(h.ask) != nil || h.yes
}

// wasCut says that c was closed on this side.
func (c *conn) wasCut() bool { return c.ctx.Err() != nil }

// hangUps says in one system call that no connection of many was shut down. Those
// that were closed on this side it does not know.
type hangUps struct {
	fd     int // an epoll instance, -1 if there is none: ask each connection then
	events [1]unix.EpollEvent
}

func newHangUps(conns []*conn) *hangUps {
	h := &hangUps{}
	var err error
	if h.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		h.fd = -1
	}
	for _, c := range conns {
		h.add(c)
	}
	return h
}

func (h *hangUps) add(c *conn) {
	if h.fd < 0 {
		return
	}
	// That it is closed already is seen otherwise.
	_ = c.in.Raw().Control(func(fd uintptr) {
		if unix.EpollCtl(h.fd, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLRDHUP}) != nil {
			h.close()
		}
	})
}

// remove forgets c, whose socket may live on elsewhere.
func (h *hangUps) remove(c *conn) {
	if h.fd < 0 {
		return
	}
	_ = c.in.Raw().Control(func(fd uintptr) { _ = unix.EpollCtl(h.fd, unix.EPOLL_CTL_DEL, int(fd), nil) })
}

func (h *hangUps) none() bool {
	if h.fd < 0 {
		return false
	}
	n, err := stream.PollNow(h.fd, h.events[:])
	return n == 0 && err == nil
}

func (h *hangUps) close() {
	if h.fd >= 0 {
		_ = unix.Close(h.fd)
		h.fd = -1
	}
}
