package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/iscsi"
)

func lunCommand() *cli.Command {
	return &cli.Command{
		Name:      "lun",
		Usage:     "offer volumes as logical units of iSCSI targets",
		UsageText: "curve-nbd lun COMMAND [command options] ...",
		Description: `A logical unit is a volume under a number of a target. A volume may be a unit of
several targets; they, and its NBD clients, then write to the same data.

   curve-nbd lun add iqn.2026-11.io.curve:vm1 pg-data
   curve-nbd lun list`,
		Subcommands: []*cli.Command{
			lunAddCommand(),
			lunListCommand(),
			lunRmCommand(),
			lunResizeCommand(),
		},
	}
}

const (
	lunFlag      = "lun"
	physicalFlag = "physical-block"
)

func lunAddCommand() *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "make a volume a unit of a target",
		ArgsUsage: "IQN VOLUME",
		Description: `Adds a volume under the lowest free number, or the one of --lun. The unit stays with
this very volume: another one that is made later under its name is not taken for it.

   curve-nbd lun add iqn.2026-11.io.curve:vm1 pg-data
   curve-nbd lun add iqn.2026-11.io.curve:vm1 images/debian --lun 10 --read-only
   curve-nbd lun add iqn.2026-11.io.curve:vm1 old-guest --physical-block 512

Initiators are told that a physical block has 4096 bytes, though they may write the
512 of a volume with such blocks (512e); --physical-block 512 is for those that take
no such unit. A --removable unit is a drive: an initiator may eject its medium, then
nobody can read or write it through iSCSI until it is loaded again, the unit is closed
(its last initiator logs out) or another gateway serves it. All units of a volume are
alike in both.`,
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: lunFlag, Usage: "give it number `N`", DefaultText: "the lowest that is free"},
			&cli.BoolFlag{Name: "read-only", Usage: "refuse writes"},
			&cli.BoolFlag{Name: "removable", Usage: "let initiators eject and load the volume, as a medium"},
			&cli.StringFlag{Name: physicalFlag, Usage: "tell initiators of physical blocks of 512 or 4096 `BYTES`", DefaultText: "4096"},
			outputFlag(),
		}, clientFlags()...),
		BashComplete: func(ctx *cli.Context) {
			completeTargets(ctx)
			if ctx.NArg() == 1 {
				completeVolumes(ctx)
			}
		},
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN", "VOLUME")
			if err != nil {
				return err
			}
			req := control.UnitRequest{Volume: args[1], Number: control.AnyNumber, UnitOptions: control.UnitOptions{
				ReadOnly: ctx.Bool("read-only"), Removable: ctx.Bool("removable"),
			}}
			if ctx.IsSet(physicalFlag) {
				if req.PhysicalBlock, err = parseSize(physicalFlag, ctx.String(physicalFlag)); err != nil {
					return err
				}
			}
			if ctx.IsSet(lunFlag) {
				if req.Number = ctx.Int(lunFlag); req.Number < 0 || req.Number > iscsi.MaxLUN {
					return usagef("--lun %d: give a number from 0 to %d", req.Number, iscsi.MaxLUN)
				}
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				u, err := gw.AddUnit(deadline, args[0], req)
				if err != nil {
					return err
				}
				list := unitList{unitViewOf(args[0], u)}
				if err := addSizes(deadline, gw, list); err != nil {
					return err
				}
				return show(ctx, list)
			})
		},
	}
}

func lunListCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Aliases:   []string{"ls"},
		Usage:     "list units",
		ArgsUsage: "[IQN]",
		Description: `Lists the units of a target, or of all. Where a volume is gone,
recover it or remove the unit.

   curve-nbd lun list
   curve-nbd lun list iqn.2026-11.io.curve:vm1 -o json`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			if ctx.NArg() > 1 {
				_, err := arguments(ctx, "IQN")
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				found, err := someTargets(deadline, gw, ctx.Args().First())
				if err != nil {
					return err
				}
				list := unitList{}
				for _, t := range found {
					for _, u := range t.Units {
						list = append(list, unitViewOf(t.Name, u))
					}
				}
				if err := addSizes(deadline, gw, list); err != nil {
					return err
				}
				return show(ctx, list)
			})
		},
	}
}

// someTargets is the target of that name, or all for "".
func someTargets(ctx context.Context, gw *control.Client, name string) ([]control.Target, error) {
	if name == "" {
		return gw.Targets(ctx)
	}
	t, err := gw.Target(ctx, name)
	return []control.Target{t}, err
}

func lunRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "take a unit off a target",
		ArgsUsage: "IQN N|VOLUME",
		Description: `Removes the unit of that number or volume, from the access list too; the volume
stays. Refused (exit code 4) while initiators that see it are logged in at this
gateway, unless with --force; those at other gateways are not known here and lose it.

   curve-nbd lun rm iqn.2026-11.io.curve:vm1 0
   curve-nbd lun rm iqn.2026-11.io.curve:vm1 pg-data`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "take it away from who is logged in"},
		}, clientFlags()...),
		BashComplete: completeUnits,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN", "N|VOLUME")
			if err != nil {
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				gone, err := gw.RemoveUnit(deadline, args[0], args[1], ctx.Bool("force"))
				if err != nil {
					return sayForce(err)
				}
				fmt.Fprintf(ctx.App.ErrWriter, "removed unit %d of %s; volume %s stays\n", gone.Number, args[0], gone.Volume)
				return nil
			})
		},
	}
}

// completeUnits offers targets, and then the units of the one that is given.
func completeUnits(ctx *cli.Context) {
	completeTargets(ctx)
	if ctx.NArg() != 1 {
		return
	}
	completeFrom(ctx, func(deadline context.Context, gw *control.Client) (refs []string) {
		t, err := gw.Target(deadline, ctx.Args().First())
		if err != nil {
			return nil
		}
		for _, u := range t.Units {
			refs = append(refs, strconv.Itoa(u.Number), u.Volume)
		}
		return refs
	})
}

// sayForce names the flag for what is in use.
func sayForce(err error) error {
	if errors.Is(err, backend.ErrBusy) {
		return fmt.Errorf("%w (--force)", err)
	}
	return err
}

func lunResizeCommand() *cli.Command {
	return &cli.Command{
		Name:      "resize",
		Usage:     "make a unit's volume larger",
		ArgsUsage: "IQN N|VOLUME SIZE",
		Description: `Sets the size of the volume behind a unit, in use or not, as volume resize does.
Growing only: shrinking would cut data off. Initiators are told with their next
command (a unit attention) and see the new size when they look again: Linux after
iscsiadm -m session --rescan.

   curve-nbd lun resize iqn.2026-11.io.curve:vm1 0 20G
   curve-nbd lun resize iqn.2026-11.io.curve:vm1 pg-data 20G`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeUnits,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN", "N|VOLUME", "SIZE")
			if err != nil {
				return err
			}
			size, err := parseSize("size", args[2])
			if err != nil {
				return err
			}
			return showVolume(ctx, func(deadline context.Context, gw *control.Client) (backend.VolumeInfo, error) {
				t, err := gw.Target(deadline, args[0])
				if err != nil {
					return backend.VolumeInfo{}, err
				}
				u, ok := findUnit(t, args[1])
				if !ok {
					return backend.VolumeInfo{}, fmt.Errorf("%w: target %s has no unit %q: see lun list", backend.ErrNotFound, t.Name, args[1])
				}
				return resizeUnit(deadline, gw, u, size)
			})
		},
	}
}

// findUnit is the unit of a number or, if there is none, of a volume.
func findUnit(t control.Target, ref string) (control.Unit, bool) {
	ref = strings.TrimPrefix(ref, "/")
	for _, is := range []func(control.Unit) bool{
		func(u control.Unit) bool { return strconv.Itoa(u.Number) == ref },
		func(u control.Unit) bool { return u.Volume == ref },
	} {
		if i := slices.IndexFunc(t.Units, is); i >= 0 {
			return t.Units[i], true
		}
	}
	return control.Unit{}, false
}

// resizeUnit resizes the unit's volume, and not another one of that name.
func resizeUnit(ctx context.Context, gw *control.Client, u control.Unit, size int64) (backend.VolumeInfo, error) {
	v, err := gw.Volume(ctx, u.Volume)
	if err != nil {
		return v, err
	}
	if v.ID != u.VolumeID {
		return v, fmt.Errorf("%w: the volume of unit %d was removed, and %q is another one since", backend.ErrNotFound, u.Number, u.Volume)
	}
	return gw.ResizeVolume(ctx, u.Volume, size)
}

// unitView is a unit as JSON shows it.
type unitView struct {
	Target        string `json:"target"`
	Number        int    `json:"lun"`
	Volume        string `json:"volume"`
	VolumeID      uint64 `json:"volume_id"`
	ReadOnly      bool   `json:"read_only"`
	Removable     bool   `json:"removable"`
	PhysicalBlock int64  `json:"physical_block_bytes"`
	// SizeBytes is 0 where the volume is gone.
	SizeBytes int64 `json:"size_bytes"`
}

func unitViewOf(target string, u control.Unit) unitView {
	return unitView{
		Target: strings.ToLower(target), Number: u.Number, Volume: u.Volume, VolumeID: uint64(u.VolumeID),
		ReadOnly: u.ReadOnly, Removable: u.Removable, PhysicalBlock: u.PhysicalBlock,
	}
}

// unitList is a listing; as JSON an array, [] when there is none.
type unitList []unitView

// addSizes looks up the volumes of units.
func addSizes(ctx context.Context, gw *control.Client, lists ...[]unitView) error {
	if !slices.ContainsFunc(lists, func(list []unitView) bool { return len(list) > 0 }) {
		return nil
	}
	found, err := gw.Volumes(ctx, "")
	if err != nil {
		return err
	}
	byID := make(map[uint64]backend.VolumeInfo, len(found))
	for _, v := range found {
		byID[uint64(v.ID)] = v
	}
	for _, list := range lists {
		for i := range list {
			if v, ok := byID[list[i].VolumeID]; ok && v.Name == list[i].Volume {
				list[i].SizeBytes = v.Size
			}
		}
	}
	return nil
}

func (u unitView) sizeText() string {
	if u.SizeBytes == 0 {
		return "volume is gone"
	}
	return sizeText(u.SizeBytes)
}

func (list unitList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Target", "LUN", "Volume", "Size", "Physical block", "Access"})
	for _, u := range list {
		access := "read-write"
		if u.ReadOnly {
			access = "read-only"
		}
		if u.Removable {
			access += ", removable"
		}
		t.AppendRow(table.Row{u.Target, u.Number, u.Volume, u.sizeText(), u.PhysicalBlock, access})
	}
}
