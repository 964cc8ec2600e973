package main

import (
	"context"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

func volumeListCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Aliases:   []string{"ls"},
		Usage:     "list volumes",
		ArgsUsage: "[DIRECTORY]",
		Description: `Lists the volumes under a directory, or all.

   curve-nbd volume list
   curve-nbd volume list team -o json
   curve-nbd volume list --recycled`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "recycled", Usage: "list the recycle bin instead"},
			outputFlag(),
		}, clientFlags()...),
		Action: listVolumes,
	}
}

func volumeRecycledCommand() *cli.Command {
	return &cli.Command{
		Name:  "recycled",
		Usage: "list the recycle bin, oldest first",
		Description: `Shows removed volumes whose data is still kept. The same as
volume list --recycled.

   curve-nbd volume recycled
   curve-nbd volume recover pg-data`,
		Flags: append([]cli.Flag{outputFlag()}, clientFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return listRecycled(ctx)
		},
	}
}

func listVolumes(ctx *cli.Context) error {
	if ctx.Bool("recycled") {
		if _, err := arguments(ctx); err != nil {
			return err
		}
		return listRecycled(ctx)
	}
	if ctx.NArg() > 1 {
		_, err := arguments(ctx, "DIRECTORY")
		return err
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		vs, err := gw.Volumes(deadline, ctx.Args().First())
		if err != nil {
			return err
		}
		return show(ctx, viewsOf(vs))
	})
}

func listRecycled(ctx *cli.Context) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		vs, err := gw.Recycled(deadline)
		if err != nil {
			return err
		}
		return show(ctx, recycledList(viewsOf(vs)))
	})
}

// recycledList is the recycle bin: the same JSON as any listing.
type recycledList volumeList

func (list recycledList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Name", "ID", "Size", "Recycled"})
	for _, v := range list {
		t.AppendRow(table.Row{v.Name, v.ID, sizeText(v.SizeBytes), v.RecycledAt})
	}
}
