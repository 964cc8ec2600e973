package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/nbd/device"
)

// replaceTimeout bounds how long the gateway that is replaced may take to let go.
const replaceTimeout = 60 * time.Second

// replacePath is the socket beside the control socket on which a gateway waits for
// its successor. Who may use the control socket may use it.
func replacePath(controlPath string) string { return controlPath + ".replace" }

// replaceRequest is what a successor says: a mere connection, of somebody who looks
// whether anybody listens, must not stop a gateway.
const replaceRequest = "replace 1\n"

// requestTimeout bounds how long a successor may take to say it.
const requestTimeout = 5 * time.Second

// inheritance is what a gateway leaves to the one that replaces it.
type inheritance struct {
	devices []device.Handed
	// legacy is for its backend, see legator.
	legacy []byte
}

// takeOver asks the gateway that runs on a control socket, if one does, to stop, and
// takes its devices once it has let go of everything else.
func takeOver(ctx context.Context, controlPath string, log *slog.Logger) (got inheritance, err error) {
	ctx, cancel := context.WithTimeout(ctx, replaceTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", replacePath(controlPath))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		log.Info("there is no gateway to replace")
		return got, nil
	}
	if err != nil {
		return got, fmt.Errorf("ask the running gateway to hand over: %w", err)
	}
	defer conn.Close()
	// The wait ends with ctx.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if _, err := io.WriteString(conn, replaceRequest); err != nil {
		return got, fmt.Errorf("ask the running gateway to hand over: %w", err)
	}
	got.devices, err = device.Receive(conn.(*net.UnixConn))
	if err != nil {
		if errors.Is(err, backend.ErrBusy) {
			return got, fmt.Errorf("the running gateway refuses, and goes on: %w", err)
		}
		return got, fmt.Errorf("the running gateway did not hand over: %w: see its log; if it has ended, start without --replace", err)
	}
	// Up to the end of the stream. What is cut short counts for nothing, and is not
	// needed.
	if got.legacy, err = io.ReadAll(io.LimitReader(conn, embedded.MaxLegacy)); err != nil {
		log.Warn("the gateway that ran left no account of its backend", "error", err)
		got.legacy = nil
	}
	log.Info("took over from the gateway that ran", "devices", len(got.devices))
	return got, nil
}

// successor waits for the gateway that is to replace this one.
type successor struct {
	// came is closed once one has asked, and may says that it may have the devices.
	came chan struct{}
	may  func() error

	mu     sync.Mutex // guards all below
	conn   *net.UnixConn
	leaves inheritance
}

// wait accepts the first that asks.
func (s *successor) wait(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // closed: nobody replaces us
		}
		if !asksToReplace(conn) {
			_ = conn.Close()
			continue
		}
		if reason := s.may(); reason != nil {
			_ = errors.Join(device.Refuse(conn, reason), conn.Close()) // it fails either way
			continue
		}
		s.mu.Lock()
		s.conn = conn.(*net.UnixConn)
		s.mu.Unlock()
		close(s.came)
		return nil
	}
}

func asksToReplace(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	said := make([]byte, len(replaceRequest))
	_, err := io.ReadFull(conn, said)
	return err == nil && string(said) == replaceRequest
}

// asked says that there is one.
func (s *successor) asked() bool {
	select {
	case <-s.came:
		return true
	default:
		return false
	}
}

// send is the last act: everything else of this gateway is closed.
func (s *successor) send(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	defer s.conn.Close()
	s.conn.SetDeadline(time.Now().Add(closeTimeout))
	if err := device.Send(s.conn, s.leaves.devices); err != nil {
		return fmt.Errorf("hand over to the gateway that replaces this one: %w", err)
	}
	_, _ = s.conn.Write(s.leaves.legacy) // an older program takes none
	return nil
}

// listenReplace opens the socket for a successor.
func (f *frontEnds) listenReplace() error {
	l, err := control.ListenUnix(replacePath(f.opts.controlOn), control.SocketMode)
	if err != nil {
		return fmt.Errorf("socket for a gateway that replaces this one: %w", err)
	}
	f.successor.may = f.devices.manager.MayHandOver
	f.run("replace", l, f.successor.wait, func(context.Context) error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}
