package main

import (
	"context"
	"fmt"
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
		ArgsUsage: "VOLUME",
		Description: `Has the gateway attach a volume to the kernel as /dev/nbdN, and prints the
device, alone on stdout, once it is usable. It stays until unmap: while the
gateway is down its requests wait, and a gateway that starts again takes it up.
When no gateway runs on the control socket, one is started in the background, with
the settings of the environment (CURVE_DATA_DIR, CURVE_MDS, ...) and of the
configuration file.

   DEV=$(curve-nbd map pg-data)
   mkfs.ext4 $DEV && mount $DEV /mnt
   curve-nbd map pg-data --device /dev/nbd3 --connections 4

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
			&cli.BoolFlag{Name: "no-start", Usage: "do not start a gateway when none runs"},
			&cli.BoolFlag{Name: "no-exclusive", Usage: "allow a volume more than one device"},
			&cli.StringFlag{Name: "nbds_max", Aliases: []string{"nbds-max"}, Usage: "have the nbd module make `N` devices, if it is not loaded yet"},
			&cli.StringFlag{Name: "max_part", Aliases: []string{"max-part"}, Usage: "have the nbd module allow `N` partitions, if it is not loaded yet"},
		}, clientFlags()...),
		BashComplete: completeVolumes,
		Action:       mapVolume,
	}
}

func mapVolume(ctx *cli.Context) error {
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
			MaxDevices: ctx.String("nbds_max"), MaxPartitions: ctx.String("max_part"),
		})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(ctx.App.Writer, d.Path)
		return err
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
		ArgsUsage: "DEVICE|VOLUME",
		Description: `Writes the kernel's cache of the device back, disconnects it, and returns when
it is gone. Refused with exit code 4, saying by whom, while it is in use: mounts
of it or of its partitions, swap, device mapper, md, processes that have it open.

   curve-nbd unmap /dev/nbd0
   curve-nbd unmap pg-data
   curve-nbd unmap --force pg-data   # though in use: what its users do fails`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "disconnect it though it is in use, and lose what is not written back"},
			&cli.BoolFlag{Name: "missing-ok", Usage: "succeed when there is nothing to unmap"},
		}, clientFlags()...),
		Action: unmapDevice,
	}
}

func unmapDevice(ctx *cli.Context) error {
	args, err := arguments(ctx, "DEVICE|VOLUME")
	if err != nil {
		return err
	}
	target, err := volumeName(args[0])
	if err != nil {
		return err
	}
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		d, err := gw.UnmapDevice(deadline, target, ctx.Bool("force"))
		if exitCode(err) == exitNotFound && ctx.Bool("missing-ok") {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(ctx.App.ErrWriter, "unmapped %s from %s\n", d.Volume, d.Path)
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
}

func mappedViewOf(d control.Device) mappedView {
	return mappedView{
		PID: d.PID, Volume: d.Volume, Device: d.Path, State: d.State, Problem: d.Problem, SizeBytes: d.Size, ReadOnly: d.ReadOnly,
		Connections: d.Connections, TimeoutS: d.Timeout.Seconds(), ReattachS: d.Reattach.Seconds(), AttachedSince: d.Since.Format(time.RFC3339),
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
	t.AppendHeader(table.Row{"pid", "image", "device", "options", "state", "size", "attached since"})
	for _, v := range l {
		state := v.State
		if v.Problem != "" {
			state += ": " + v.Problem
		}
		t.AppendRow(table.Row{v.PID, v.Volume, v.Device, v.options(), state, sizeText(v.SizeBytes), v.AttachedSince})
	}
}
