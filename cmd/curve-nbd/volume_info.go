package main

import (
	"context"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func volumeInfoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show one volume",
		ArgsUsage: "NAME",
		Description: `Shows all there is to know about a volume, the disk space that it takes
included.

   curve-nbd volume info pg-data
   curve-nbd volume info pg-data -o json`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeVolumes,
		Action: func(ctx *cli.Context) error {
			return volumeAndUsage(ctx, func(v backend.VolumeInfo, allocated int64) result {
				view := viewOf(v)
				view.AllocatedBytes = &allocated
				return view
			})
		},
	}
}

func volumeDuCommand() *cli.Command {
	return &cli.Command{
		Name:      "du",
		Usage:     "show the disk space that a volume takes",
		ArgsUsage: "NAME",
		Description: `Shows size and space taken, metadata included. Trimmed data takes none.

   curve-nbd volume du pg-data
   curve-nbd volume du pg-data -o json`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeVolumes,
		Action: func(ctx *cli.Context) error {
			return volumeAndUsage(ctx, func(v backend.VolumeInfo, allocated int64) result {
				return usageView{Name: v.Name, SizeBytes: v.Size, AllocatedBytes: allocated}
			})
		},
	}
}

// usageView is what du shows.
type usageView struct {
	Name           string `json:"name"`
	SizeBytes      int64  `json:"size_bytes"`
	AllocatedBytes int64  `json:"allocated_bytes"`
}

func (u usageView) table(t table.Writer) {
	t.AppendHeader(table.Row{"Name", "Size", "Allocated"})
	t.AppendRow(table.Row{u.Name, sizeText(u.SizeBytes), sizeText(u.AllocatedBytes)})
}

func volumeAndUsage(ctx *cli.Context, view func(backend.VolumeInfo, int64) result) error {
	args, err := arguments(ctx, "NAME")
	if err != nil {
		return err
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		v, err := gw.Volume(deadline, args[0])
		if err != nil {
			return err
		}
		allocated, err := gw.Usage(deadline, args[0])
		if err != nil {
			return err
		}
		return show(ctx, view(v, allocated))
	})
}
