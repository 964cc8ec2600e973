package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsMayStandAnywhere(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"flag after argument", "volume create pg --size 10G", "volume create --size=10G -- pg"},
		{"flag before argument", "volume create --size 10G pg", "volume create --size=10G -- pg"},
		{"value after equals", "volume create pg --size=10G", "volume create --size=10G -- pg"},
		{"value with equals in it", "volume list --config=a=b", "volume list --config=a=b"},
		{"one dash", "volume create pg -size 10G", "volume create --size=10G -- pg"},
		{"short alias", "volume create -s 10G pg -o json", "volume create --size=10G --output=json -- pg"},
		{"short alias with equals", "volume info pg -o=json", "volume info --output=json -- pg"},
		{"flag before the command", "--control unix:/x -o json volume list", "volume list --control=unix:/x --output=json"},
		{"flag between command words", "volume -o yaml list", "volume list --output=yaml"},
		{"switch takes no value", "volume rm --purge pg", "volume rm --purge -- pg"},
		{"switch with a value", "volume rm pg --purge=false", "volume rm --purge=false -- pg"},
		{"repeated flag", "serve --nbd-listen unix:/a --nbd-listen tcp:b:1", "serve --nbd-listen=unix:/a --nbd-listen=tcp:b:1"},
		{"negative value", "volume create pg --size -5", "volume create --size=-5 -- pg"},
		{"negative argument", "volume resize pg -5", "volume resize -- pg -5"},
		{"value that looks like a flag", "volume create pg --size --purge", "volume create --size=--purge -- pg"},
		{"value that is two dashes", "volume create pg --size --", "volume create --size=-- -- pg"},
		{"after two dashes all are arguments", "volume info -o json -- --size", "volume info --output=json -- --size"},
		{"argument named like a command", "volume info list", "volume info -- list"},
		{"argument named help", "volume info help", "volume info -- help"},
		{"single dash is an argument", "volume info -", "volume info -- -"},
		{"command alias", "volume ls", "volume list"},
		{"help flag beats mistakes", "volume create --nonsense --help", "volume create --help"},
		{"help command", "help volume create", "volume create --help"},
		{"help in the middle", "volume help create", "volume create --help"},
		{"help alone", "help", "--help"},
		{"version flag", "--version", "version"},
		{"command that needs no subcommand", "chunkserver --zone a", "chunkserver --zone=a"},
		{"subcommand of a command that needs none", "chunkserver --mds a:1 list", "chunkserver list --mds=a:1"},
		{"empty value", "volume list --control=", "volume list --control="},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := tidyArgv(newApp(io.Discard, io.Discard), strings.Fields("curve-nbd "+c.line))
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Fields("curve-nbd " + c.want); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestMistakesOnTheCommandLineAreNamed(t *testing.T) {
	for _, c := range []struct{ name, line, says string }{
		{"no command", "", "missing command"},
		{"no subcommand", "volume", "create, list, info"},
		{"unknown command", "volme list", `unknown command "volme"`},
		{"unknown command, suggestion", "volme list", `Did you mean "volume"?`},
		{"unknown subcommand", "volume lst", `Did you mean "list"?`},
		{"unknown flag", "volume create pg --sise 1G", `unknown flag --sise. Did you mean "--size"?`},
		{"flag of another command", "volume list --purge", "unknown flag --purge"},
		{"unknown flag says which without its value", "volume list --colour=red", "unknown flag --colour"},
		{"argument of a command with subcommands", "chunkserver lst", `Did you mean "list"?`},
		{"flag of the server for a subcommand", "chunkserver list --zone a", "unknown flag --zone"},
		{"value missing", "volume create pg --size", "--size needs a value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tidyArgv(newApp(io.Discard, io.Discard), strings.Fields("curve-nbd "+c.line))
			if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a usage error that says %q", err, c.says)
			}
		})
	}
}

// tidyArgv reads a flag before it knows the command, so a name must always be
// the same kind of flag; and a command either has subcommands or an action.
func TestCommandTreeIsUnambiguous(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	kinds := map[string]bool{}
	both := []string{"chunkserver"} // a server by itself; its subcommands ask about all
	eachCommand(app.Commands, func(c *cli.Command) {
		if (c.Action == nil) == (len(c.Subcommands) == 0) && !slices.Contains(both, c.Name) {
			t.Errorf("%s must have an action or subcommands, not both or neither", c.Name)
		}
		if c.Usage == "" || !strings.Contains(c.Description, "curve-nbd") {
			t.Errorf("%s: help needs a line of usage and an example", c.Name)
		}
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				if kind, seen := kinds[name]; seen && kind != takesValue(f) {
					t.Errorf("flag %s takes a value in one command and none in another", name)
				}
				kinds[name] = takesValue(f)
			}
		}
	})
}

func TestCompletionRequestIsLeftAsItIs(t *testing.T) {
	line := []string{"curve-nbd", "volume", "--unknown", completionFlag}
	got, err := tidyArgv(newApp(io.Discard, io.Discard), slices.Clone(line))
	if err != nil || !slices.Equal(got, line) {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzTidyArgv(f *testing.F) {
	f.Add("volume create pg --size 10G -o json")
	f.Add("--version help -- -5 --=")
	f.Add("volume rm --purge=x -h --")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := tidyArgv(newApp(io.Discard, io.Discard), append([]string{"curve-nbd"}, strings.Fields(line)...))
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Fatalf("%q: %v is not a usage error", line, err)
			}
			return
		}
		if strings.HasSuffix(line, completionFlag) {
			return
		}
		again, err := tidyArgv(newApp(io.Discard, io.Discard), slices.Clone(got))
		if err != nil || !slices.Equal(got, again) {
			t.Fatalf("%q became %q, and that %q (%v): tidying must end after once", line, got, again, err)
		}
	})
}
