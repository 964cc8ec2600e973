package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// closeTimeout bounds each step of a stop that is not a drain: requests are over
// by then, what remains is flushing.
const closeTimeout = 30 * time.Second

// server is what every role of this program that runs until a signal has: serve,
// mds and chunkserver.
type server struct {
	ctx     *cli.Context
	log     *slog.Logger
	metrics *prometheus.Registry
	running stopStack
	// failed receives what ends a part that nobody stopped.
	failed chan error
	ready  readiness
	lines  [][2]string // what is announced once all listen

	// replaced is closed when another process wants this one's place.
	replaced chan struct{}

	// starting ends at a signal that comes before the start is over.
	starting context.Context

	// alive says, while it serves, that it is well, or why not.
	alive func(context.Context) error
}

// runServer starts a server, says where it listens, waits for a signal, and stops
// everything in reverse order.
func runServer(ctx *cli.Context, start func(*server) error) (err error) {
	log, err := newLogger(ctx)
	if err != nil {
		return err
	}
	s := &server{
		ctx: ctx, log: log, metrics: prometheus.NewRegistry(),
		failed:   make(chan error, maxListeners+maxParts),
		replaced: make(chan struct{}),
	}
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	raiseFileLimit(log)
	signals := catchSignals(log)
	defer signals.stop()
	defer func() { err = errors.Join(err, s.running.stop(log)) }()
	if err := s.start(signals, start); errors.Is(err, errStopped) {
		return nil
	} else if err != nil {
		return err
	}
	for _, line := range s.lines {
		announce(ctx, line[0], line[1])
	}
	s.ready.set(true)
	notifySystemd(log, daemon.SdNotifyReady)
	return s.wait(signals)
}

// wait returns when the server is to stop.
func (s *server) wait(signals *stopSignals) error {
	well, cancel := context.WithCancel(s.ctx.Context)
	var beating sync.WaitGroup
	beating.Go(func() { s.beat(well, s.alive) })
	defer beating.Wait()
	defer cancel()
	select {
	case <-s.replaced:
		// The service does not stop, only this process does.
		s.log.Info("stopping: another gateway takes over")
		return nil
	case signal := <-signals.first:
		s.log.Info("stopping", "signal", signal.String())
		notifySystemd(s.log, daemon.SdNotifyStopping)
		return nil
	case err := <-s.failed:
		notifySystemd(s.log, daemon.SdNotifyStopping)
		return err
	case <-s.ctx.Done():
		notifySystemd(s.log, daemon.SdNotifyStopping)
		return nil
	}
}

// start runs the start. One that a signal cut short is no failure.
func (s *server) start(signals *stopSignals, start func(*server) error) error {
	starting, cancel := context.WithCancel(s.ctx.Context)
	defer cancel()
	s.starting = starting
	over := make(chan struct{})
	var watching sync.WaitGroup
	signalled := false
	watching.Go(func() {
		select {
		case sig := <-signals.first:
			signals.first <- sig // for the wait that follows; there is room for the one
			signalled = true
			cancel()
		case <-over:
		}
	})
	err := start(s)
	close(over)
	watching.Wait()
	if signalled && errors.Is(err, context.Canceled) {
		s.log.Info("stopped before it was ready", "reason", err)
		return errStopped
	}
	return err
}

// errStopped: a signal came before the start was over.
var errStopped = errors.New("stopped")

// maxParts is how many parts other than NBD listeners may report a failure.
const maxParts = 8

// run serves on a listener in a goroutine that the stop stack ends and waits
// for.
func (s *server) run(name string, on net.Listener, serve func(net.Listener) error, shutdown func(context.Context) error) {
	var serving sync.WaitGroup
	serving.Go(func() { s.report(name+" listener", serve(on)) })
	s.running.push(name, closeTimeout, func(ctx context.Context) error {
		err := shutdown(ctx)
		serving.Wait()
		return err
	})
}

// report passes the failure of a part on to runServer.
func (s *server) report(part string, err error) {
	if err == nil {
		return
	}
	select {
	case s.failed <- fmt.Errorf("%s: %w", part, err):
	default: // the first failures say enough
	}
}

// stopStack holds what runs, in start order.
type stopStack struct{ steps []stopStep }

type stopStep struct {
	name    string
	timeout time.Duration
	stop    func(context.Context) error
}

func (s *stopStack) push(name string, timeout time.Duration, stop func(context.Context) error) {
	s.steps = append(s.steps, stopStep{name: name, timeout: timeout, stop: stop})
}

// stop stops the last started first, all of them whatever fails.
func (s *stopStack) stop(log *slog.Logger) error {
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		step := s.steps[i]
		ctx, cancel := context.WithTimeout(context.Background(), step.timeout)
		if err := step.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", step.name, err))
		}
		cancel()
		log.Debug("stopped", "part", step.name)
	}
	return errors.Join(errs...)
}

// raiseFileLimit makes room for a descriptor per client and per open chunk.
func raiseFileLimit(log *slog.Logger) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur >= limit.Max {
		return
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		log.Warn("the limit of open files stays low", "error", err)
	}
}

// announce writes the line that people and scripts wait for.
func announce(ctx *cli.Context, what, address string) {
	fmt.Fprintf(ctx.App.ErrWriter, "listening %s %s\n", what, address)
}

// hostName is this machine's name, for others to read.
func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return host
}
