package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func clusterStatusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the servers and copysets of a cluster",
		Description: `Shows what runs, who leads which copyset, how far the replicas are, and the disk
space taken. Exit code 7, and reasons, when a server is down or a copyset has no
leader. Without an MDS it shows what this machine knows by itself.

   curve-nbd cluster status
   curve-nbd cluster status -o json
   curve-nbd cluster status --mds 10.0.0.1:6700   # a cluster on other machines`,
		Flags: append([]cli.Flag{outputFlag()}, topologyFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return clusterStatus(ctx)
		},
	}
}

func clusterStatus(ctx *cli.Context) error {
	addresses, c, err := mdsOf(ctx)
	if err != nil {
		return err
	}
	client, err := dialTopology(addresses)
	if err != nil {
		return err
	}
	defer client.Close()
	var members *clusterFile
	if c != nil {
		members = &c.file
	}
	deadline, cancel, err := withTimeout(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	facts := gatherFacts(deadline, client, members, addresses)
	if members == nil && facts.topologyErr != nil {
		return facts.topologyErr // nothing is known at all
	}
	v := facts.view()
	if err := show(ctx, v); err != nil {
		return err
	}
	if len(v.Reasons) > 0 {
		return fmt.Errorf("%w: %s", errDegraded, strings.Join(v.Reasons, "; "))
	}
	return nil
}

func clusterStartCommand() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "start one server, or all that do not run",
		ArgsUsage: "[ID]",
		Description: `Starts servers of a cluster that is there, and waits until they listen.

   curve-nbd cluster start cs2
   curve-nbd cluster start`,
		Flags: append([]cli.Flag{
			timeoutFlag("give up when a server is not ready after `D`", defaultUpTimeout),
		}, clusterFlags()...),
		BashComplete: completeMembers,
		Action:       clusterStart,
	}
}

func clusterStart(ctx *cli.Context) (err error) {
	ids, err := optionalID(ctx)
	if err != nil {
		return err
	}
	program, err := thisProgram()
	if err != nil {
		return err
	}
	deadline, cancel, err := withTimeout(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	c, err := openCluster(deadline, ctx.String("dir"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	starter := &clusterStarter{clusterDir: c, program: program, notes: ctx.App.ErrWriter}
	return starter.startAll(deadline, ids...)
}
