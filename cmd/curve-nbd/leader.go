package main

import (
	"context"
	"fmt"
	"math"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
)

func leaderCommand() *cli.Command {
	return &cli.Command{
		Name:        "leader",
		Usage:       "move the leadership of copysets",
		UsageText:   "curve-nbd leader COMMAND [command options] ...",
		Description: "   curve-nbd leader transfer --copyset 3 --to cs2",
		Subcommands: []*cli.Command{leaderTransferCommand()},
	}
}

func leaderTransferCommand() *cli.Command {
	return &cli.Command{
		Name:  "transfer",
		Usage: "hand the leadership of a copyset over to another chunkserver",
		Description: `Waits until the other one leads. Clients see a pause of some milliseconds, and no
error. Without --to it is whichever follower is most up to date.

   curve-nbd leader transfer --copyset 3 --to cs2
   curve-nbd leader transfer --copyset 3 --mds 10.0.0.1:6700`,
		Flags: append([]cli.Flag{
			&cli.Uint64Flag{Name: "copyset", Usage: "the copyset's number is `ID`; `copyset list` shows them"},
			&cli.StringFlag{Name: "to", Usage: "the new leader is `CHUNKSERVER`: cs2, or 2"},
		}, topologyFlags()...),
		Action: transferLeader,
	}
}

func transferLeader(ctx *cli.Context) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	id := ctx.Uint64("copyset")
	if id == 0 || id > math.MaxUint32 {
		return usagef("--copyset %d: give the number of a copyset; `curve-nbd copyset list` shows them", id)
	}
	var to backend.ServerID
	if ctx.IsSet("to") {
		var err error
		if to, err = parseServer("--to", ctx.String("to")); err != nil {
			return err
		}
	}
	return withTopology(ctx, func(deadline context.Context, client *topologyClient) error {
		info, err := client.findCopyset(deadline, backend.CopysetID(id))
		if err != nil {
			return err
		}
		if to != 0 {
			if err := requirePeer(info, to); err != nil {
				return err
			}
		}
		if err := client.transferLeader(deadline, backend.CopysetID(id), to); err != nil {
			return err
		}
		name := serverName(to)
		if to == 0 {
			name = "another chunkserver"
		}
		fmt.Fprintf(ctx.App.ErrWriter, "copyset %d is led by %s\n", id, name)
		return nil
	})
}

func copysetCommand() *cli.Command {
	return &cli.Command{
		Name:        "copyset",
		Usage:       "look at copysets",
		UsageText:   "curve-nbd copyset COMMAND [command options] ...",
		Description: "   curve-nbd copyset list -o json",
		Subcommands: []*cli.Command{{
			Name:  "list",
			Usage: "list the copysets: who holds them, who leads",
			Description: `A copyset is a group of chunkservers that hold the same chunks; one of them leads.

   curve-nbd copyset list
   curve-nbd copyset list -o json --mds 10.0.0.1:6700`,
			Flags: append([]cli.Flag{outputFlag()}, topologyFlags()...),
			Action: func(ctx *cli.Context) error {
				return showFacts(ctx, func(v clusterView) result { return copysetList(v.Copysets) })
			},
		}},
	}
}

// showFacts shows a part of what the MDS knows.
func showFacts(ctx *cli.Context, part func(clusterView) result) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	addresses, c, err := mdsOf(ctx)
	if err != nil {
		return err
	}
	var members *clusterFile
	if c != nil {
		members = &c.file
	}
	return withTopology(ctx, func(deadline context.Context, client *topologyClient) error {
		facts := gatherFacts(deadline, client, members, addresses)
		if facts.topologyErr != nil {
			return facts.topologyErr
		}
		return show(ctx, part(facts.view()))
	})
}
