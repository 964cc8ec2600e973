package faults

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one client's connection and the one to the server that belongs to it.
type conn struct {
	client    *net.TCPConn
	transport *http.Transport
	// kept is how many requests of this connection are kept.
	kept atomic.Int64
	// over ends every RPC of the connection.
	over context.Context
	end  context.CancelFunc

	mu       sync.Mutex // guards what follows
	upstream *net.TCPConn
	dialed   bool
}

type connKey struct{}

// connect is called for every new client connection, before anything is read.
func (s *Streams) connect(ctx context.Context, client net.Conn) context.Context {
	c := &conn{client: client.(*net.TCPConn)}
	c.over, c.end = context.WithCancel(context.Background())
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.transport = &http.Transport{
		Protocols: &protocols, DialContext: c.dial(s.target), DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window},
	}
	if s.closed {
		c.end()
		abort(c.client)
		return context.WithValue(ctx, connKey{}, c)
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	context.AfterFunc(c.over, func() {
		defer s.running.Done()
		abort(c.client)
		c.closeUpstream()
		c.transport.CloseIdleConnections()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
	return context.WithValue(ctx, connKey{}, c)
}

// connState hears of the end of client connections.
func (s *Streams) connState(client net.Conn, state http.ConnState) {
	if state != http.StateClosed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if net.Conn(c.client) == client && c.kept.Load() == 0 {
			c.end()
		}
	}
}

// errOneConnection: a second connection to the server would not be the client's own.
var errOneConnection = errors.New("faults: the connection to the server is gone")

func (c *conn) dial(target string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dialed {
			return nil, errOneConnection
		}
		c.dialed = true
		d := net.Dialer{Timeout: 5 * time.Second}
		up, err := d.DialContext(ctx, "tcp", target)
		if err != nil {
			c.end()
			return nil, err
		}
		c.upstream = up.(*net.TCPConn)
		return watched{Conn: up, broken: func() {
			// The connection ends before its streams do, as without a proxy.
			abort(c.client)
			c.end()
		}}, nil
	}
}

func (c *conn) closeUpstream() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialed = true
	if c.upstream != nil {
		abort(c.upstream)
	}
}

// watched tells at once when the server's side of a connection ends.
type watched struct {
	net.Conn
	broken func()
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.broken()
	}
	return n, err
}
