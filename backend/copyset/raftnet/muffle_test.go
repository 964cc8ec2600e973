package raftnet

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// muffler is a network that can be cut without anybody noticing: what is sent
// waits, as TCP would have it, until the cut is healed or the connection closed.
type muffler struct {
	mu    sync.Mutex
	muted map[backend.ServerID]bool
	// late is how long all that is sent or received takes.
	late time.Duration
	// healed is closed when something was unmuted.
	healed chan struct{}
}

func newMuffler() *muffler {
	return &muffler{muted: map[backend.ServerID]bool{}, healed: make(chan struct{})}
}

func (m *muffler) silence(id backend.ServerID, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.muted[id] = on
	if !on {
		close(m.healed)
		m.healed = make(chan struct{})
	}
}

func (m *muffler) dial(from, to backend.ServerID) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return &muffledConn{Conn: conn, net: m, ends: [2]backend.ServerID{from, to}, closed: make(chan struct{})}, nil
	}
}

// slow delays each write and each read from now on; 0 for no more.
func (m *muffler) slow(late time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = late
}

type muffledConn struct {
	net.Conn
	net    *muffler
	ends   [2]backend.ServerID
	once   sync.Once
	closed chan struct{}
}

// pass waits until the connection is not cut, and its time.
func (c *muffledConn) pass() error {
	for {
		c.net.mu.Lock()
		cut, healed, late := c.net.muted[c.ends[0]] || c.net.muted[c.ends[1]], c.net.healed, c.net.late
		c.net.mu.Unlock()
		if !cut && late == 0 {
			return nil
		}
		var passed <-chan time.Time
		if !cut {
			passed = time.After(late)
		}
		select {
		case <-passed:
			return nil
		case <-healed:
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

func (c *muffledConn) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *muffledConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		err = c.pass()
	}
	return n, err
}

func (c *muffledConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
