package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"
)

func chunkserverListCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list the chunkservers of a cluster",
		Description: `   curve-nbd chunkserver list
   curve-nbd chunkserver list -o json --mds 10.0.0.1:6700`,
		Flags: append([]cli.Flag{outputFlag()}, topologyFlags()...),
		Action: func(ctx *cli.Context) error {
			return showFacts(ctx, func(v clusterView) result { return chunkserverList(v.Chunkservers) })
		},
	}
}

func chunkserverRetireCommand() *cli.Command {
	return &cli.Command{
		Name:      "retire",
		Usage:     "move everything away from a chunkserver",
		ArgsUsage: "CHUNKSERVER",
		Description: `The replicas that it holds are made again on others, one after the other. When it
holds none (chunkserver list) it can be stopped for good. There is no way back.

   curve-nbd chunkserver retire cs2
   curve-nbd chunkserver list`,
		Flags: topologyFlags(),
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "CHUNKSERVER")
			if err != nil {
				return err
			}
			id, err := parseServer("CHUNKSERVER", args[0])
			if err != nil {
				return err
			}
			return withTopology(ctx, func(deadline context.Context, client *topologyClient) error {
				if err := client.Retire(deadline, id); err != nil {
					return err
				}
				fmt.Fprintf(ctx.App.ErrWriter, "%s is retiring: `curve-nbd chunkserver list` shows how many copysets it still holds\n", serverName(id))
				return nil
			})
		},
	}
}
