package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/opencurve/curve-nbd/gateway/control"
)

func chapCommand() *cli.Command {
	return &cli.Command{
		Name:      "chap",
		Usage:     "say what initiators and iSCSI targets prove themselves with",
		UsageText: "curve-nbd chap COMMAND [command options] ...",
		Description: `Once a target has a user, initiators must prove that they know the secret of one.
With --mutual the target has a secret too, for initiators that want proof of it; that
one must differ from every user's. --discovery stands for discovery sessions, which
ask a gateway for its targets.

   curve-nbd chap set iqn.2026-11.io.curve:vm1 --user u --secret-file u.secret
   curve-nbd chap set iqn.2026-11.io.curve:vm1 --user t --secret-file t.secret --mutual
   curve-nbd chap set --discovery --user u --secret-file -

Secrets have 12 to 255 bytes; Windows takes 12 to 16. They are never shown again, but
CHAP needs them as they are: who can read the metadata's files can read them.`,
		Subcommands: []*cli.Command{
			chapSetCommand(),
			chapListCommand(),
			chapRmCommand(),
		},
	}
}

func chapFlags(more ...cli.Flag) []cli.Flag {
	flags := append([]cli.Flag{
		&cli.BoolFlag{Name: "discovery", Usage: "for discovery sessions, instead of a target"},
	}, more...)
	return append(append(flags, outputFlag()), clientFlags()...)
}

func chapSetCommand() *cli.Command {
	return &cli.Command{
		Name:      "set",
		Usage:     "add a user, or change a secret",
		ArgsUsage: "IQN|--discovery",
		Description: `The secret comes from a file, or with - from stdin, never from the command line,
which others can see; a terminal does not show it. One newline at its end is dropped. Who is logged in stays so; the
new secret counts from the next login on.

   (umask 077; head -c 12 /dev/urandom | base64 | tr -d '\n' > u.secret)   # 16 letters
   curve-nbd chap set iqn.2026-11.io.curve:vm1 --user u --secret-file u.secret
   pass show curve/vm1 | curve-nbd chap set iqn.2026-11.io.curve:vm1 --user u --secret-file -`,
		Flags: chapFlags(
			&cli.StringFlag{Name: "user", Usage: "the `NAME` that is given with the proof (required)"},
			&cli.StringFlag{Name: "secret-file", Usage: "read the secret from `FILE`, - for stdin (required)"},
			&cli.BoolFlag{Name: "mutual", Usage: "it is what the target proves itself with"},
		),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			target, err := chapTarget(ctx)
			if err != nil {
				return err
			}
			for _, flag := range []string{"user", "secret-file"} {
				if ctx.String(flag) == "" {
					return usagef("missing flag --%s; see %s --help", flag, ctx.Command.HelpName)
				}
			}
			secret, err := readSecret(ctx, ctx.String("secret-file"))
			if err != nil {
				return err
			}
			return showLogin(ctx, target, func(deadline context.Context, gw *control.Client) (control.Login, error) {
				return gw.SetCredential(deadline, target, control.Credential{Mutual: ctx.Bool("mutual"), User: ctx.String("user"), Secret: secret})
			})
		},
	}
}

func chapListCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Aliases:   []string{"ls"},
		Usage:     "list who can prove themselves",
		ArgsUsage: "IQN|--discovery",
		Description: `Lists the users of a target, and the name that it proves itself under; no secrets.

   curve-nbd chap list iqn.2026-11.io.curve:vm1
   curve-nbd chap list --discovery -o json`,
		Flags:        chapFlags(),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			target, err := chapTarget(ctx)
			if err != nil {
				return err
			}
			return showLogin(ctx, target, func(deadline context.Context, gw *control.Client) (control.Login, error) {
				return gw.Login(deadline, target)
			})
		},
	}
}

func chapRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "forget a user, or the target's own secret",
		ArgsUsage: "IQN|--discovery",
		Description: `Forgets a user's secret, or with --mutual the target's own. Without its last user a
target asks for no proof any more: then only its access list says who may log in.

   curve-nbd chap rm iqn.2026-11.io.curve:vm1 --user u
   curve-nbd chap rm iqn.2026-11.io.curve:vm1 --mutual`,
		Flags: chapFlags(
			&cli.StringFlag{Name: "user", Usage: "forget the user of this `NAME`"},
			&cli.BoolFlag{Name: "mutual", Usage: "forget what the target proves itself with"},
		),
		BashComplete: completeTargets,
		Action: func(ctx *cli.Context) error {
			target, err := chapTarget(ctx)
			if err != nil {
				return err
			}
			if (ctx.String("user") == "") != ctx.Bool("mutual") {
				return usagef("say what to forget: --user NAME or --mutual, one of them")
			}
			return showLogin(ctx, target, func(deadline context.Context, gw *control.Client) (control.Login, error) {
				return gw.RemoveCredential(deadline, target, control.Credential{Mutual: ctx.Bool("mutual"), User: ctx.String("user")})
			})
		},
	}
}

// chapTarget is the argument, "" for --discovery.
func chapTarget(ctx *cli.Context) (string, error) {
	if ctx.Bool("discovery") {
		_, err := arguments(ctx)
		return "", err
	}
	args, err := arguments(ctx, "IQN")
	switch {
	case err != nil:
		if ctx.NArg() == 0 {
			return "", fmt.Errorf("%w (or --discovery)", err)
		}
		return "", err
	case args[0] == "":
		return "", usagef("the target's name is empty")
	}
	return args[0], nil
}

// maxSecretFile is above any secret, and keeps a wrong path from being read to its
// end.
const maxSecretFile = 4096

// readSecret reads a secret from a file, or for - from stdin. No error says any of
// it.
func readSecret(ctx *cli.Context, path string) (control.Secret, error) {
	in, name := ctx.App.Reader, "stdin"
	if path == "-" {
		if stdin, ok := in.(*os.File); ok && term.IsTerminal(int(stdin.Fd())) {
			return typedSecret(ctx, stdin)
		}
	} else {
		file, err := os.Open(path)
		if err != nil {
			return nil, usagef("--secret-file: %v", err)
		}
		defer file.Close()
		in, name = file, path
		if info, err := file.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			fmt.Fprintf(ctx.App.ErrWriter, "warning: others may read %s (mode %#o): chmod 600 it\n", path, info.Mode().Perm())
		}
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	if err != nil {
		return nil, usagef("--secret-file: read %s: %v", name, err)
	}
	if len(text) > maxSecretFile {
		return nil, usagef("--secret-file: %s has more than %d bytes: is it the right file?", name, maxSecretFile)
	}
	return checkSecret(bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), name)
}

// typedSecret reads a secret from a terminal, which does not show it.
func typedSecret(ctx *cli.Context, terminal *os.File) (control.Secret, error) {
	fmt.Fprint(ctx.App.ErrWriter, "secret (not shown): ")
	secret, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(ctx.App.ErrWriter)
	if err != nil {
		return nil, usagef("--secret-file: read the terminal: %v", err)
	}
	return checkSecret(secret, "what was typed")
}

func checkSecret(secret []byte, name string) (control.Secret, error) {
	switch {
	case len(secret) == 0:
		return nil, usagef("--secret-file: %s is empty", name)
	case bytes.ContainsAny(secret, "\r\n"):
		return nil, usagef("--secret-file: %s has more than one line: give the secret alone", name)
	}
	return secret, nil
}

// loginView is who can prove themselves, as JSON shows it.
type loginView struct {
	// Target is empty for discovery.
	Target     string   `json:"target"`
	Discovery  bool     `json:"discovery"`
	Users      []string `json:"users"`
	MutualUser string   `json:"mutual_user"`
}

func (v loginView) table(t table.Writer) {
	t.AppendHeader(table.Row{"User", "Proves"})
	for _, u := range v.Users {
		t.AppendRow(table.Row{u, "the initiator"})
	}
	if v.MutualUser != "" {
		t.AppendRow(table.Row{v.MutualUser, "the target (mutual)"})
	}
}

func showLogin(ctx *cli.Context, target string, ask func(context.Context, *control.Client) (control.Login, error)) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		l, err := ask(deadline, gw)
		if err != nil {
			return err
		}
		if len(l.Users) == 0 {
			fmt.Fprintln(ctx.App.ErrWriter, "there are no users: initiators need not prove anything")
		}
		return show(ctx, loginView{Target: strings.ToLower(target), Discovery: target == "", Users: append([]string{}, l.Users...), MutualUser: l.Mutual})
	})
}
