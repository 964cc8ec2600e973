package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func volumeCreateCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make an empty volume",
		ArgsUsage: "NAME",
		Description: `Makes a volume of --size bytes, a multiple of the block size. Sizes are
512M, 10G, 10GiB, 1.5T or bytes; units are powers of 1024 (10G is 10 GiB).

   curve-nbd volume create pg-data --size 10G
   curve-nbd volume create boot --size 4G --block-size 512
   curve-nbd volume create logs --size 1T --stripe-unit 64K --stripe-count 4
   curve-nbd volume create noisy --size 100G --iops 5000 --bps 200M`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "size", Aliases: []string{"s"}, Usage: "`SIZE` of the volume (required)"},
			&cli.StringFlag{Name: "block-size", Usage: "logical block, 512 or 4096 `BYTES`", DefaultText: "4096"},
			&cli.StringFlag{Name: "chunk-size", Usage: "`SIZE` of a chunk, the unit of placement", DefaultText: "16M"},
			&cli.StringFlag{Name: "segment-size", Usage: "`SIZE` of a segment, the unit of allocation", DefaultText: "1G"},
			&cli.StringFlag{Name: "stripe-unit", Usage: "`SIZE` that goes to one chunk before the next; needs --stripe-count"},
			&cli.Int64Flag{Name: "stripe-count", Usage: "spread neighbouring data over `N` chunks", DefaultText: "1"},
			&cli.Int64Flag{Name: "iops", Usage: "at most `N` requests a second", DefaultText: "no limit"},
			&cli.Int64Flag{Name: "iops-burst", Usage: "`N` requests at once after idling", DefaultText: "one second's worth"},
			&cli.StringFlag{Name: "bps", Usage: "at most `SIZE` a second", DefaultText: "no limit"},
			&cli.StringFlag{Name: "bps-burst", Usage: "`SIZE` at once after idling", DefaultText: "one second's worth"},
			outputFlag(),
		}, clientFlags()...),
		Action: createVolume,
	}
}

func createVolume(ctx *cli.Context) error {
	spec, err := volumeSpec(ctx)
	if err != nil {
		return err
	}
	return showVolume(ctx, func(deadline context.Context, gw *control.Client) (backend.VolumeInfo, error) {
		return gw.CreateVolume(deadline, spec)
	})
}

// volumeSpec reads arguments and flags. What a good geometry is, the gateway
// decides; here is only what cannot be written down in numbers.
func volumeSpec(ctx *cli.Context) (backend.VolumeSpec, error) {
	args, err := arguments(ctx, "NAME")
	if err != nil {
		return backend.VolumeSpec{}, err
	}
	if !ctx.IsSet("size") {
		return backend.VolumeSpec{}, usagef("missing flag --size: say how large the volume is, as in --size 10G")
	}
	spec := backend.VolumeSpec{Name: args[0]}
	sizes := []struct {
		flag string
		into *int64
	}{
		{"size", &spec.Size},
		{"block-size", &spec.Geometry.BlockSize},
		{"chunk-size", &spec.Geometry.ChunkSize},
		{"segment-size", &spec.Geometry.SegmentSize},
		{"stripe-unit", &spec.Geometry.StripeUnit},
		{"bps", &spec.QoS.BPS},
		{"bps-burst", &spec.QoS.BPSBurst},
	}
	for _, s := range sizes {
		if !ctx.IsSet(s.flag) {
			continue
		}
		if *s.into, err = parseSize("--"+s.flag, ctx.String(s.flag)); err != nil {
			return backend.VolumeSpec{}, err
		}
	}
	counts := []struct {
		flag string
		into *int64
	}{
		{"stripe-count", &spec.Geometry.StripeCount},
		{"iops", &spec.QoS.IOPS},
		{"iops-burst", &spec.QoS.IOPSBurst},
	}
	for _, c := range counts {
		if !ctx.IsSet(c.flag) {
			continue
		}
		if *c.into = ctx.Int64(c.flag); *c.into <= 0 {
			return backend.VolumeSpec{}, usagef("--%s %d: give a number above zero", c.flag, *c.into)
		}
	}
	return spec, nil
}
