package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
)

// Wire is a connection in the transmission phase without anybody reading from
// it: for callers that write their own bytes. Conn makes a Conn of it.
type Wire struct {
	Export   Export
	Style    ReplyStyle
	Contexts []MetaContext

	conn net.Conn
	in   replies
}

// NetConn is the connection underneath, to be written to. Reading from it loses
// what the Wire has buffered.
func (w *Wire) NetConn() net.Conn { return w.conn }

// Read reads what the server sent, byte for byte.
func (w *Wire) Read(b []byte) (int, error) { return w.in.r.Read(b) }

// ReadHeader reads the header of a reply; its payload is the caller's to Read.
func (w *Wire) ReadHeader() (ReplyHeader, error) { return readReplyHeader(w.in.r, &w.in.header) }

// Close hangs up without a word.
func (w *Wire) Close() error { return w.conn.Close() }

// Conn is an export in use. All methods may be called concurrently.
type Conn struct {
	export   Export
	style    ReplyStyle
	contexts []MetaContext
	conn     net.Conn
	window   chan struct{} // holds a token for each request in flight

	writeMu sync.Mutex // guards all writes and the four fields below
	last    uint64     // cookie
	header  []byte
	vec     [2][]byte
	unsent  net.Buffers // what is left of vec

	mu      sync.Mutex // guards all below
	pending map[uint64]*Request
	err     error // why no more requests are taken

	closed chan struct{} // when err is set
	reader sync.WaitGroup
}

// Conn starts the engine with a window of that many requests (DefaultWindow
// for 0), and owns the connection from then on.
func (w *Wire) Conn(window int) *Conn {
	if window <= 0 {
		window = DefaultWindow
	}
	c := &Conn{
		export:   w.Export,
		style:    w.Style,
		contexts: w.Contexts,
		conn:     w.conn,
		window:   make(chan struct{}, window),
		pending:  make(map[uint64]*Request, window),
		closed:   make(chan struct{}),
	}
	in := w.in
	c.reader.Go(func() { c.read(&in) })
	return c
}

// Export describes what is at the other end.
func (c *Conn) Export() Export { return c.export }

// Style is the form of headers in use.
func (c *Conn) Style() ReplyStyle { return c.style }

// Contexts are the metadata contexts that block status tells of.
func (c *Conn) Contexts() []MetaContext { return c.contexts }

// Start sends r, which belongs to the connection until Wait returns. ctx bounds
// the wait for a place in the window; a server that does not read makes Start
// wait until Close.
func (c *Conn) Start(ctx context.Context, r *Request) error {
	if c.style != ExtendedHeaders && r.Length > math.MaxUint32 {
		return fmt.Errorf("%w: %v of %d bytes: %v replies allow at most %d, extended headers more",
			backend.ErrInvalid, r.Command, r.Length, c.style, uint32(math.MaxUint32))
	}
	select {
	case c.window <- struct{}{}:
	case <-c.closed:
		return c.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.last++
	h := r.prepare(c.style, c.last)
	if err := c.enlist(r); err != nil {
		<-c.window
		return err
	}
	c.header = AppendRequest(c.header[:0], c.style, h)
	if err := c.write(c.header, r.payload); err != nil {
		c.fail(err)
	}
	r.part()
	return nil
}

// enlist makes r known to the reader, before the server can answer.
func (c *Conn) enlist(r *Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.pending[r.cookie] = r
	return nil
}

// write sends header and payload in one system call.
func (c *Conn) write(header, payload []byte) error {
	if len(payload) == 0 {
		_, err := c.conn.Write(header)
		return err
	}
	c.vec = [2][]byte{header, payload}
	c.unsent = c.vec[:]
	_, err := c.unsent.WriteTo(c.conn)
	c.vec = [2][]byte{} // the payload is not ours for longer
	return err
}

// read owns the receiving side until the connection ends, then completes what
// is left.
func (c *Conn) read(in *replies) {
	find := func(cookie uint64) *Request {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.pending[cookie]
	}
	for {
		r, answered, err := in.next(find)
		if err != nil {
			c.fail(err)
			break
		}
		if answered {
			c.finish(r)
		}
	}
	c.mu.Lock()
	left := make([]*Request, 0, len(c.pending))
	for _, r := range c.pending {
		left = append(left, r)
	}
	reason := c.err
	c.mu.Unlock()
	for _, r := range left {
		r.Err = fmt.Errorf("%v of %d bytes at %d: no reply: %w", r.Command, r.Length, r.Offset, reason)
		c.finish(r)
	}
}

func (c *Conn) finish(r *Request) {
	c.mu.Lock()
	delete(c.pending, r.cookie)
	c.mu.Unlock()
	<-c.window
	r.part()
}

// fail ends the connection; the first reason counts.
func (c *Conn) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("server closed the connection: %w", err)
	}
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
	}
	c.mu.Unlock()
	if first {
		close(c.closed)
	}
	c.conn.Close()
}

func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// errClosed is why requests fail after Close or Disconnect.
var errClosed = fmt.Errorf("connection %w by this side", backend.ErrClosed)

// Close hangs up, fails what is in flight and waits for the reader.
func (c *Conn) Close() error {
	c.fail(errClosed)
	c.reader.Wait()
	return nil
}

// Disconnect says good-bye behind what is in flight and waits until that is
// answered and the server has hung up, as a client should that cares for its
// last writes. It does not flush.
func (c *Conn) Disconnect(ctx context.Context) error {
	defer c.Close()
	for range cap(c.window) { // until the window is empty, and is ours
		select {
		case c.window <- struct{}{}:
		case <-c.closed:
			return c.reason()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.writeMu.Lock()
	c.last++
	b := AppendRequest(c.header[:0], c.style, Header{Command: CmdDisconnect, Cookie: c.last})
	_, err := c.conn.Write(b)
	c.writeMu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-c.closed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := c.reason(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
