package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	defaultClusterDir = "./cluster"
	// defaultMDSTimeout is how long an operator's question to the MDS may take.
	defaultMDSTimeout = 10 * time.Second
)

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name:      "cluster",
		Usage:     "run a cluster of real processes on this machine",
		UsageText: "curve-nbd cluster COMMAND [command options] ...",
		Description: `A playground: an MDS and some chunkservers, each a process of its own that goes
on when this command ends, with its data and its log below one directory. On
many machines the same servers are run with curve-nbd mds and curve-nbd
chunkserver.

   curve-nbd cluster up
   curve-nbd serve --mds 127.0.0.1:6700 --nbd-listen unix:./nbd.sock
   curve-nbd cluster status
   curve-nbd cluster stop cs2 --kill     # see that nobody notices
   curve-nbd cluster start cs2
   curve-nbd cluster down`,
		Subcommands: []*cli.Command{
			clusterUpCommand(),
			clusterStatusCommand(),
			clusterStartCommand(),
			clusterStopCommand(),
			clusterDownCommand(),
		},
	}
}

// clusterFlags are what every command takes that works on a cluster directory.
func clusterFlags() []cli.Flag {
	return []cli.Flag{dirFlag(), configFlag()}
}

func dirFlag() cli.Flag {
	return &cli.StringFlag{Name: "dir", Usage: "the cluster's directory is `DIR`", Value: defaultClusterDir, EnvVars: env("dir")}
}

// topologyFlags are what every command takes that asks the MDS about servers.
func topologyFlags() []cli.Flag {
	return []cli.Flag{
		mdsFlag("ask the MDS at `ADDR`,... (HOST:PORT) rather than that of --dir"),
		dirFlag(),
		timeoutFlag("give up when there is no answer after `D`", defaultMDSTimeout),
		configFlag(),
	}
}

func mdsFlag(usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: "mds", Usage: usage, EnvVars: env("mds")}
}

func timeoutFlag(usage string, value time.Duration) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Usage: usage, Value: value, EnvVars: env("timeout")}
}

// withTimeout bounds a command by its --timeout.
func withTimeout(ctx *cli.Context) (context.Context, context.CancelFunc, error) {
	timeout := ctx.Duration("timeout")
	if timeout <= 0 {
		return nil, nil, usagef("--timeout %s: give a time above zero", timeout)
	}
	deadline, cancel := context.WithTimeout(ctx.Context, timeout)
	return deadline, cancel, nil
}

// optionalID returns the arguments of a command that takes one server or none.
func optionalID(ctx *cli.Context) ([]string, error) {
	if ctx.NArg() == 0 {
		return nil, nil
	}
	return arguments(ctx, "ID")
}

// completeMembers offers the ids of a cluster's servers.
func completeMembers(ctx *cli.Context) {
	c, err := readCluster(ctx.String("dir"))
	if err != nil {
		return
	}
	for _, m := range c.file.Members {
		fmt.Fprintln(ctx.App.Writer, m.ID)
	}
}

// mdsOf returns where the metadata is: what --mds says, or else what the
// cluster in --dir says, which is returned too.
func mdsOf(ctx *cli.Context) ([]string, *clusterDir, error) {
	if addresses := ctx.StringSlice("mds"); len(addresses) > 0 {
		return addresses, nil, checkMDSAddresses(addresses)
	}
	c, err := readCluster(ctx.String("dir"))
	if err != nil {
		return nil, nil, err
	}
	return c.file.mdsAddresses(), c, nil
}

// withTopology runs ask with a connection to the MDS, within --timeout.
func withTopology(ctx *cli.Context, ask func(context.Context, *topologyClient) error) error {
	addresses, _, err := mdsOf(ctx)
	if err != nil {
		return err
	}
	client, err := dialTopology(addresses)
	if err != nil {
		return err
	}
	defer client.Close()
	deadline, cancel, err := withTimeout(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return ask(deadline, client)
}

// thisProgram is the path of the binary that runs, for servers to run too.
func thisProgram() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	return program, nil
}

// parseServer reads the name of a chunkserver: cs2, or 2.
func parseServer(what, text string) (backend.ServerID, error) {
	var id uint32
	for _, format := range []string{"cs%d", "%d"} {
		if _, err := fmt.Sscanf(text, format, &id); err == nil && id > 0 &&
			(fmt.Sprint(id) == text || serverName(backend.ServerID(id)) == text) {
			return backend.ServerID(id), nil
		}
	}
	return 0, usagef("%s %q: give a chunkserver as cs2 or 2", what, text)
}
