package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

func main() {
	os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, argv []string, stdout, stderr io.Writer) int {
	app := newApp(stdout, stderr)
	tidied, err := tidyArgv(app, argv)
	if err == nil {
		err = app.RunContext(ctx, tidied)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", app.Name, err)
	}
	return exitCode(err)
}

// newApp is the command tree. Flags keep what they were set to, so every run
// needs a new one.
func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "curve-nbd",
		Usage:     "Curve volumes as network block devices",
		UsageText: "curve-nbd COMMAND [command options] [arguments]",
		Description: `A gateway that offers volumes over NBD, and the store behind them.

Start a gateway, make a volume, look at it:
   curve-nbd serve --data-dir ./data --nbd-listen unix:/run/curve-nbd/nbd.sock
   curve-nbd volume create pg-data --size 10G
   nbdinfo 'nbd+unix:///pg-data?socket=/run/curve-nbd/nbd.sock'

Or with replicas, on a cluster of processes on this machine:
   curve-nbd cluster up
   curve-nbd serve --mds 127.0.0.1:6700 --nbd-listen unix:/run/curve-nbd/nbd.sock

Every setting may stand in the environment (CURVE_DATA_DIR for --data-dir)
or in /etc/curve/curve-nbd.yaml (data_dir: ...). Flags beat the environment,
which beats the file.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 busy, 5 exists,
6 gateway or MDS unreachable, 7 degraded.`,
		HideVersion:          true,
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		Writer:               stdout,
		ErrWriter:            stderr,
		// run prints errors and picks the exit code.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Commands: []*cli.Command{
			serveCommand(),
			volumeCommand(),
			targetCommand(),
			lunCommand(),
			aclCommand(),
			chapCommand(),
			mapCommand(),
			unmapCommand(),
			listMappedCommand(),
			claimDeviceCommand(),
			statusCommand(),
			healthCommand(),
			mdsCommand(),
			chunkserverCommand(),
			clusterCommand(),
			copysetCommand(),
			leaderCommand(),
			benchCommand(),
			completionCommand(),
			manCommand(),
			versionCommand(),
		},
	}
	eachCommand(app.Commands, finishCommand)
	return app
}

// finishCommand gives a command what all have in common.
func finishCommand(c *cli.Command) {
	c.HideHelpCommand = true
	c.OnUsageError = onUsageError
	if c.Action == nil {
		return
	}
	action := c.Action
	c.Action = func(ctx *cli.Context) error {
		if err := applySettings(ctx); err != nil {
			return err
		}
		return named(ctx, action(ctx))
	}
}

// onUsageError gets what cli finds wrong with a flag's value.
func onUsageError(_ *cli.Context, err error, _ bool) error {
	return usagef("%v", err)
}

// named puts the command and its first argument before an error's words.
func named(ctx *cli.Context, err error) error {
	if err == nil {
		return nil
	}
	words := strings.TrimPrefix(ctx.Command.HelpName, ctx.App.Name+" ")
	if arg := ctx.Args().First(); arg != "" {
		words += " " + arg
	}
	return fmt.Errorf("%s: %w", words, err)
}

// arguments returns the arguments of a command that takes exactly the named
// ones.
func arguments(ctx *cli.Context, names ...string) ([]string, error) {
	args := ctx.Args().Slice()
	switch {
	case len(args) < len(names):
		return nil, usagef("missing argument %s; see %s --help", names[len(args)], ctx.Command.HelpName)
	case len(args) > len(names):
		return nil, usagef("unexpected argument %q; see %s --help", args[len(names)], ctx.Command.HelpName)
	}
	for i, arg := range args {
		if !utf8.ValidString(arg) { // what goes to a gateway as a string has to be
			return nil, usagef("%s %q is not UTF-8", names[i], arg)
		}
	}
	return args, nil
}
