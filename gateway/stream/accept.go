package stream

import (
	"errors"
	"log/slog"
	"net"
	"time"
)

// Accept gives start every connection that comes to l, until l fails. Being out of file
// descriptors is waited out: those that are served go on, and some will leave. An error
// while it is stopping is none.
func Accept(l net.Listener, stopping func() bool, log *slog.Logger, start func(net.Conn)) error {
	pause := time.Millisecond
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = time.Millisecond
			start(nc)
			continue
		}
		if stopping() {
			return nil
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return err
		}
		log.Warn("cannot accept a connection", "error", err, "retry_in", pause)
		time.Sleep(pause)
		pause = min(2*pause, time.Second)
	}
}
