package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
)

const (
	defaultBenchTime = 2 * time.Second
	defaultBenchSize = 256 << 20
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "measure the IO path without a network",
		Description: `Sends random requests through the gateway pipeline, exactly as a front end
does, on a volume of its own. Backend null stores nothing and shows the cost
of the pipeline; memory keeps data in RAM; embedded writes to a new directory
below --dir, removed afterwards. Volumes are written once before they are read.

Every combination is one row: CPU is user and system time of the whole process
for one request; allocations are the Go heap's. Writes are acknowledged as the
gateway does it: from a volatile cache, without a flush.

   curve-nbd bench
   curve-nbd bench --backend embedded --op write --block-size 4k,1M --depth 1,32
   curve-nbd bench --backend memory --time 10s -o json`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backend", Usage: "`null,memory,embedded`", Value: "null,memory,embedded"},
			&cli.StringFlag{Name: "op", Usage: "`read,write`", Value: "read,write"},
			&cli.StringFlag{Name: "block-size", Usage: "request `SIZE`,...", Value: "4k"},
			&cli.StringFlag{Name: "depth", Usage: "keep `N`,... requests in flight", Value: "1,32"},
			&cli.DurationFlag{Name: "time", Usage: "measure each row for `D`", Value: defaultBenchTime},
			&cli.StringFlag{Name: "size", Aliases: []string{"s"}, Usage: "`SIZE` of the volume", Value: sizeText(defaultBenchSize)},
			&cli.StringFlag{Name: "dir", Usage: "where embedded keeps its data, a `DIR`", DefaultText: "the system's directory for temporary files"},
			outputFlag(),
		},
		Action: runBench,
	}
}

// benchPlan is what to measure: the product of the lists.
type benchPlan struct {
	backends   []string
	ops        []backend.OpKind
	blockSizes []int64
	depths     []int
	time       time.Duration
	size       int64
	dir        string
}

func runBench(ctx *cli.Context) error {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	plan, err := benchPlanOf(ctx)
	if err != nil {
		return err
	}
	rows, err := plan.run(ctx.Context, func(row benchRow) {
		if ctx.String("output") != "table" {
			fmt.Fprintf(ctx.App.ErrWriter, "%s %s %s depth %d: %.0f IOPS\n",
				row.Backend, row.Op, sizeText(row.BlockSize), row.Depth, row.IOPS)
		}
	})
	if err != nil {
		return err
	}
	return show(ctx, rows)
}

func benchPlanOf(ctx *cli.Context) (benchPlan, error) {
	p := benchPlan{backends: strings.Split(ctx.String("backend"), ","), time: ctx.Duration("time"), dir: ctx.String("dir")}
	for _, name := range p.backends {
		if !slices.Contains(benchBackends, name) {
			return p, usagef("--backend %q: use %s", name, strings.Join(benchBackends, ", "))
		}
	}
	for name := range strings.SplitSeq(ctx.String("op"), ",") {
		switch name {
		case "read":
			p.ops = append(p.ops, backend.OpRead)
		case "write":
			p.ops = append(p.ops, backend.OpWrite)
		default:
			return p, usagef("--op %q: use read or write", name)
		}
	}
	var err error
	if p.size, err = parseSize("--size", ctx.String("size")); err != nil {
		return p, err
	}
	for text := range strings.SplitSeq(ctx.String("block-size"), ",") {
		size, err := parseSize("--block-size", text)
		if err != nil {
			return p, err
		}
		if size%backend.DefaultBlockSize != 0 || size > gateway.MaxBuffer || size > p.size {
			return p, usagef("--block-size %s: use a multiple of %d, at most %s and at most --size",
				text, backend.DefaultBlockSize, sizeText(gateway.MaxBuffer))
		}
		p.blockSizes = append(p.blockSizes, size)
	}
	for text := range strings.SplitSeq(ctx.String("depth"), ",") {
		depth, err := strconv.Atoi(text)
		if err != nil || depth < 1 || depth > gateway.ClientMaxRequests {
			return p, usagef("--depth %q: use a number from 1 to %d", text, gateway.ClientMaxRequests)
		}
		p.depths = append(p.depths, depth)
	}
	if p.time <= 0 {
		return p, usagef("--time %s: use a time above zero, such as 2s", p.time)
	}
	return p, nil
}

// run measures every row, one backend after the other.
func (p benchPlan) run(ctx context.Context, progress func(benchRow)) (benchRows, error) {
	var rows benchRows
	for _, name := range p.backends {
		target, err := openBenchTarget(ctx, name, p.dir, p.size)
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", name, err)
		}
		err = p.each(func(op backend.OpKind, blockSize int64, depth int) error {
			row, err := measure(ctx, target.handle, benchCase{op: op, blockSize: blockSize, depth: depth, time: p.time})
			if err != nil {
				return fmt.Errorf("backend %s, %v of %s at depth %d: %w", name, op, sizeText(blockSize), depth, err)
			}
			row.Backend = name
			progress(row)
			rows = append(rows, row)
			return nil
		})
		if closeErr := target.close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (p benchPlan) each(measure func(backend.OpKind, int64, int) error) error {
	for _, op := range p.ops {
		for _, blockSize := range p.blockSizes {
			for _, depth := range p.depths {
				if err := measure(op, blockSize, depth); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// benchRow is one measurement.
type benchRow struct {
	Backend        string  `json:"backend"`
	Op             string  `json:"op"`
	BlockSize      int64   `json:"block_size"`
	Depth          int     `json:"depth"`
	Seconds        float64 `json:"seconds"`
	Requests       int64   `json:"requests"`
	Inline         int64   `json:"requests_inline"`
	IOPS           float64 `json:"iops"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	P50            int64   `json:"latency_p50_ns"`
	P95            int64   `json:"latency_p95_ns"`
	P99            int64   `json:"latency_p99_ns"`
	P999           int64   `json:"latency_p999_ns"`
	Max            int64   `json:"latency_max_ns"`
	CPUPerIO       float64 `json:"cpu_ns_per_io"`
	AllocsPerIO    float64 `json:"allocs_per_io"`
}

type benchRows []benchRow

func (rows benchRows) table(t table.Writer) {
	t.AppendHeader(table.Row{"Backend", "Op", "Size", "Depth", "IOPS", "MiB/s", "p50", "p95", "p99", "p99.9", "Max", "CPU/IO", "Allocs/IO"})
	for _, r := range rows {
		t.AppendRow(table.Row{r.Backend, r.Op, sizeText(r.BlockSize), r.Depth,
			fmt.Sprintf("%.0f", r.IOPS), fmt.Sprintf("%.1f", r.BytesPerSecond/(1<<20)),
			nsText(r.P50), nsText(r.P95), nsText(r.P99), nsText(r.P999), nsText(r.Max),
			nsText(int64(r.CPUPerIO)), fmt.Sprintf("%.2f", r.AllocsPerIO)})
	}
}

// nsText is a duration with three or four digits.
func nsText(ns int64) string {
	d := time.Duration(ns)
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
