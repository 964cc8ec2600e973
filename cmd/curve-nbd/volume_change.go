package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func volumeResizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "resize",
		Usage:     "make a volume larger",
		ArgsUsage: "NAME SIZE",
		Description: `Sets the size, open or not. Growing only: shrinking would cut data off.

   curve-nbd volume resize pg-data 20G
   curve-nbd volume resize pg-data --size 20G`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "size", Aliases: []string{"s"}, Usage: "the new `SIZE`, in place of the argument"},
			outputFlag(),
		}, clientFlags()...),
		BashComplete: completeVolumes,
		Action:       resizeVolume,
	}
}

func resizeVolume(ctx *cli.Context) error {
	names := []string{"NAME", "SIZE"}
	if ctx.IsSet("size") {
		names = names[:1]
	}
	args, err := arguments(ctx, names...)
	if err != nil {
		return err
	}
	text := ctx.String("size")
	if len(args) == 2 {
		text = args[1]
	}
	size, err := parseSize("size", text)
	if err != nil {
		return err
	}
	return showVolume(ctx, func(deadline context.Context, gw *control.Client) (backend.VolumeInfo, error) {
		return gw.ResizeVolume(deadline, args[0], size)
	})
}

func volumeRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove a volume",
		ArgsUsage: "NAME",
		Description: `Moves a volume to the recycle bin: its name is free at once, its data is
kept for a while. Refused (exit code 4) while a client has it open, or while it is a
unit of an iSCSI target.

   curve-nbd volume rm pg-data
   curve-nbd volume recover pg-data      # changed my mind
   curve-nbd volume rm --purge pg-data   # free the space now, for good`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "purge", Usage: "free the data at once; there is no way back"},
			outputFlag(),
		}, clientFlags()...),
		BashComplete: completeVolumes,
		Action:       removeVolume,
	}
}

func removeVolume(ctx *cli.Context) error {
	args, err := arguments(ctx, "NAME")
	if err != nil {
		return err
	}
	purge := ctx.Bool("purge")
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		v, err := gw.RemoveVolume(deadline, args[0], purge)
		if err != nil {
			return err
		}
		if purge {
			fmt.Fprintf(ctx.App.ErrWriter, "removed %s for good\n", v.Name)
		} else {
			fmt.Fprintf(ctx.App.ErrWriter, "moved %s to the recycle bin; `%s volume recover %d` brings it back\n", v.Name, ctx.App.Name, v.ID)
		}
		// For people the line above says it all.
		if ctx.String("output") == "table" {
			return nil
		}
		return show(ctx, viewOf(v))
	})
}

func volumeRecoverCommand() *cli.Command {
	return &cli.Command{
		Name:      "recover",
		Usage:     "bring a volume back from the recycle bin",
		ArgsUsage: "NAME|ID [NEW-NAME]",
		Description: `Brings back the volume with this id, or the one last removed under this
name; under NEW-NAME if its old name is taken.

   curve-nbd volume recycled
   curve-nbd volume recover pg-data
   curve-nbd volume recover 12 pg-data-old`,
		Flags:  append([]cli.Flag{outputFlag()}, clientFlags()...),
		Action: recoverVolume,
	}
}

func recoverVolume(ctx *cli.Context) error {
	names := []string{"NAME|ID", "NEW-NAME"}
	if ctx.NArg() < 2 {
		names = names[:1]
	}
	args, err := arguments(ctx, names...)
	if err != nil {
		return err
	}
	newName := ""
	if len(args) == 2 {
		newName = args[1]
	}
	return showVolume(ctx, func(deadline context.Context, gw *control.Client) (backend.VolumeInfo, error) {
		return gw.RecoverVolume(deadline, args[0], newName)
	})
}
