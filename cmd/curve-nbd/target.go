package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

func targetCommand() *cli.Command {
	return &cli.Command{
		Name:      "target",
		Usage:     "make, look at and remove iSCSI targets",
		UsageText: "curve-nbd target COMMAND [command options] ...",
		Description: `An iSCSI target is what an initiator (QEMU, open-iscsi, Windows, ESXi) logs in to;
its logical units are volumes. A new target has none and lets nobody in:

   curve-nbd target create iqn.2026-11.io.curve:vm1
   curve-nbd lun add iqn.2026-11.io.curve:vm1 pg-data
   curve-nbd acl add iqn.2026-11.io.curve:vm1 any
   curve-nbd target sessions                # who is logged in, and what they do

Targets are kept with the volumes' metadata: every gateway of a cluster has the
same ones, a few seconds after a change.`,
		Subcommands: []*cli.Command{
			targetCreateCommand(),
			targetListCommand(),
			targetInfoCommand(),
			targetSessionsCommand(),
			targetRmCommand(),
		},
	}
}

func targetCreateCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a target",
		ArgsUsage: "IQN",
		Description: `Makes a target without units that lets nobody in. Its name is
iqn.YYYY-MM.REVERSED-DOMAIN:ANYTHING with a domain of yours and a month in which it
was; eui. and naa. names are taken too. Capitals become small letters.

   curve-nbd target create iqn.2026-11.io.curve:vm1
   curve-nbd target create iqn.2026-11.io.curve:vm1 --alias "the database"`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "alias", Usage: "show initiators this `TEXT` with the name"},
			outputFlag(),
		}, clientFlags()...),
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN")
			if err != nil {
				return err
			}
			return showTarget(ctx, func(deadline context.Context, gw *control.Client) (control.Target, error) {
				t, err := gw.CreateTarget(deadline, args[0], ctx.String("alias"))
				if err == nil {
					sayNotServed(ctx, deadline, gw)
				}
				return t, err
			})
		},
	}
}

// sayNotServed tells who makes a target at a gateway that no initiator can reach.
func sayNotServed(ctx *cli.Context, deadline context.Context, gw *control.Client) {
	s, err := gw.Status(deadline)
	if err != nil || slices.ContainsFunc(s.Listeners, func(l string) bool { return strings.HasPrefix(l, "iscsi ") }) {
		return
	}
	fmt.Fprintln(ctx.App.ErrWriter, "this gateway does not serve targets: start it with --iscsi-listen HOST:PORT, if no other one does")
}

func targetListCommand() *cli.Command {
	return &cli.Command{
		Name:    "list",
		Aliases: []string{"ls"},
		Usage:   "list targets",
		Description: `Lists the targets, and how many initiators are logged in at this gateway.

   curve-nbd target list
   curve-nbd target list -o json`,
		Flags: append([]cli.Flag{outputFlag()}, clientFlags()...),
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				found, err := gw.Targets(deadline)
				if err != nil {
					return err
				}
				list := make(targetList, len(found))
				units := make([][]unitView, len(found))
				for i, t := range found {
					list[i] = targetViewOf(t)
					units[i] = list[i].Units
				}
				if err := addSizes(deadline, gw, units...); err != nil {
					return err
				}
				return show(ctx, list)
			})
		},
	}
}

func targetInfoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show one target",
		ArgsUsage: "IQN",
		Description: `Shows a target with its units, who may log in, who must prove what, and who is
logged in at this gateway. Secrets are never shown.

   curve-nbd target info iqn.2026-11.io.curve:vm1
   curve-nbd target info iqn.2026-11.io.curve:vm1 -o json`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN")
			if err != nil {
				return err
			}
			return showTarget(ctx, func(deadline context.Context, gw *control.Client) (control.Target, error) {
				return gw.Target(deadline, args[0])
			})
		},
	}
}

func targetRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove a target",
		ArgsUsage: "IQN",
		Description: `Forgets a target with its access list and secrets; its volumes stay. Refused (exit
code 4) while initiators are logged in at this gateway, unless with --force; those at
other gateways are not known here and lose it.

   curve-nbd target rm iqn.2026-11.io.curve:vm1`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "cut off who is logged in"},
		}, clientFlags()...),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN")
			if err != nil {
				return err
			}
			return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
				if err := gw.RemoveTarget(deadline, args[0], ctx.Bool("force")); err != nil {
					return sayForce(err)
				}
				fmt.Fprintf(ctx.App.ErrWriter, "removed target %s; its volumes stay\n", args[0])
				return nil
			})
		},
	}
}

// targetView is a target as JSON shows it.
type targetView struct {
	Name       string       `json:"iqn"`
	Alias      string       `json:"alias"`
	CreatedAt  string       `json:"created_at"`
	Units      []unitView   `json:"luns"`
	Access     []accessView `json:"access"`
	Users      []string     `json:"users"`
	MutualUser string       `json:"mutual_user"`
	Sessions   sessionList  `json:"sessions"`
}

func targetViewOf(t control.Target) targetView {
	view := targetView{
		Name: t.Name, Alias: t.Alias, CreatedAt: timeText(t.CreatedAt), MutualUser: t.Login.Mutual,
		Units: make([]unitView, len(t.Units)), Access: accessViews(t), Users: append([]string{}, t.Login.Users...),
		Sessions: sessionViews(t),
	}
	for i, u := range t.Units {
		view.Units[i] = unitViewOf(t.Name, u)
	}
	return view
}

func (v targetView) table(t table.Writer) {
	t.AppendRow(table.Row{"Name", v.Name})
	t.AppendRow(table.Row{"Alias", orDash(v.Alias)})
	t.AppendRow(table.Row{"Created", v.CreatedAt})
	rows := func(title, none string, n int, text func(i int) string) {
		if n == 0 {
			t.AppendRow(table.Row{title, none})
		}
		for i := range n {
			t.AppendRow(table.Row{title, text(i)})
			title = ""
		}
	}
	rows("Units", "-", len(v.Units), func(i int) string {
		u := v.Units[i]
		text := fmt.Sprintf("%d: %s, %s", u.Number, u.Volume, u.sizeText())
		if u.ReadOnly {
			text += ", read-only"
		}
		if u.Removable {
			text += ", removable"
		}
		text += fmt.Sprintf(", physical block %d", u.PhysicalBlock)
		return text
	})
	rows("Lets in", "nobody", len(v.Access), func(i int) string {
		return fmt.Sprintf("%s, units %s", v.Access[i].Initiator, v.Access[i].unitsText())
	})
	rows("CHAP users", "-: no proof is asked for", len(v.Users), func(i int) string { return v.Users[i] })
	t.AppendRow(table.Row{"Proves itself as", orDash(v.MutualUser)})
	rows("Logged in", "-", len(v.Sessions), func(i int) string {
		s := v.Sessions[i]
		return fmt.Sprintf("%s from %s since %s", s.Initiator, s.Address, s.Since)
	})
}

// targetList is a listing; as JSON an array, [] when there is none.
type targetList []targetView

func (list targetList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Name", "Units", "Lets in", "CHAP", "Logged in", "Alias"})
	for _, v := range list {
		lets := fmt.Sprint(len(v.Access))
		for _, a := range v.Access {
			if a.Initiator == anyInitiator {
				lets = anyInitiator
			}
		}
		if len(v.Access) == 0 {
			lets = "nobody"
		}
		t.AppendRow(table.Row{v.Name, len(v.Units), lets, chapText(v.Users, v.MutualUser), len(v.Sessions), orDash(v.Alias)})
	}
}

// chapText says in one word who proves what.
func chapText(users []string, mutual string) string {
	switch {
	case len(users) == 0:
		return "-"
	case mutual != "":
		return "mutual"
	}
	return "yes"
}

// showTarget asks the gateway for something that answers with one target, and shows
// that.
func showTarget(ctx *cli.Context, ask func(context.Context, *control.Client) (control.Target, error)) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		t, err := ask(deadline, gw)
		if err != nil {
			return err
		}
		view := targetViewOf(t)
		if err := addSizes(deadline, gw, view.Units); err != nil {
			return err
		}
		return show(ctx, view)
	})
}

// completeTargets offers the names of targets as the first argument.
func completeTargets(ctx *cli.Context) {
	if ctx.NArg() > 0 {
		return
	}
	completeFrom(ctx, func(deadline context.Context, gw *control.Client) (names []string) {
		found, err := gw.Targets(deadline)
		if err != nil {
			return nil
		}
		for _, t := range found {
			names = append(names, t.Name)
		}
		return names
	})
}
