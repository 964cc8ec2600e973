package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend/chunkserver"
	"github.com/opencurve/curve-nbd/backend/disk"
	"github.com/opencurve/curve-nbd/backend/remote"
)

const (
	defaultChunkserverDir = "./chunkserver"
	defaultChunkPort      = 6710
	defaultPeerPort       = 6711
)

func chunkserverCommand() *cli.Command {
	return &cli.Command{
		Name:      "chunkserver",
		Usage:     "run a chunkserver; list them, retire one",
		UsageText: "curve-nbd chunkserver [command options]\n   curve-nbd chunkserver list|retire [command options] ...",
		Description: `Alone, it runs a chunkserver: it keeps replicas of copysets in a directory and
serves them to gateways, until SIGTERM; then it hands its leaderships over, makes
everything durable and exits with 0. kill -9 loses nothing that was acknowledged.

   curve-nbd chunkserver --data-dir /var/lib/curve-chunks --mds 10.0.0.1:6700 \
      --listen 10.0.0.2:6710 --peer-listen 10.0.0.2:6711 --zone rack-2
   curve-nbd chunkserver list
   curve-nbd chunkserver retire cs2

Like NBD, the protocols have neither encryption nor passwords: keep them to a
network you trust.`,
		Flags:  append(chunkserverFlags(), logFlags()...),
		Action: runChunkserver,
		Subcommands: []*cli.Command{
			chunkserverListCommand(),
			chunkserverRetireCommand(),
		},
	}
}

func chunkserverFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "keep chunks and log in `DIR`", Value: defaultChunkserverDir, EnvVars: env("data-dir")},
		mdsFlag("join the cluster whose MDS is at `ADDR`,... (HOST:PORT)"),
		&cli.StringFlag{Name: "listen", Usage: "serve gateways on `HOST:PORT`", Value: hostPort(defaultChunkPort), EnvVars: env("listen")},
		&cli.StringFlag{Name: "peer-listen", Usage: "hear other chunkservers on `HOST:PORT`", Value: hostPort(defaultPeerPort), EnvVars: env("peer-listen")},
		&cli.StringFlag{
			Name: "advertise", Usage: "tell gateways to connect to `HOST:PORT`",
			DefaultText: "where it listens", EnvVars: env("advertise"),
		},
		&cli.StringFlag{
			Name: "advertise-peer", Usage: "tell other chunkservers to connect to `HOST:PORT`",
			DefaultText: "where it listens", EnvVars: env("advertise-peer"),
		},
		&cli.StringFlag{
			Name: "zone", Usage: "it shares its fate (rack, power) with the others in zone `NAME`: replicas go to different ones",
			Value: hostName(), DefaultText: "the host's name", EnvVars: env("zone"),
		},
		&cli.StringFlag{
			Name: "log-sync", Usage: "sync the log while replicating (overlapped), or before (blocking): `overlapped|blocking`",
			Value: "overlapped", EnvVars: env("log-sync"),
		},
		&cli.StringFlag{Name: "http-listen", Usage: "serve metrics and health on `HOST:PORT`", DefaultText: "off", EnvVars: env("http-listen")},
		&cli.DurationFlag{
			Name: "drain-timeout", Usage: "stop without having handed all leaderships over `D` after the signal",
			Value: defaultDrainTimeout, EnvVars: env("drain-timeout"),
		},
		&cli.StringFlag{
			Name: "reserve", Usage: "take no more changes with less than `SIZE` of the disk free",
			DefaultText: "2 % of the disk, at least 1GiB", EnvVars: env("reserve"),
		},
		// For tests: shows that they notice a store that applies late duplicates.
		&cli.BoolFlag{Name: "unfenced", Hidden: true},
		configFlag(),
	}
}

// advertised is where others find a listener: what the flag says, or else where it
// listens. An address that means "everywhere here" is none that others can use.
func advertised(flag, given string, on net.Addr) (string, error) {
	if given != "" {
		host, port, err := net.SplitHostPort(given)
		if err != nil || host == "" || port == "" || port == "0" {
			return "", usagef("--%s %q: write it as HOST:PORT, such as 10.0.0.2:%d", flag, given, defaultChunkPort)
		}
		return given, nil
	}
	if tcp, ok := on.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return "", usagef("it listens on %s, which tells others nothing: give the address of this machine with --%s", on, flag)
	}
	return on.String(), nil
}

// blockingLog reads --log-sync.
func blockingLog(ctx *cli.Context) (bool, error) {
	switch sync := ctx.String("log-sync"); sync {
	case "overlapped":
		return false, nil
	case "blocking":
		return true, nil
	default:
		return false, usagef("--log-sync %q: use overlapped or blocking", sync)
	}
}

func runChunkserver(ctx *cli.Context) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	return runServer(ctx, func(s *server) error {
		opts, err := chunkserverOptions(s)
		if err != nil {
			return err
		}
		meta, err := remote.DialMeta(ctx.StringSlice("mds"), remote.MetaOptions{})
		if err != nil {
			return fmt.Errorf("--mds: %w", err)
		}
		s.running.push("MDS connection", closeTimeout, func(context.Context) error { return meta.Close() })
		opts.Topology = meta
		if err := listenChunkserver(ctx, &opts); err != nil {
			return err
		}
		chunks, err := chunkserver.Open(disk.OS(), ctx.String("data-dir"), opts)
		if err != nil {
			// Open may have failed before they were its own; twice does no harm.
			opts.Listener.Close()
			opts.PeerListener.Close()
			return err
		}
		started := false
		s.running.push("chunkserver", ctx.Duration("drain-timeout")+closeTimeout, func(context.Context) error {
			if !started {
				return chunks.Close()
			}
			return drainChunkserver(ctx, s.log, chunks)
		})
		// A new chunkserver waits here for an MDS, as long as it takes.
		if err := chunks.Start(s.starting); err != nil {
			return err
		}
		started = true
		s.lines = append(s.lines,
			[2]string{"peers", opts.PeerListener.Addr().String()},
			[2]string{"chunkserver", opts.Listener.Addr().String()})
		return s.startHTTPOn(ctx.String("http-listen"))
	})
}

// chunkserverOptions are the flags, checked; all but what has to be opened.
func chunkserverOptions(s *server) (chunkserver.Options, error) {
	ctx := s.ctx
	o := chunkserver.Options{
		Zone:          ctx.String("zone"),
		Advertise:     ctx.String("advertise"),
		AdvertisePeer: ctx.String("advertise-peer"),
		Unfenced:      ctx.Bool("unfenced"),
		Logger:        s.log,
		Metrics:       s.metrics,
		Fatal:         func(err error) { s.report("chunkserver", err) },
	}
	mds := ctx.StringSlice("mds")
	if len(mds) == 0 {
		return o, usagef("a chunkserver belongs to a cluster: name its MDS with --mds HOST:PORT")
	}
	if err := checkMDSAddresses(mds); err != nil {
		return o, err
	}
	if timeout := ctx.Duration("drain-timeout"); timeout <= 0 {
		return o, usagef("--drain-timeout %s: give a time above zero", timeout)
	}
	var err error
	if o.Log.Blocking, err = blockingLog(ctx); err != nil {
		return o, err
	}
	if text := ctx.String("reserve"); text != "" {
		if o.Reserve, err = parseSize("--reserve", text); err != nil {
			return o, err
		}
	}
	if o.Unfenced {
		s.log.Warn("the fence is off: late duplicates of writes will be applied; this is for tests only")
	}
	return o, nil
}

// listenChunkserver opens both listeners.
func listenChunkserver(ctx *cli.Context, o *chunkserver.Options) (err error) {
	if o.Listener, err = listenTCP(ctx.String("listen")); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if o.PeerListener, err = listenTCP(ctx.String("peer-listen")); err != nil {
		return errors.Join(fmt.Errorf("--peer-listen: %w", err), o.Listener.Close())
	}
	if o.Advertise, err = advertised("advertise", o.Advertise, o.Listener.Addr()); err == nil {
		o.AdvertisePeer, err = advertised("advertise-peer", o.AdvertisePeer, o.PeerListener.Addr())
	}
	if err != nil {
		return errors.Join(err, o.Listener.Close(), o.PeerListener.Close())
	}
	return nil
}

// drainChunkserver hands the leaderships over, as far as time allows, and stops.
func drainChunkserver(ctx *cli.Context, log *slog.Logger, chunks *chunkserver.Server) error {
	drain, cancel := context.WithTimeout(context.Background(), ctx.Duration("drain-timeout"))
	defer cancel()
	err := chunks.Drain(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		// Whoever takes over finds out by itself: this costs time, not data.
		log.Warn("not every leadership was handed over", "error", err)
		return nil
	}
	return err
}
