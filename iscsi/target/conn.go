package target

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/gateway/stream"
	"github.com/opencurve/curve-nbd/iscsi"
)

// conn is one connection: a login, then its session. Its reader goroutine (run)
// owns every field that has no other comment.
type conn struct {
	server *Server
	nc     net.Conn
	in     *stream.Input
	out    *stream.Output
	ctx    context.Context // ends, with the cause, when the connection is cut
	cancel context.CancelCauseFunc

	// initiator and target are what the login has said of itself; asked are its
	// requests so far.
	initiator, target string
	asked             int

	// session is there after the login; the watchdog reads it.
	session atomic.Pointer[session]
	// heard is the clock when something last came.
	heard atomic.Int64
	// draining: the connection is to end in order.
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
	stream.GrowSendBuffer(nc)
	return c
}

// errOver ends a connection whose last answer is sent.
var errOver = errors.New("over")

// run serves the connection from login to close.
func (c *conn) run() {
	defer c.cancel(nil)
	defer c.nc.Close()
	defer c.in.Free()

	_ = c.nc.SetDeadline(time.Now().Add(c.server.opts.LoginTimeout))
	s, err := c.login()
	if err == nil {
		_ = c.nc.SetDeadline(time.Time{})
		c.log().Info("initiator logged in", "tsih", s.tsih, "user", s.user)
		if c.draining.Load() { // the deadline that was to wake us was just overwritten
			_ = c.nc.SetReadDeadline(time.Now())
		}
		err = s.transmit()
		s.end(err)
	}
	c.sayEnd(s != nil, err)
}

// log is for what is said of the connection: where it comes from, and who it is as far
// as that is known.
func (c *conn) log() *slog.Logger {
	log := c.server.log.With("remote", remoteName(c.nc))
	if c.initiator != "" {
		log = log.With("initiator", c.initiator)
	}
	if c.initiator != "" || c.target != "" { // "" is discovery then
		log = log.With("target", c.target)
	}
	return log
}

// sayEnd logs why the connection is over.
func (c *conn) sayEnd(loggedIn bool, err error) {
	var refused *iscsi.LoginError
	log, warn := c.log(), slog.LevelWarn
	if !loggedIn && !c.server.unwelcome.Allow() {
		warn = slog.LevelDebug
	}
	switch reason := c.cut.Load(); {
	case reason != nil:
		log.Log(c.ctx, warn, "initiator cut off", "reason", *reason)
	case errors.Is(err, errOver):
		log.Info("initiator logged out")
	case !loggedIn && errors.As(err, &refused):
		log.Log(c.ctx, warn, "login refused", "status", refused.Status, "reason", refused.Err)
	case !loggedIn && errors.Is(err, os.ErrDeadlineExceeded) && !c.draining.Load():
		log.Log(c.ctx, warn, "initiator cut off", "reason", "login took too long", "limit", c.server.opts.LoginTimeout)
	case !loggedIn && c.asked == 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		log.Debug("connection ended before a login") // somebody looks whether the port is open
	case !loggedIn && !c.draining.Load():
		log.Log(c.ctx, warn, "initiator broke its login off", "error", err)
	case errors.Is(err, io.EOF), c.draining.Load():
		log.Info("initiator left")
	default:
		log.Log(c.ctx, warn, "connection ended", "error", err)
	}
}

// drain asks the reader to stop at the next PDU.
func (c *conn) drain() {
	c.draining.Store(true)
	_ = c.nc.SetReadDeadline(time.Now())
}

// abort cuts the connection off, for a reason that is logged.
func (c *conn) abort(reason string) {
	c.cut.CompareAndSwap(nil, &reason)
	c.fail(errors.New(reason))
}

// fail ends the connection: nobody is there to take answers.
func (c *conn) fail(cause error) {
	c.cancel(cause)
	_ = c.nc.Close()
}

// check is the watchdog's look at a connection.
func (c *conn) check(clock int64) {
	before := clock - int64(c.server.opts.StallTimeout)
	if c.in.Stalled(before) {
		c.abort("stalled in the middle of a PDU")
	}
	if c.out.Stalled(before) {
		c.abort("does not take its answers")
	}
	// One that is slow to send or to take something is there; a ping would wait for
	// its turn.
	if s := c.session.Load(); s != nil && !c.in.Stalled(math.MaxInt64) && !c.out.Stalled(math.MaxInt64) {
		s.keepAlive(clock)
	}
}

// askLogout tells the initiator that the target is going away.
func (c *conn) askLogout() {
	s := c.session.Load()
	if s == nil {
		c.drain()
		return
	}
	s.askLogout()
}

func remoteName(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" && a.String() != "@" {
		return a.String()
	}
	return nc.LocalAddr().Network()
}
