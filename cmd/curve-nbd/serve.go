package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
)

const (
	defaultDataDir      = "./data"
	defaultDrainTimeout = 30 * time.Second

	// closeTimeout bounds each step of a stop that follows the drain: requests
	// are over by then, what remains is flushing.
	closeTimeout = 30 * time.Second
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a gateway",
		Description: `Offers every volume of a data directory as an NBD export, until SIGTERM or
Ctrl-C: then it stops accepting, finishes and flushes what is in flight, and
exits with 0. A second signal stops it at once, with 1.

   curve-nbd serve
   curve-nbd serve --data-dir /var/lib/curve-nbd \
      --nbd-listen unix:/run/curve-nbd/nbd.sock,tcp:127.0.0.1:10809 \
      --http-listen 127.0.0.1:9480
   curve-nbd serve --memory --nbd-listen tcp:127.0.0.1:0   # a scratch gateway

A listen address with port 0 picks a free port; the lines "listening ..." on
stderr say which. HTTP has /metrics (Prometheus), /healthz, /readyz and
/debug/pprof.

NBD here has neither encryption nor passwords: who reaches a listener may use
every volume. Keep to unix sockets and 127.0.0.1, or a network you trust.`,
		Flags: append(serveFlags(), logFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return serve(ctx)
		},
	}
}

func serveFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "keep volumes in `DIR`", Value: defaultDataDir, EnvVars: env("data-dir")},
		&cli.BoolFlag{Name: "memory", Usage: "keep volumes in RAM, lost at exit (instead of --data-dir)", EnvVars: env("memory")},
		&cli.DurationFlag{
			Name: "recycle-keep", Usage: "keep removed volumes for `D`; 0 frees them at once",
			Value: embedded.DefaultRecycleKeep, EnvVars: env("recycle-keep"),
		},
		&cli.StringSliceFlag{
			Name: "nbd-listen", Usage: "serve NBD on `ADDR`,...: unix:PATH or tcp:HOST:PORT",
			Value: cli.NewStringSlice(defaultNBD()), EnvVars: env("nbd-listen"),
		},
		&cli.StringFlag{Name: "http-listen", Usage: "serve metrics and health on `HOST:PORT`", DefaultText: "off", EnvVars: env("http-listen")},
		controlFlag("listen for the other commands on `ADDR`"),
		&cli.BoolFlag{Name: "read-only", Usage: "refuse every write", EnvVars: env("read-only")},
		&cli.IntFlag{
			Name: "max-connections", Usage: "at most `N` NBD clients",
			Value: nbd.DefaultMaxConnections, EnvVars: env("max-connections"),
		},
		&cli.Int64Flag{
			Name: "max-inflight-requests", Usage: "at most `N` requests in flight, all clients together",
			Value: gateway.DefaultMaxRequests, EnvVars: env("max-inflight-requests"),
		},
		&cli.StringFlag{
			Name: "max-inflight-bytes", Usage: "at most `SIZE` of payload in flight, all clients together",
			Value: sizeText(gateway.DefaultMaxBytes), EnvVars: env("max-inflight-bytes"),
		},
		&cli.DurationFlag{
			Name: "handshake-timeout", Usage: "drop a client that has not chosen an export after `D`",
			Value: nbd.DefaultHandshakeTimeout, EnvVars: env("handshake-timeout"),
		},
		&cli.DurationFlag{
			Name: "stall-timeout", Usage: "drop a client that makes no progress in mid-message for `D`",
			Value: nbd.DefaultStallTimeout, EnvVars: env("stall-timeout"),
		},
		&cli.DurationFlag{
			Name: "drain-timeout", Usage: "cut clients off when requests are still in flight `D` after the signal",
			Value: defaultDrainTimeout, EnvVars: env("drain-timeout"),
		},
		configFlag(),
	}
}

// defaultNBD is beside the control socket.
func defaultNBD() string {
	return "unix:" + filepath.Join(filepath.Dir(strings.TrimPrefix(defaultControl(), "unix:")), "nbd.sock")
}

// serve starts everything from the backend up, waits for a signal, and stops in
// reverse order.
func serve(ctx *cli.Context) (err error) {
	log, err := newLogger(ctx)
	if err != nil {
		return err
	}
	opts, err := gatewayOptions(ctx, log)
	if err != nil {
		return err
	}
	raiseFileLimit(log)
	signals := catchSignals(log)
	defer signals.stop()

	var running stopStack
	defer func() { err = errors.Join(err, running.stop(log)) }()

	store, err := openBackend(ctx, log, opts.metrics)
	if err != nil {
		return err
	}
	running.push("backend", closeTimeout, func(context.Context) error { return store.Close() })
	if !ctx.Bool("memory") {
		// Whoever asks for the status may stand in another directory.
		if opts.gateway.DataDir, err = filepath.Abs(store.Dir()); err != nil {
			return err
		}
	}

	gw := gateway.New(store.Meta(), store.Chunks(), opts.gateway)
	running.push("gateway", closeTimeout, gw.Close)

	d := &frontEnds{ctx: ctx, log: log, gw: gw, opts: opts, running: &running, failed: make(chan error, maxListeners+2)} // and control and HTTP
	if err := d.start(); err != nil {
		return err
	}
	notifySystemd(log, daemon.SdNotifyReady)
	defer notifySystemd(log, daemon.SdNotifyStopping)
	select {
	case signal := <-signals.first:
		log.Info("stopping", "signal", signal.String(), "drain_timeout", ctx.Duration("drain-timeout"))
		return nil
	case err := <-d.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// store is what serve needs of a backend.
type store interface {
	Meta() backend.Meta
	Chunks() backend.Chunks
	Dir() string
	Close() error
}

func openBackend(ctx *cli.Context, log *slog.Logger, metrics prometheus.Registerer) (store, error) {
	opts := embedded.Options{Log: log, Metrics: metrics, RecycleKeep: ctx.Duration("recycle-keep")}
	if opts.RecycleKeep == 0 {
		opts.RecycleKeep = embedded.PurgeAtOnce
	}
	if ctx.Bool("memory") {
		log.Warn("volumes are in RAM and will be lost at exit")
		return embedded.OpenMemory(opts)
	}
	return embedded.Open(ctx.String("data-dir"), opts)
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

// notifySystemd tells the service manager, if one asked to be told.
func notifySystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "error", err)
	}
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// announce writes the line that people and scripts wait for.
func announce(ctx *cli.Context, what, address string) {
	fmt.Fprintf(ctx.App.ErrWriter, "listening %s %s\n", what, address)
}
