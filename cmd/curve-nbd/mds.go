package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/remote"
)

const (
	defaultMDSDir   = "./mds"
	defaultLeaseTTL = 10e9 // 10 s
	metaFileName    = "meta.db"
)

func mdsCommand() *cli.Command {
	return &cli.Command{
		Name:  "mds",
		Usage: "run the metadata server of a cluster",
		Description: `Keeps names, sizes, who has which volume open, and which chunkservers hold what,
until SIGTERM. Volumes that are open go on without it.

   curve-nbd mds --data-dir /var/lib/curve-mds --listen 10.0.0.1:6700
   curve-nbd mds --listen 127.0.0.1:0 --min-servers 1 --replicas 1   # a scratch one

Copysets are made as soon as --min-servers chunkservers have joined. Like NBD, the
protocol has neither encryption nor passwords: keep it to a network you trust.`,
		Flags:  append(mdsFlags(), logFlags()...),
		Action: runMDS,
	}
}

func mdsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "keep the metadata in `DIR`", Value: defaultMDSDir, EnvVars: env("data-dir")},
		&cli.StringFlag{Name: "listen", Usage: "serve on `HOST:PORT`", Value: hostPort(defaultBasePort), EnvVars: env("listen")},
		&cli.IntFlag{Name: "copysets", Usage: "make `N` copysets in all; 0 for two per chunkserver", EnvVars: env("copysets")},
		&cli.IntFlag{Name: "replicas", Usage: "keep `N` replicas of each chunk", Value: defaultReplicas, EnvVars: env("replicas")},
		&cli.IntFlag{Name: "min-servers", Usage: "make copysets once `N` chunkservers have joined", Value: defaultChunkservers, EnvVars: env("min-servers")},
		&cli.DurationFlag{Name: "lease-ttl", Usage: "let others have the volumes of a gateway that was silent for `D`", Value: defaultLeaseTTL, EnvVars: env("lease-ttl")},
		&cli.DurationFlag{Name: "offline-after", Usage: "make the replicas of a chunkserver again elsewhere when it was silent for `D`", DefaultText: "5m", EnvVars: env("offline-after")},
		&cli.DurationFlag{
			Name: "recycle-keep", Usage: "keep removed volumes for `D`; 0 frees them at once",
			Value: mds.DefaultRecycleKeep, EnvVars: env("recycle-keep"),
		},
		&cli.StringFlag{Name: "http-listen", Usage: "serve metrics and health on `HOST:PORT`", DefaultText: "off", EnvVars: env("http-listen")},
		configFlag(),
	}
}

func mdsOptions(ctx *cli.Context) (mds.Options, error) {
	o := mds.Options{LeaseTTL: ctx.Duration("lease-ttl")}
	o.Cluster = &mds.ClusterOptions{
		OfflineAfter: ctx.Duration("offline-after"),
		Auto: mds.AutoCopysets{
			Count: ctx.Int("copysets"), Replicas: ctx.Int("replicas"), MinServers: ctx.Int("min-servers"), PerServer: copysetsPerServer,
		},
	}
	for flag, value := range map[string]int{"replicas": ctx.Int("replicas"), "min-servers": ctx.Int("min-servers")} {
		if value < 1 {
			return o, usagef("--%s %d: give 1 or more", flag, value)
		}
	}
	switch n := ctx.Int("copysets"); {
	case n < 0 || n > maxCopysets:
		return o, usagef("--copysets %d: give 1 to %d, or 0 for two per chunkserver", n, maxCopysets)
	case ctx.Int("min-servers") < ctx.Int("replicas"):
		return o, usagef("--min-servers %d is below --replicas %d: each replica needs a chunkserver of its own", ctx.Int("min-servers"), ctx.Int("replicas"))
	case o.LeaseTTL <= 0:
		return o, usagef("--lease-ttl %s: give a time above zero", o.LeaseTTL)
	case o.Cluster.OfflineAfter < 0 || ctx.IsSet("offline-after") && o.Cluster.OfflineAfter == 0:
		return o, usagef("--offline-after %s: give a time above zero", o.Cluster.OfflineAfter)
	case ctx.Duration("recycle-keep") < 0:
		return o, usagef("--recycle-keep %s: give 0 or more", ctx.Duration("recycle-keep"))
	}
	return o, nil
}

func runMDS(ctx *cli.Context) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	return runServer(ctx, func(s *server) error {
		opts, err := mdsOptions(ctx)
		if err != nil {
			return err
		}
		opts.Log = s.log
		m, err := openMDS(ctx.String("data-dir"), opts)
		if err != nil {
			return err
		}
		s.running.push("metadata", closeTimeout, func(context.Context) error { return m.Close() })
		purger := s.startPurger(m)
		on, err := listenTCP(ctx.String("listen"))
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		if !isLoopback(on.Addr()) {
			s.log.Warn("the metadata is open to the network without encryption or passwords", "address", on.Addr().String())
		}
		server := mds.NewServer(m, mds.ServerOptions{Purger: purger})
		s.lines = append(s.lines, [2]string{"mds", on.Addr().String()})
		s.run("mds", on, server.Serve, server.Shutdown)
		return s.startHTTPOn(ctx.String("http-listen"))
	})
}

// openMDS opens the metadata in dir, making it if there is nothing there.
func openMDS(dir string, opts mds.Options) (*mds.MDS, error) {
	if err := claimDir(dir, metaFileName); err != nil {
		return nil, err
	}
	store, err := mds.OpenBolt(filepath.Join(dir, metaFileName))
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	m, err := mds.New(store, opts)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, errors.Join(err, store.Close()))
	}
	return m, nil
}

// claimDir makes a directory, or takes one that holds no more than the named
// files. backend.ErrInvalid.
func claimDir(dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o700); errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("data directory %s: %w: it is a file: give a directory", dir, backend.ErrInvalid)
	} else if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "lost+found" && !slices.Contains(names, name) {
			return fmt.Errorf("data directory %s: %w: it holds %s, which is not the MDS's; give an empty or new directory", dir, backend.ErrInvalid, name)
		}
	}
	// The name of a new directory is durable before anything in it is.
	parent, err := os.Open(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return fmt.Errorf("data directory %s: %w", dir, err)
	}
	return nil
}

// startPurger frees what is due in the recycle bin.
func (s *server) startPurger(m *mds.MDS) *mds.Purger {
	chunks := remote.NewChunks(localResolver{m}, remote.Options{Client: "mds " + hostName(), Logger: s.log})
	keep := s.ctx.Duration("recycle-keep")
	if keep == 0 {
		keep = mds.PurgeAtOnce
	}
	purger := mds.NewPurger(m, mds.PurgeOptions{Keep: keep, Delete: chunks.Delete, Log: s.log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { purger.Run(ctx) })
	s.running.push("purger", closeTimeout, func(context.Context) error {
		cancel()
		running.Wait()
		return chunks.Close()
	})
	return purger
}

// localResolver finds chunkservers in the MDS of this process.
type localResolver struct{ *mds.MDS }

// Server implements remote.Resolver.
func (r localResolver) Server(ctx context.Context, id backend.ServerID) (backend.ServerInfo, error) {
	servers, err := r.Servers(ctx)
	if err != nil {
		return backend.ServerInfo{}, err
	}
	for _, s := range servers {
		if s.ID == id {
			return s, nil
		}
	}
	return backend.ServerInfo{}, fmt.Errorf("%w: no %v", backend.ErrNotFound, id)
}
