package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func volumeCommand() *cli.Command {
	return &cli.Command{
		Name:      "volume",
		Usage:     "make, look at, change and remove volumes",
		UsageText: "curve-nbd volume COMMAND [command options] ...",
		Description: `A volume is what a client sees as a disk. It takes no space until it is
written. Its name is a path of letters, digits, '_', '-' and '.', such as
pg-data or team/db-1; every volume is offered as the NBD export of that name.

   curve-nbd volume create pg-data --size 10G
   curve-nbd volume list -o json`,
		Subcommands: []*cli.Command{
			volumeCreateCommand(),
			volumeListCommand(),
			volumeInfoCommand(),
			volumeDuCommand(),
			volumeResizeCommand(),
			volumeRmCommand(),
			volumeRecoverCommand(),
			volumeRecycledCommand(),
		},
	}
}

// volumeView is a volume as JSON shows it.
type volumeView struct {
	Name           string `json:"name"`
	ID             uint64 `json:"id"`
	SizeBytes      int64  `json:"size_bytes"`
	BlockSize      int64  `json:"block_size"`
	ChunkSize      int64  `json:"chunk_size"`
	SegmentSize    int64  `json:"segment_size"`
	StripeUnit     int64  `json:"stripe_unit"`
	StripeCount    int64  `json:"stripe_count"`
	AllocatedBytes *int64 `json:"allocated_bytes,omitempty"`
	Epoch          uint64 `json:"epoch"`
	State          string `json:"state"`
	Owner          string `json:"owner"`
	IOPS           int64  `json:"iops"`
	IOPSBurst      int64  `json:"iops_burst"`
	BPS            int64  `json:"bps"`
	BPSBurst       int64  `json:"bps_burst"`
	CreatedAt      string `json:"created_at"`
	RecycledAt     string `json:"recycled_at,omitempty"`
}

func viewOf(v backend.VolumeInfo) volumeView {
	return volumeView{
		Name: v.Name, ID: uint64(v.ID),
		SizeBytes: v.Size, BlockSize: v.Geometry.BlockSize,
		ChunkSize: v.Geometry.ChunkSize, SegmentSize: v.Geometry.SegmentSize,
		StripeUnit: v.Geometry.StripeUnit, StripeCount: v.Geometry.StripeCount,
		Epoch: uint64(v.Epoch), State: string(v.State), Owner: v.Owner,
		IOPS: v.QoS.IOPS, IOPSBurst: v.QoS.IOPSBurst, BPS: v.QoS.BPS, BPSBurst: v.QoS.BPSBurst,
		CreatedAt: timeText(v.CreatedAt), RecycledAt: timeText(v.RecycledAt),
	}
}

func (v volumeView) table(t table.Writer) {
	t.AppendRow(table.Row{"Name", v.Name})
	t.AppendRow(table.Row{"ID", v.ID})
	t.AppendRow(table.Row{"Size", sizeAndBytes(v.SizeBytes)})
	if v.AllocatedBytes != nil {
		t.AppendRow(table.Row{"Allocated", sizeAndBytes(*v.AllocatedBytes)})
	}
	t.AppendRow(table.Row{"Block size", v.BlockSize})
	t.AppendRow(table.Row{"Chunk size", sizeText(v.ChunkSize)})
	t.AppendRow(table.Row{"Segment size", sizeText(v.SegmentSize)})
	if v.StripeCount > 1 {
		t.AppendRow(table.Row{"Striping", fmt.Sprintf("%s over %d chunks", sizeText(v.StripeUnit), v.StripeCount)})
	}
	if v.IOPS > 0 {
		t.AppendRow(table.Row{"IOPS limit", limitText(fmt.Sprint(v.IOPS), v.IOPSBurst, fmt.Sprint(v.IOPSBurst))})
	}
	if v.BPS > 0 {
		t.AppendRow(table.Row{"Bandwidth limit", limitText(sizeText(v.BPS)+"/s", v.BPSBurst, sizeText(v.BPSBurst))})
	}
	t.AppendRow(table.Row{"State", v.State})
	t.AppendRow(table.Row{"Epoch", v.Epoch})
	t.AppendRow(table.Row{"Open by", orDash(v.Owner)})
	t.AppendRow(table.Row{"Created", v.CreatedAt})
	if v.RecycledAt != "" {
		t.AppendRow(table.Row{"Recycled", v.RecycledAt})
	}
}

// volumeList is a listing; as JSON an array, [] when there is none.
type volumeList []volumeView

func viewsOf(vs []backend.VolumeInfo) volumeList {
	list := make(volumeList, len(vs))
	for i, v := range vs {
		list[i] = viewOf(v)
	}
	return list
}

func (list volumeList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Name", "ID", "Size", "Block", "State", "Open by", "Created"})
	for _, v := range list {
		t.AppendRow(table.Row{v.Name, v.ID, sizeText(v.SizeBytes), v.BlockSize, v.State, orDash(v.Owner), v.CreatedAt})
	}
}

// showVolume asks the gateway for something that answers with one volume, and
// shows that.
func showVolume(ctx *cli.Context, ask func(context.Context, *control.Client) (backend.VolumeInfo, error)) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		v, err := ask(deadline, gw)
		if err != nil {
			return err
		}
		return show(ctx, viewOf(v))
	})
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// sizeAndBytes is a size for people who also need the exact figure.
func sizeAndBytes(bytes int64) string {
	return fmt.Sprintf("%s (%d bytes)", sizeText(bytes), bytes)
}

func limitText(limit string, burst int64, burstText string) string {
	if burst == 0 {
		return limit
	}
	return limit + ", burst " + burstText
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
