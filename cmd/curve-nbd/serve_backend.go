package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
	"github.com/opencurve/curve-nbd/backend/remote"
)

// startPatience is how long a gateway waits for an MDS when it starts.
const startPatience = 5 * time.Second

// store is what serve needs of a backend.
type store interface {
	Meta() backend.Meta
	Chunks() backend.Chunks
	// Dir is where the data is, "" if it is not in a directory here.
	Dir() string
	Close() error
}

// legator is a store that makes it quick for the next process to open it.
type legator interface {
	// Settle leaves little for Close to do, and Legacy is for the next, after Close.
	Settle(context.Context) error
	Legacy() []byte
}

// checkBackend refuses flags of different backends together.
func checkBackend(ctx *cli.Context) error {
	mds := ctx.StringSlice("mds")
	switch {
	case len(mds) == 0 && (ctx.Bool("take-over") || ctx.IsSet("owner")):
		return usagef("--owner and --take-over are for a cluster: give --mds too; a data directory has one gateway anyway")
	case len(mds) == 0:
		return nil
	case ctx.Bool("memory"):
		return usagef("--mds and --memory name two places for the volumes: give one")
	case ctx.IsSet("data-dir"):
		return usagef("--mds and --data-dir name two places for the volumes: give one (the second may be %s or a line of the configuration file)", env("data-dir")[0])
	}
	return checkMDSAddresses(mds)
}

// openBackend opens what the flags name. legacy is what its last user has left, if it is
// known.
func openBackend(ctx *cli.Context, log *slog.Logger, metrics prometheus.Registerer, legacy []byte) (store, error) {
	if mds := ctx.StringSlice("mds"); len(mds) > 0 {
		return connectCluster(ctx.Context, mds, gatewayOwner(ctx), log)
	}
	opts := embedded.Options{Log: log, Metrics: metrics, RecycleKeep: ctx.Duration("recycle-keep"), Legacy: legacy}
	if opts.RecycleKeep == 0 {
		opts.RecycleKeep = embedded.PurgeAtOnce
	}
	if ctx.Bool("memory") {
		log.Warn("volumes are in RAM and will be lost at exit")
		return embedded.OpenMemory(opts)
	}
	return embedded.Open(ctx.String("data-dir"), opts)
}

// gatewayOwner names this gateway to others that want its volumes. The same
// gateway, started again after a crash, gets its own volumes back at once, so by
// default the name is what no other gateway that runs can have: the control socket
// on this machine. A data directory has no others; there the default is the
// gateway's.
func gatewayOwner(ctx *cli.Context) string {
	if len(ctx.StringSlice("mds")) == 0 {
		return ""
	}
	if owner := ctx.String("owner"); owner != "" {
		return owner
	}
	control := ctx.String("control")
	if path, err := filepath.Abs(control[min(len(control), len("unix:")):]); err == nil {
		control = path
	}
	return fmt.Sprintf("gateway %s %s", hostName(), control)
}

// clusterStore is volumes on chunkservers.
type clusterStore struct {
	meta   *remote.Meta
	chunks *remote.Chunks
}

// connectCluster returns the cluster of the MDS at addresses, once one has
// answered. backend.ErrUnreachable.
func connectCluster(ctx context.Context, addresses []string, owner string, log *slog.Logger) (store, error) {
	meta, err := remote.DialMeta(addresses, remote.MetaOptions{})
	if err != nil {
		return nil, fmt.Errorf("--mds: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if _, err := meta.Servers(ctx); err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	return &clusterStore{meta: meta, chunks: remote.NewChunks(meta, remote.Options{Client: owner, Logger: log})}, nil
}

func (s *clusterStore) Meta() backend.Meta     { return s.meta }
func (s *clusterStore) Chunks() backend.Chunks { return s.chunks }
func (s *clusterStore) Dir() string            { return "" }
func (s *clusterStore) Close() error           { return errors.Join(s.chunks.Close(), s.meta.Close()) }
