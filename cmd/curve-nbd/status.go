package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show what a gateway is doing",
		Description: `Shows the gateway, its listeners, every export that a client has open, and the iSCSI
initiators that are logged in. A value above zero under WAITING that keeps growing is
a stall.

   curve-nbd status
   curve-nbd status -o json`,
		Flags: append([]cli.Flag{outputFlag()}, clientFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				s, err := gw.Status(deadline)
				if err != nil {
					return err
				}
				targets, err := gw.Targets(deadline)
				if err != nil && !errors.Is(err, backend.ErrNotSupported) {
					return err
				}
				return show(ctx, statusViewOf(s, targets))
			})
		},
	}
}

// statusView is a gateway as JSON shows it.
type statusView struct {
	Version          string       `json:"version"`
	PID              int          `json:"pid"`
	StartedAt        string       `json:"started_at"`
	DataDir          string       `json:"data_dir"`
	Listeners        []string     `json:"listeners"`
	InFlightRequests int64        `json:"in_flight_requests"`
	InFlightBytes    int64        `json:"in_flight_bytes"`
	BufferBytes      int64        `json:"buffer_bytes"`
	Exports          []exportView `json:"exports"`
	// Sessions are the iSCSI initiators that are logged in.
	Sessions sessionList `json:"sessions"`
}

type exportView struct {
	Name          string  `json:"name"`
	SizeBytes     int64   `json:"size_bytes"`
	Epoch         uint64  `json:"epoch"`
	Connections   int64   `json:"connections"`
	Queued        int     `json:"queued"`
	OldestSeconds float64 `json:"oldest_queued_seconds"`
	Reads         uint64  `json:"reads"`
	ReadBytes     uint64  `json:"read_bytes"`
	Writes        uint64  `json:"writes"`
	WriteBytes    uint64  `json:"write_bytes"`
	Errors        uint64  `json:"errors"`
	// Stalls are the copysets that give no answer; Lost says why the export serves
	// no more, "" while it does.
	Stalls []stallView `json:"stalls"`
	Lost   string      `json:"lost"`
}

// stallView is a copyset that an export waits for.
type stallView struct {
	Copyset  uint32 `json:"copyset"`
	Since    string `json:"since"`
	Requests int    `json:"requests"`
	For      string `json:"waits_for"`
	// Leader is the chunkserver last heard to lead, "" for none.
	Leader string `json:"leader"`
}

func statusViewOf(s gateway.Status, targets []control.Target) statusView {
	view := statusView{
		Version: s.Version, PID: s.PID, StartedAt: timeText(s.StartedAt), DataDir: s.DataDir,
		Listeners:        append([]string{}, s.Listeners...),
		InFlightRequests: s.InFlightRequests, InFlightBytes: s.InFlightBytes, BufferBytes: s.BufferBytes,
		Exports: make([]exportView, len(s.Exports)), Sessions: sessionsOf(targets),
	}
	for i, e := range s.Exports {
		view.Exports[i] = exportView{
			Name: e.Name, SizeBytes: e.SizeBytes, Epoch: uint64(e.Epoch), Connections: e.Connections,
			Queued: e.Queued, OldestSeconds: e.OldestQueued.Seconds(),
			Reads: e.Reads, ReadBytes: e.ReadBytes, Writes: e.Writes, WriteBytes: e.WriteBytes, Errors: e.Errors,
			Stalls: []stallView{}, Lost: e.Lost,
		}
		for _, stall := range e.Stalls {
			view.Exports[i].Stalls = append(view.Exports[i].Stalls, stallView{
				Copyset: uint32(stall.Copyset), Since: timeText(stall.Since), Requests: stall.Waiting,
				For: stall.For, Leader: serverName(stall.Leader),
			})
		}
	}
	return view
}

func (s statusView) table(t table.Writer) {
	t.AppendRow(table.Row{"Version", s.Version})
	t.AppendRow(table.Row{"PID", s.PID})
	t.AppendRow(table.Row{"Started", s.StartedAt})
	t.AppendRow(table.Row{"Data directory", orDash(s.DataDir)})
	t.AppendRow(table.Row{"Listeners", orDash(strings.Join(s.Listeners, "\n"))})
	t.AppendRow(table.Row{"In flight", fmt.Sprintf("%d requests, %s", s.InFlightRequests, sizeText(s.InFlightBytes))})
	t.AppendRow(table.Row{"Buffers", sizeText(s.BufferBytes)})
	t.AppendRow(table.Row{"Exports open", orDash(exportLines(s.Exports))})
	if len(s.Sessions) > 0 {
		initiators := newTable()
		s.Sessions.table(initiators)
		t.AppendRow(table.Row{"Initiators", initiators.Render()})
	}
	for _, e := range s.Exports {
		if e.Lost != "" {
			t.AppendRow(table.Row{"Lost", fmt.Sprintf("%s: %s", e.Name, e.Lost)})
		}
		for _, stall := range e.Stalls {
			t.AppendRow(table.Row{"Stall", fmt.Sprintf("%s: %d requests wait since %s for copyset %d: %s",
				e.Name, stall.Requests, stall.Since, stall.Copyset, stall.For)})
		}
	}
}

// exportLines is a table in a table: one export a line.
func exportLines(exports []exportView) string {
	if len(exports) == 0 {
		return ""
	}
	t := newTable()
	t.AppendHeader(table.Row{"Name", "Size", "Clients", "Queued", "Waiting", "Reads", "Read", "Writes", "Written", "Errors"})
	for _, e := range exports {
		waiting := time.Duration(e.OldestSeconds * float64(time.Second)).Round(time.Millisecond)
		t.AppendRow(table.Row{e.Name, sizeText(e.SizeBytes), e.Connections, e.Queued, waiting,
			e.Reads, sizeText(int64(e.ReadBytes)), e.Writes, sizeText(int64(e.WriteBytes)), e.Errors})
	}
	return t.Render()
}
