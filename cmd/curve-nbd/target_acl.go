package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

// anyInitiator stands for all in an access list.
const anyInitiator = "any"

func aclCommand() *cli.Command {
	return &cli.Command{
		Name:      "acl",
		Usage:     "say which initiators may log in to iSCSI targets",
		UsageText: "curve-nbd acl COMMAND [command options] ...",
		Description: `A target lets nobody in until its access list names them, so that a new one is not
open by mistake. To let everybody in, say so:

   curve-nbd acl add iqn.2026-11.io.curve:vm1 any
   curve-nbd acl add iqn.2026-11.io.curve:vm1 iqn.1993-08.org.debian:01:host1

An initiator's name is its own word, which anybody can say: where that matters, have
it prove itself with ` + "`curve-nbd chap`" + `, and keep to a network you trust.`,
		Subcommands: []*cli.Command{
			aclAddCommand(),
			aclListCommand(),
			aclRmCommand(),
		},
	}
}

func aclAddCommand() *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "let an initiator in",
		ArgsUsage: "IQN INITIATOR|any",
		Description: `Lets an initiator see all units of a target, those to come included, or only the
ones of --lun. It replaces what the initiator was allowed before, at once: a unit that
it does not see any more is gone for it though it may be in use. Linux has its name
in /etc/iscsi/initiatorname.iscsi; QEMU's is iqn.2008-11.org.linux-kvm:NAME unless it
is told another.

   curve-nbd acl add iqn.2026-11.io.curve:vm1 iqn.1993-08.org.debian:01:host1
   curve-nbd acl add iqn.2026-11.io.curve:vm1 iqn.1993-08.org.debian:01:host2 --lun 0,2
   curve-nbd acl add iqn.2026-11.io.curve:vm1 any`,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: lunFlag, Usage: "let it see units `N`,... only"},
			outputFlag(),
		}, clientFlags()...),
		BashComplete: func(ctx *cli.Context) {
			completeTargets(ctx)
			if ctx.NArg() == 1 {
				fmt.Fprintln(ctx.App.Writer, anyInitiator)
			}
		},
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN", "INITIATOR|any")
			if err != nil {
				return err
			}
			access := control.Access{Initiator: args[1], AllUnits: !ctx.IsSet(lunFlag)}
			for _, text := range ctx.StringSlice(lunFlag) {
				n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
				if err != nil {
					return usagef("--lun %q: give numbers of units, as in --lun 0,2", text)
				}
				access.Units = append(access.Units, int(n))
			}
			return showAccess(ctx, func(deadline context.Context, gw *control.Client) (control.Target, error) {
				return gw.Allow(deadline, args[0], access)
			})
		},
	}
}

func aclListCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Aliases:   []string{"ls"},
		Usage:     "list who may log in to a target",
		ArgsUsage: "IQN",
		Description: `Lists the initiators that a target lets in, and the units they see.

   curve-nbd acl list iqn.2026-11.io.curve:vm1
   curve-nbd acl list iqn.2026-11.io.curve:vm1 -o json`,
		Flags:        append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN")
			if err != nil {
				return err
			}
			return showAccess(ctx, func(deadline context.Context, gw *control.Client) (control.Target, error) {
				return gw.Target(deadline, args[0])
			})
		},
	}
}

func aclRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "let an initiator in no more",
		ArgsUsage: "IQN INITIATOR|any",
		Description: `Takes an initiator off the access list, and cuts it off at once if it is logged in
and not let in by "any": look with curve-nbd target sessions, and log out there first.

   curve-nbd acl rm iqn.2026-11.io.curve:vm1 iqn.1993-08.org.debian:01:host1`,
		Flags: append([]cli.Flag{outputFlag()}, clientFlags()...),
		BashComplete: func(ctx *cli.Context) {
			completeTargets(ctx)
			if ctx.NArg() == 1 {
				completeInitiators(ctx)
			}
		},
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "IQN", "INITIATOR|any")
			if err != nil {
				return err
			}
			return showAccess(ctx, func(deadline context.Context, gw *control.Client) (control.Target, error) {
				return gw.Disallow(deadline, args[0], args[1])
			})
		},
	}
}

// completeInitiators offers who is in a target's list.
func completeInitiators(ctx *cli.Context) {
	completeFrom(ctx, func(deadline context.Context, gw *control.Client) (names []string) {
		t, err := gw.Target(deadline, ctx.Args().First())
		if err != nil {
			return nil
		}
		for _, a := range t.Access {
			names = append(names, a.Initiator)
		}
		return names
	})
}

// accessView is an entry of an access list as JSON shows it.
type accessView struct {
	Target    string `json:"target"`
	Initiator string `json:"initiator"`
	AllUnits  bool   `json:"all_luns"`
	Units     []int  `json:"luns"`
}

func accessViews(t control.Target) []accessView {
	views := make([]accessView, len(t.Access))
	for i, a := range t.Access {
		views[i] = accessView{Target: t.Name, Initiator: a.Initiator, AllUnits: a.AllUnits, Units: append([]int{}, a.Units...)}
		if a.AllUnits {
			for _, u := range t.Units {
				views[i].Units = append(views[i].Units, u.Number)
			}
		}
	}
	slices.SortStableFunc(views, func(a, b accessView) int { return strings.Compare(a.Initiator, b.Initiator) })
	return views
}

func (v accessView) unitsText() string {
	if v.AllUnits {
		return "all"
	}
	if len(v.Units) == 0 {
		return "none"
	}
	numbers := make([]string, len(v.Units))
	for i, n := range v.Units {
		numbers[i] = strconv.Itoa(n)
	}
	return strings.Join(numbers, ",")
}

// accessList is a listing; as JSON an array, [] when there is none.
type accessList []accessView

func (list accessList) table(t table.Writer) {
	t.AppendHeader(table.Row{"Target", "Initiator", "LUNs"})
	for _, a := range list {
		t.AppendRow(table.Row{a.Target, a.Initiator, a.unitsText()})
	}
}

// showAccess asks the gateway for something that answers with a target, and shows its
// access list.
func showAccess(ctx *cli.Context, ask func(context.Context, *control.Client) (control.Target, error)) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		t, err := ask(deadline, gw)
		if err != nil {
			return err
		}
		if len(t.Access) == 0 {
			fmt.Fprintf(ctx.App.ErrWriter, "target %s lets nobody in; `%s acl add %s any` would let in all\n", t.Name, ctx.App.Name, t.Name)
		}
		return show(ctx, accessList(accessViews(t)))
	})
}
