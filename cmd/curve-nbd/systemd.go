package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/opencurve/curve-nbd/gateway/control"
)

const (
	// startLimit is how long a gateway that takes over counts as well though it does
	// not answer yet: the one before it may take its time to drain.
	startLimit = replaceTimeout + gatewayStart
	// orphanLimit is far more than it takes a shell to end.
	orphanLimit = time.Second
	// beatsPerTimeout is how often systemd hears from us in the time after which it
	// would think us dead: a check may take as long as the wait for it.
	beatsPerTimeout = 4
)

// notifySystemd tells the service manager, if one asked to be told.
func notifySystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// becomeMain has systemd take this process for the service's, before the gateway that
// is replaced ends: otherwise the service would end with it. giveBack undoes it, for
// when that one goes on after all.
func (s *server) becomeMain() (giveBack func()) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return func() {}
	}
	awaitOrphaned()
	notifySystemd(s.log, fmt.Sprintf("MAINPID=%d", os.Getpid()))
	starting, cancel := context.WithTimeout(s.starting, startLimit)
	go func() {
		defer cancel()
		s.beat(starting, func(context.Context) error { return nil })
	}()
	return func() {
		cancel()
		if before := os.Getenv("MAINPID"); before != "" {
			notifySystemd(s.log, "MAINPID="+before)
		}
	}
}

// awaitOrphaned waits a moment until the process that has started this one is gone: see
// spawnOrphan. Where the first process is no service manager it makes no difference.
func awaitOrphaned() {
	for end := time.Now().Add(orphanLimit); os.Getppid() != 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// beat tells systemd's watchdog that this process is well, for as long as check says
// so, until ctx ends. When check fails or hangs for long, systemd ends the process with
// SIGABRT, of which the stacks of all goroutines remain in the log, and starts another.
func (s *server) beat(ctx context.Context, check func(context.Context) error) {
	timeout, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("no watchdog", "error", err)
	}
	if timeout <= 0 || check == nil {
		return
	}
	every := timeout / beatsPerTimeout
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		checking, cancel := context.WithTimeout(ctx, every)
		err := check(checking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Error("the self-check failed: systemd will restart this process unless it recovers", "within", timeout, "error", err)
		default:
			notifySystemd(s.log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// answers is the self-check of a gateway: its control socket takes a connection, and
// the volumes and the devices can be looked at. That a volume waits for its cluster is
// no reason to fail: a restart would not help.
func answers(ctx context.Context, address string) error {
	client, err := control.Dial(ctx, address)
	if err != nil {
		return err
	}
	_, err = client.Status(ctx)
	if err == nil {
		_, err = client.Devices(ctx)
	}
	return errors.Join(err, client.Close())
}
