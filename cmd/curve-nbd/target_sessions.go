package main

import (
	"context"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

func targetSessionsCommand() *cli.Command {
	return &cli.Command{
		Name:      "sessions",
		Usage:     "list who is logged in",
		ArgsUsage: "[IQN]",
		Description: `Lists the initiators that are logged in to a target, or to any, at this gateway: from
where, since when, whom they proved to be, and what they have read and written since.
An initiator of which nothing changes though it should be busy waits: see curve-nbd
status for the volume.

   curve-nbd target sessions
   curve-nbd target sessions iqn.2026-11.io.curve:vm1 -o json`,
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
				return show(ctx, sessionsOf(found))
			})
		},
	}
}

// sessionView is an initiator that is logged in as JSON shows it.
type sessionView struct {
	Target    string `json:"target"`
	Initiator string `json:"initiator"`
	// User is empty where no proof was asked for.
	User       string `json:"user"`
	Address    string `json:"address"`
	Since      string `json:"since"`
	Reads      uint64 `json:"reads"`
	ReadBytes  uint64 `json:"read_bytes"`
	Writes     uint64 `json:"writes"`
	WriteBytes uint64 `json:"write_bytes"`
}

func sessionViews(t control.Target) sessionList {
	views := make(sessionList, len(t.Sessions))
	for i, s := range t.Sessions {
		views[i] = sessionView{
			Target: t.Name, Initiator: s.Initiator, User: s.User, Address: s.Address, Since: timeText(s.Since),
			Reads: s.Reads, ReadBytes: s.ReadBytes, Writes: s.Writes, WriteBytes: s.WriteBytes,
		}
	}
	return views
}

func sessionsOf(targets []control.Target) sessionList {
	list := sessionList{}
	for _, t := range targets {
		list = append(list, sessionViews(t)...)
	}
	return list
}

// sessionList is a listing; as JSON an array, [] when there is none.
type sessionList []sessionView

func (list sessionList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Initiator", "Target", "From", "User", "Since", "Reads", "Read", "Writes", "Written"})
	for _, s := range list {
		t.AppendRow(table.Row{s.Initiator, s.Target, s.Address, orDash(s.User), s.Since,
			s.Reads, sizeText(int64(s.ReadBytes)), s.Writes, sizeText(int64(s.WriteBytes))})
	}
}
