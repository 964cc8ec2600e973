package nbd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
)

// Attachment is a connection that a server serves without a handshake.
type Attachment struct {
	conn  *conn
	ended chan struct{}
}

// Attach serves a connection that begins with the transmission phase, and has
// simple replies: the kernel's, for which nobody negotiates. It takes nc and h over.
// siblings, if not nil, are the other connections of the same client.
// backend.ErrClosed after Shutdown.
func (s *Server) Attach(nc net.Conn, h *gateway.Handle, siblings *Siblings) (*Attachment, error) {
	a := &Attachment{ended: make(chan struct{})}
	s.mu.Lock()
	stopping := s.stopping
	if !stopping {
		a.conn = newConn(s, nc)
		a.conn.handle, a.conn.attached = h, true
		a.conn.in.Resume = a.conn.handing.Load
		if siblings != nil {
			a.conn.siblings, a.conn.left = siblings, make(chan struct{})
			siblings.join(a.conn)
		}
		s.serveLocked(a.conn, func() { close(a.ended) })
	}
	s.mu.Unlock()
	if stopping {
		h.Release()
		return nil, errors.Join(fmt.Errorf("NBD server is shutting down: %w", backend.ErrClosed), nc.Close())
	}
	return a, nil
}

// Ended is closed when the connection and its handle are given back, and nothing
// that came over it is under way any more.
func (a *Attachment) Ended() <-chan struct{} { return a.ended }

// Take ends the serving between two requests, all of them answered, and returns the
// socket, for another to serve on: its client notices nothing. It returns nil when
// the connection broke before.
func (a *Attachment) Take() *os.File {
	a.conn.handing.Store(true)
	_ = a.conn.nc.SetReadDeadline(time.Now()) // wakes the reader
	<-a.ended
	return a.conn.taken
}

// errHandedOver: the connection goes on under another server.
var errHandedOver = errors.New("handed over")

// mayHandOver says that the reader is between two requests and Take is waiting.
func (c *conn) mayHandOver() bool { return c.handing.Load() && len(c.in.Bytes()) == 0 }

// keepSocket saves the socket from the close that follows.
func (c *conn) keepSocket() error {
	unixConn, ok := c.nc.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%w: only unix sockets can be handed over", backend.ErrNotSupported)
	}
	f, err := unixConn.File()
	if err != nil {
		return err
	}
	c.taken = f
	return nil
}
