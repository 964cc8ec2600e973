package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd"
)

const (
	defaultDataDir      = "./data"
	defaultDrainTimeout = 30 * time.Second
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a gateway",
		Description: `Offers every volume of a data directory, or of a cluster, as an NBD export, and
those that are logical units of targets over iSCSI if it is asked to, until SIGTERM
or Ctrl-C: then it stops accepting, finishes and flushes what is in flight, and
exits with 0. A second signal stops it at once, with 1.

   curve-nbd serve
   curve-nbd serve --data-dir /var/lib/curve-nbd \
      --nbd-listen unix:/run/curve-nbd/nbd.sock,tcp:127.0.0.1:10809 \
      --http-listen 127.0.0.1:9480
   curve-nbd serve --mds 10.0.0.1:6700 --nbd-listen unix:/run/curve-nbd/nbd.sock
   curve-nbd serve --memory --nbd-listen tcp:127.0.0.1:0   # a scratch gateway
   curve-nbd serve --iscsi-listen 127.0.0.1:3260           # targets too: see curve-nbd target

To upgrade a gateway, start the new program with --replace: the running one
finishes what it has in flight, hands its block devices over and exits, and
their users notice a pause of some milliseconds.

   curve-nbd serve --data-dir /var/lib/curve-nbd --replace

Under systemd (curve-nbd.service comes with the package) that is systemctl reload.
It is told when the gateway serves and when it stops, which process is the
gateway's after --replace, and, if its watchdog asks, that the gateway answers.

A listen address with port 0 picks a free port; the lines "listening ..." on
stderr say which. HTTP has /metrics (Prometheus), /healthz, /readyz and
/debug/pprof.

NBD here has neither encryption nor passwords: who reaches a listener may use
every volume. iSCSI has access lists and CHAP, and no encryption. Keep to unix
sockets and 127.0.0.1, or a network you trust.`,
		Flags: append(serveFlags(), logFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			if ctx.Bool(backgroundFlag) {
				return serveInBackground(ctx)
			}
			return serve(ctx)
		},
	}
}

func serveFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "keep volumes in `DIR`", Value: defaultDataDir, EnvVars: env("data-dir")},
		mdsFlag("keep volumes in the cluster whose MDS is at `ADDR`,... (instead of --data-dir)"),
		&cli.StringFlag{
			Name: "owner", Usage: "hold volumes of a cluster as `NAME`, unique to this gateway",
			DefaultText: "host and control socket", EnvVars: env("owner"),
		},
		&cli.BoolFlag{Name: "take-over", Usage: "open volumes of a cluster even if another gateway has them open, which loses them", EnvVars: env("take-over")},
		&cli.DurationFlag{
			Name: "io-deadline", Usage: "fail a request that a cluster has not served after `D`; 0 waits for as long as it takes",
			DefaultText: "0", EnvVars: env("io-deadline"),
		},
		&cli.BoolFlag{Name: "memory", Usage: "keep volumes in RAM, lost at exit (instead of --data-dir)", EnvVars: env("memory")},
		&cli.DurationFlag{
			Name: "recycle-keep", Usage: "keep removed volumes for `D`; 0 frees them at once",
			Value: embedded.DefaultRecycleKeep, EnvVars: env("recycle-keep"),
		},
		&cli.StringSliceFlag{
			Name: "nbd-listen", Usage: "serve NBD on `ADDR`,...: unix:PATH or tcp:HOST:PORT",
			Value: cli.NewStringSlice(defaultNBD()), EnvVars: env("nbd-listen"),
		},
		&cli.StringSliceFlag{
			Name: "iscsi-listen", Usage: "serve iSCSI targets on `HOST:PORT`,...; 0.0.0.0 is all of IPv4, [::] all there is", DefaultText: "off", EnvVars: env("iscsi-listen"),
		},
		&cli.IntFlag{
			Name: "iscsi-portal-group", Usage: "be portal group `N`; each gateway of a cluster has its own",
			Value: 1, EnvVars: env("iscsi-portal-group"),
		},
		&cli.StringFlag{Name: "http-listen", Usage: "serve metrics and health on `HOST:PORT`", DefaultText: "off", EnvVars: env("http-listen")},
		controlFlag("listen for the other commands on `ADDR`"),
		&cli.BoolFlag{Name: "replace", Usage: "take over from the gateway that runs on the control socket, if one does"},
		&cli.BoolFlag{Name: backgroundFlag, Usage: "return once the gateway serves, as a process of its own"},
		&cli.BoolFlag{Name: "read-only", Usage: "refuse every write", EnvVars: env("read-only")},
		&cli.IntFlag{
			Name: "max-connections", Usage: "at most `N` NBD clients, and as many iSCSI connections",
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
			Name: "handshake-timeout", Usage: "drop a client that has not chosen an export, or not logged in, after `D`",
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
func serve(ctx *cli.Context) error {
	return runServer(ctx, func(s *server) error {
		if err := checkBackend(ctx); err != nil {
			return err
		}
		opts, err := gatewayOptions(ctx, s)
		if err != nil {
			return err
		}
		s.alive = func(ctx context.Context) error { return answers(ctx, "unix:"+opts.controlOn) }
		fronts := &frontEnds{server: s, opts: opts, successor: &successor{came: s.replaced}}
		if ctx.Bool("replace") {
			giveBack := s.becomeMain()
			if fronts.inherited, err = takeOver(s.starting, opts.controlOn, s.log); err != nil {
				giveBack()
				return err
			}
		}
		s.running.push("successor", closeTimeout, fronts.successor.send)
		store, err := openBackend(ctx, s.log, s.metrics, fronts.inherited.legacy)
		if err != nil {
			return err
		}
		fronts.store = store
		s.running.push("backend", closeTimeout, func(context.Context) error { return fronts.closeStore() })
		if dir := store.Dir(); dir != "" {
			// Whoever asks for the status may stand in another directory.
			if opts.gateway.DataDir, err = filepath.Abs(dir); err != nil {
				return err
			}
		}
		gw := gateway.New(store.Meta(), store.Chunks(), opts.gateway)
		s.running.push("gateway", closeTimeout, gw.Close)
		fronts.gw = gw
		return fronts.start()
	})
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}
