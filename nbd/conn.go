package nbd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/stream"
	"github.com/opencurve/curve-nbd/volume"
)

// conn is one client. Its reader goroutine (run) owns every field that has no
// other comment.
type conn struct {
	server *Server
	nc     net.Conn
	in     *stream.Input
	out    *stream.Output
	ctx    context.Context // ends, with the cause, when the connection is cut
	cancel context.CancelCauseFunc

	format format
	// handle is set once the handshake has picked an export.
	handle *gateway.Handle
	// siblings, if any, are the client's connections, this one among them; left is
	// closed when nothing of this one is under way any more.
	siblings *Siblings
	attached bool // it is no client's, and came without a handshake
	left     chan struct{}
	hung     hangUp
	// blockStatus: base:allocation was agreed on.
	blockStatus bool

	// inline is the request that the reader serves by itself.
	inline volume.Request
	batch  batch
	served tallies

	writer stream.Writer[*task]
	// vecs are what Send writes, on the writer's goroutine; now what SendNow does, which
	// Output.Lock guards.
	vecs, now [][]byte
	// handing: Take wants the socket, which is then in taken.
	handing atomic.Bool
	taken   *os.File
	// draining: Shutdown wants the connection to end in order.
	draining atomic.Bool
	cut      atomic.Pointer[string]
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		server: s,
		nc:     nc,
		in:     stream.NewInput(nc, &s.clock),
		out:    stream.NewOutput(nc, &s.clock),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.writer.Init(c)
	stream.GrowSendBuffer(nc)
	return c
}

// run serves the connection from greeting to close.
func (c *conn) run() {
	defer c.cancel(nil)
	defer c.nc.Close()
	defer c.in.Free()
	log := c.server.log.With("remote", remoteName(c.nc))

	err := c.begin()
	if err == nil {
		log = log.With("volume", c.handle.Info().Name)
		log.Debug("client attached", "structured", c.format.structured, "extended", c.format.extended)
		if c.draining.Load() { // Shutdown's deadline was just overwritten
			_ = c.nc.SetReadDeadline(time.Now())
		}
		err = c.transmit()
	}
	if c.handle != nil {
		c.finish()
	}
	if errors.Is(err, errHandedOver) {
		err = c.keepSocket()
	}
	reason := c.cut.Load()
	switch {
	case reason != nil:
		log.Warn("client cut off", "reason", *reason)
	case err == nil, errors.Is(err, errHandshakeOver), errors.Is(err, io.EOF), c.draining.Load():
		log.Debug("client left")
	case errors.Is(err, os.ErrDeadlineExceeded):
		log.Warn("client cut off", "reason", "handshake took too long", "limit", c.server.opts.HandshakeTimeout)
	default:
		log.Info("connection ended", "error", err)
	}
}

// begin brings the connection to the transmission phase, unless it is there already.
func (c *conn) begin() error {
	if c.handle != nil {
		return nil
	}
	_ = c.nc.SetDeadline(time.Now().Add(c.server.opts.HandshakeTimeout))
	if err := c.negotiate(c.ctx); err != nil {
		return err
	}
	_ = c.nc.SetDeadline(time.Time{})
	return nil
}

// finish waits for what is in flight, sends the last replies and lets the
// export go.
func (c *conn) finish() {
	c.batch.reset()
	c.writer.Close()
	c.served.close(c.handle)
	if c.siblings != nil {
		c.siblings.leave(c)
	}
	c.handle.Release()
}

func (c *conn) isClient() bool { return !c.attached }

// drain asks the reader to stop at the next request.
func (c *conn) drain() {
	c.draining.Store(true)
	_ = c.nc.SetReadDeadline(time.Now())
}

// abort cuts the connection.
func (c *conn) abort(reason string) {
	c.cut.CompareAndSwap(nil, &reason)
	c.fail(errors.New(reason))
}

// fail ends the connection: nobody is there to take replies.
func (c *conn) fail(cause error) {
	c.cancel(cause)
	_ = c.nc.Close()
}

// checkStall cuts a connection that has waited since before the given clock for
// the rest of a request, or for its client to take replies.
func (c *conn) checkStall(before int64) {
	if c.in.Stalled(before) {
		c.abort("stalled in the middle of a request")
	}
	if c.out.Stalled(before) {
		c.abort("does not take its replies")
	}
}

func remoteName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return nc.LocalAddr().Network()
}
