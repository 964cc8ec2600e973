package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/nbd/device"
)

func mapCommand() *cli.Command {
	return &cli.Command{
		Name:      "map",
		Usage:     "make a block device of a volume",
		ArgsUsage: "VOLUME | --all",
		Description: `Has the gateway attach a volume to the kernel as /dev/nbdN, and prints the
device, alone on stdout, once it is usable. Where udev has the rule that comes with
curve-nbd, /dev/curve/VOLUME is another name of it, and /dev/curve/VOLUME-part1 of
its first partition. It stays until unmap: while the gateway is down its requests
wait, and a gateway that starts again takes it up.
When no gateway runs on the control socket, one is started in the background, with
the settings of the environment (CURVE_DATA_DIR, CURVE_MDS, ...) and of the
configuration file.

   DEV=$(curve-nbd map pg-data)
   mkfs.ext4 $DEV && mount $DEV /mnt
   curve-nbd map pg-data --device /dev/nbd3 --connections 4
   curve-nbd map pg-data --boot   # and note it in the table of what boots
   curve-nbd map --all            # all of that table, as at boot

With --try-ioctl this works on kernels older than Linux 4.12 and in containers with
a network of their own, too, where the driver's netlink interface is not to be seen.
What is attached by ioctl goes with its gateway, as list-mapped says: nothing waits
for the next one, "serve --replace" is refused, and --timeout has no meaning.

Curve's spelling cbd:pool//pg-data_user_ names the volume pg-data. Exit code 5
when the volume is mapped already, 4 when the device is taken or the volume is
open elsewhere.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "device", Usage: "take `/dev/nbdN`, rather than any that is free"},
			&cli.BoolFlag{Name: "read-only", Usage: "refuse writes"},
			&cli.IntFlag{Name: "connections", Usage: "`N` connections between kernel and gateway", Value: device.DefaultConnections},
			&cli.DurationFlag{Name: "timeout", Usage: "send a request again when its connection has not answered for `D`", Value: device.DefaultTimeout},
			&cli.DurationFlag{
				Name: "reattach-timeout", Usage: "fail requests that no gateway has answered for `D`",
				Value: device.DefaultReattach, DefaultText: "a year",
			},
			&cli.BoolFlag{Name: "boot", Usage: "note the device in the table, for map --all"},
			&cli.BoolFlag{Name: "all", Usage: "map what the table has and is not mapped yet"},
			&cli.DurationFlag{Name: "retry", Usage: "with --all, go on for `D` with what may work a moment later", DefaultText: "0"},
			tabFlag(),
			&cli.BoolFlag{Name: "no-start", Usage: "do not start a gateway when none runs"},
			&cli.BoolFlag{Name: "try-ioctl", Usage: "where the kernel shows no netlink interface for nbd, attach by ioctl"},
			&cli.BoolFlag{Name: "no-exclusive", Usage: "allow a volume more than one device"},
			&cli.StringFlag{Name: "nbds_max", Aliases: []string{"nbds-max"}, Usage: "have the nbd module make `N` devices, if it is not loaded yet"},
			&cli.StringFlag{Name: "max_part", Aliases: []string{"max-part"}, Usage: "have the nbd module allow `N` partitions, if it is not loaded yet"},
		}, clientFlags()...),
		BashComplete: completeVolumes,
		Action:       mapVolume,
	}
}

func tabFlag() cli.Flag {
	return &cli.StringFlag{Name: "tab", Usage: "the table of what is mapped at boot is `FILE`", Value: defaultTab, EnvVars: env("tab")}
}

func mapVolume(ctx *cli.Context) error {
	if ctx.Bool("all") {
		if _, err := arguments(ctx); err != nil {
			return err
		}
		return mapAll(ctx)
	}
	args, err := arguments(ctx, "VOLUME")
	if err != nil {
		return err
	}
	name, err := volumeName(args[0])
	if err != nil {
		return err
	}
	for _, flag := range []string{"timeout", "reattach-timeout"} {
		if d := ctx.Duration(flag); d <= 0 || d > device.MaxReattach {
			return usagef("--%s %v: give more than 0, at most %v", flag, d, device.MaxReattach)
		}
	}
	if ctx.Int("connections") < 1 {
		return usagef("--connections %d: give 1 or more", ctx.Int("connections"))
	}
	if !ctx.Bool("no-start") {
		if err := ensureGateway(ctx); err != nil {
			return err
		}
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		d, err := gw.MapVolume(deadline, control.MapRequest{
			Volume: name, Device: ctx.String("device"), ReadOnly: ctx.Bool("read-only"), Connections: ctx.Int("connections"),
			Timeout: ctx.Duration("timeout"), Reattach: ctx.Duration("reattach-timeout"), Shared: ctx.Bool("no-exclusive"),
			MaxDevices: ctx.String("nbds_max"), MaxPartitions: ctx.String("max_part"), TryIoctl: ctx.Bool("try-ioctl"),
		})
		if err != nil {
			return err
		}
		if ctx.Bool("boot") {
			entry := lineOf(d, ctx.Bool("no-exclusive"), ctx.Bool("try-ioctl"))
			err = editTab(ctx.String("tab"), func(t *curvetab) {
				t.remove(func(e tabLine) bool { return e.device == d.Path })
				t.lines = append(t.lines, entry)
			})
			if err != nil {
				err = fmt.Errorf("%s is mapped to %s, but will not be at boot: %w", d.Volume, d.Path, err)
			}
		}
		awaitUdev(deadline, deviceLink(d.Volume))
		_, printErr := fmt.Fprintln(ctx.App.Writer, d.Path)
		return errors.Join(err, printErr)
	})
}

// volumeName takes a volume's name, or Curve's spelling of it, cbd:POOL//PATH_USER_
// with perhaps :CONFIG behind: pools, users and client configurations mean nothing
// here.
func volumeName(text string) (string, error) {
	rest, ok := strings.CutPrefix(text, "cbd:")
	if !ok {
		return text, nil
	}
	rest, _, _ = strings.Cut(rest, ":")
	_, path, ok := strings.Cut(rest, "//")
	path, suffixed := strings.CutSuffix(path, "_")
	user := strings.LastIndex(path, "_")
	if !ok || !suffixed || user <= 0 || user == len(path)-1 {
		return "", usagef("volume %q: write it as NAME, or as cbd:POOL//NAME_USER_", text)
	}
	return path[:user], nil
}

func unmapCommand() *cli.Command {
	return &cli.Command{
		Name:      "unmap",
		Usage:     "take the block device of a volume down",
		ArgsUsage: "DEVICE|VOLUME | --all",
		Description: `Writes the kernel's cache of the device back, disconnects it, and returns when
it is gone. Refused with exit code 4, saying by whom, while it is in use: mounts
of it or of its partitions, swap, device mapper, md, processes that have it open.

   curve-nbd unmap /dev/nbd0
   curve-nbd unmap pg-data
   curve-nbd unmap --force pg-data   # though in use: what its users do fails
   curve-nbd unmap --unmount pg-data # after umount, wherever it is mounted
   curve-nbd unmap --all             # as at shutdown: the table of what boots stays

What is unmapped by name leaves the table of what is mapped at boot.`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "unmap every device of the gateway"},
			tabFlag(),
			&cli.BoolFlag{Name: "unmount", Usage: "unmount the file systems on it first, and wait for who uses them"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "disconnect it though it is in use, and lose what is not written back"},
			&cli.BoolFlag{Name: "missing-ok", Usage: "succeed when there is nothing to unmap"},
		}, clientFlags()...),
		Action: unmapDevice,
	}
}

func unmapDevice(ctx *cli.Context) error {
	if ctx.Bool("all") {
		if _, err := arguments(ctx); err != nil {
			return err
		}
		return unmapAll(ctx)
	}
	args, err := arguments(ctx, "DEVICE|VOLUME")
	if err != nil {
		return err
	}
	target, err := volumeName(deviceOf(args[0]))
	if err != nil {
		return err
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		if ctx.Bool("unmount") {
			if err := unmountTarget(deadline, gw, target); err != nil {
				return err
			}
		}
		d, err := unmapIdle(deadline, gw, target, ctx.Bool("force"))
		if exitCode(err) == exitNotFound && ctx.Bool("missing-ok") {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(ctx.App.ErrWriter, "unmapped %s from %s\n", d.Volume, d.Path)
		if _, err := os.Stat(ctx.String("tab")); err != nil {
			return nil // nothing is mapped at boot
		}
		err = editTab(ctx.String("tab"), func(t *curvetab) {
			t.remove(func(e tabLine) bool { return e.device == d.Path })
		})
		if err != nil {
			return fmt.Errorf("%s is unmapped, but will be mapped again at boot: %w", d.Volume, err)
		}
		return nil
	})
}

func listMappedCommand() *cli.Command {
	return &cli.Command{
		Name:  "list-mapped",
		Usage: "list the block devices of volumes",
		Description: `Shows what this gateway has mapped. A device that is "reattaching" waits, and
the listing says for what.

   curve-nbd list-mapped
   curve-nbd list-mapped -o json`,
		Flags: append([]cli.Flag{outputFlag()}, clientFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				list, err := gw.Devices(deadline)
				if err != nil {
					return err
				}
				view := make(mappedList, len(list))
				for i, d := range list {
					view[i] = mappedViewOf(d)
				}
				return show(ctx, view)
			})
		},
	}
}

// mappedView is a device as JSON shows it.
type mappedView struct {
	PID           int     `json:"pid"`
	Volume        string  `json:"volume"`
	Device        string  `json:"device"`
	State         string  `json:"state"`
	Problem       string  `json:"problem,omitempty"`
	SizeBytes     int64   `json:"size_bytes"`
	ReadOnly      bool    `json:"read_only"`
	Connections   int     `json:"connections"`
	TimeoutS      float64 `json:"timeout_seconds"`
	ReattachS     float64 `json:"reattach_timeout_seconds"`
	AttachedSince string  `json:"attached_since"`
	AttachedBy    string  `json:"attached_by"`
}

func mappedViewOf(d control.Device) mappedView {
	by := "netlink"
	if d.Ioctl {
		by = "ioctl"
	}
	return mappedView{
		PID: d.PID, Volume: d.Volume, Device: d.Path, State: d.State, Problem: d.Problem, SizeBytes: d.Size, ReadOnly: d.ReadOnly,
		Connections: d.Connections, TimeoutS: d.Timeout.Seconds(), ReattachS: d.Reattach.Seconds(), AttachedSince: d.Since.Format(time.RFC3339),
		AttachedBy: by,
	}
}

// options are those that differ from map's defaults, as its flags.
func (v mappedView) options() string {
	var list []string
	if v.ReadOnly {
		list = append(list, "read-only")
	}
	if v.Connections != device.DefaultConnections {
		list = append(list, fmt.Sprintf("connections=%d", v.Connections))
	}
	if v.TimeoutS != device.DefaultTimeout.Seconds() {
		list = append(list, fmt.Sprintf("timeout=%gs", v.TimeoutS))
	}
	if v.ReattachS != device.DefaultReattach.Seconds() {
		list = append(list, fmt.Sprintf("reattach-timeout=%gs", v.ReattachS))
	}
	if len(list) == 0 {
		return "defaults"
	}
	return strings.Join(list, ",")
}

type mappedList []mappedView

func (l mappedList) table(t table.Writer) {
	t.AppendHeader(table.Row{"pid", "image", "device", "options", "state", "size", "attached since", "by"})
	for _, v := range l {
		state := v.State
		if v.Problem != "" {
			state += ": " + v.Problem
		}
		t.AppendRow(table.Row{v.PID, v.Volume, v.Device, v.options(), state, sizeText(v.SizeBytes), v.AttachedSince, v.AttachedBy})
	}
}
