package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

// defaultStopTimeout is above what a chunkserver takes to hand its leaderships
// over and to make everything durable.
const defaultStopTimeout = 60 * time.Second

func clusterStopCommand() *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "stop one server, or all",
		ArgsUsage: "[ID]",
		Description: `Ends a server with SIGTERM and waits for it: a chunkserver hands its
leaderships over first. With --kill it ends at once, as in a crash; nothing that
was acknowledged is lost either way.

   curve-nbd cluster stop cs2
   curve-nbd cluster stop cs2 --kill
   curve-nbd cluster stop              # all; the data stays`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "kill", Usage: "end it at once with SIGKILL"},
			timeoutFlag("give up when a server has not ended after `D`", defaultStopTimeout),
		}, clusterFlags()...),
		BashComplete: completeMembers,
		Action: func(ctx *cli.Context) error {
			ids, err := optionalID(ctx)
			if err != nil {
				return err
			}
			c, err := readCluster(ctx.String("dir"))
			if err != nil {
				return err
			}
			sig := syscall.SIGTERM
			if ctx.Bool("kill") {
				sig = syscall.SIGKILL
			}
			deadline, cancel, err := withTimeout(ctx)
			if err != nil {
				return err
			}
			defer cancel()
			return stopMembers(deadline, ctx.App.ErrWriter, &c.file, sig, ids...)
		},
	}
}

func clusterDownCommand() *cli.Command {
	return &cli.Command{
		Name:  "down",
		Usage: "stop the whole cluster",
		Description: `Stops every server and waits for it. The directory stays, and with it every
volume: cluster up goes on from there. --purge removes it, for good.

   curve-nbd cluster down
   curve-nbd cluster down --purge`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "keep", Usage: "keep the directory: the default, for scripts that want to say so"},
			&cli.BoolFlag{Name: "purge", Usage: "remove the directory and all data in it; there is no way back"},
			&cli.BoolFlag{Name: "kill", Usage: "end all at once with SIGKILL"},
			timeoutFlag("give up when a server has not ended after `D`", defaultStopTimeout),
		}, clusterFlags()...),
		Action: clusterDown,
	}
}

func clusterDown(ctx *cli.Context) (err error) {
	if _, err := arguments(ctx); err != nil {
		return err
	}
	if ctx.Bool("keep") && ctx.Bool("purge") {
		return usagef("--keep and --purge contradict each other: give one")
	}
	c, err := openCluster(ctx.Context, ctx.String("dir"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	sig := syscall.SIGTERM
	if ctx.Bool("kill") {
		sig = syscall.SIGKILL
	}
	deadline, cancel, err := withTimeout(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := stopMembers(deadline, ctx.App.ErrWriter, &c.file, sig); err != nil {
		return err
	}
	if !ctx.Bool("purge") {
		fmt.Fprintf(ctx.App.ErrWriter, "the cluster is down; %s keeps its data\n", c.path)
		return nil
	}
	if err := c.purge(); err != nil {
		return err
	}
	fmt.Fprintf(ctx.App.ErrWriter, "the cluster is down and %s removed\n", c.path)
	return nil
}

// stopMembers ends the members with these ids, all if there are none, and waits
// for them. The chunkservers end before the MDS, which they report to.
func stopMembers(ctx context.Context, notes io.Writer, f *clusterFile, sig syscall.Signal, ids ...string) error {
	members, err := f.selection(ids)
	if err != nil {
		return err
	}
	for _, role := range []memberRole{roleChunkserver, roleMDS} {
		var signalled []*member
		for _, m := range members {
			if m.Role != role {
				continue
			}
			err := m.end(sig)
			if errors.Is(err, errNoProcess) {
				if len(ids) > 0 {
					fmt.Fprintf(notes, "%s does not run\n", m.ID)
				}
				continue
			}
			if err != nil {
				return fmt.Errorf("stop %s: %w", m.ID, err)
			}
			signalled = append(signalled, m)
		}
		if err := awaitExits(ctx, notes, signalled); err != nil {
			return err
		}
	}
	return nil
}

// end sends the signal that ends a member; one that is stopped (SIGSTOP) is woken
// to see it.
func (m *member) end(sig syscall.Signal) error {
	if err := m.Process.signal(sig); err != nil {
		return err
	}
	if err := m.Process.signal(syscall.SIGCONT); err != nil && !errors.Is(err, errNoProcess) {
		return err
	}
	return nil
}

func awaitExits(ctx context.Context, notes io.Writer, members []*member) error {
	var stuck []string
	for _, m := range slices.Clone(members) {
		if err := m.Process.awaitExit(ctx); err != nil {
			stuck = append(stuck, fmt.Sprintf("%s (pid %d)", m.ID, m.Process.PID))
			continue
		}
		fmt.Fprintf(notes, "stopped %s\n", m.ID)
	}
	if len(stuck) > 0 {
		return fmt.Errorf("still running after the signal: %v: wait, or use --kill", stuck)
	}
	return nil
}
