package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag asks for completions instead of a run; cli adds it itself and
// wants it last and the words before it untouched.
const completionFlag = "--generate-bash-completion"

// tidyArgv rewrites a command line so that cli, which stops looking for flags
// at the first argument, sees every flag:
//
//	volume create pg --size 10G -o json   ->   volume create --size=10G --output=json -- pg
//
// Flags may stand anywhere, in front of the command too. A flag that takes a
// value takes the next word whatever it looks like; after "--" all words are
// arguments; a word like -5 that is no flag is an argument. What cli would call
// wrong in its own words (unknown flag, unknown command) is found here.
func tidyArgv(app *cli.App, argv []string) ([]string, error) {
	if len(argv) == 0 || argv[len(argv)-1] == completionFlag {
		return argv, nil
	}
	l := commandLine{app: app, anyFlag: flagsOf(app)}
	words := argv[1:]
	for len(words) > 0 {
		var err error
		if words, err = l.take(words); err != nil {
			return nil, err
		}
	}
	return l.tidy(argv[0])
}

// commandLine is a command line half read.
type commandLine struct {
	app     *cli.App
	anyFlag map[string]cli.Flag // by name and alias, of all commands

	path  []*cli.Command // the command so far
	flags []givenFlag
	args  []string
	help  bool
	// version: --version in place of a command.
	version bool
}

// givenFlag is a flag as it was given; flag is nil when no command has it.
type givenFlag struct {
	name  string
	flag  cli.Flag
	value string
	bare  bool // no value: a switch
}

// take reads one flag, command or argument and returns the words after it.
func (l *commandLine) take(words []string) ([]string, error) {
	word, rest := words[0], words[1:]
	switch {
	case word == "--":
		l.args = append(l.args, rest...)
		return nil, nil
	case isFlag(word):
		return l.takeFlag(word, rest)
	case len(l.subcommands()) == 0:
		l.args = append(l.args, word)
	case word == "help":
		l.help = true
	default:
		i := slices.IndexFunc(l.subcommands(), func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			return nil, l.unknownCommand(word)
		}
		l.path = append(l.path, l.subcommands()[i])
	}
	return rest, nil
}

func (l *commandLine) takeFlag(word string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	switch {
	case name == "help" || name == "h":
		l.help = true
		return rest, nil
	case name == "version" && len(l.path) == 0:
		l.version = true
		return rest, nil
	}
	known := l.anyFlag[name]
	if known == nil && isNumber(word) {
		l.args = append(l.args, word)
		return rest, nil
	}
	given := givenFlag{name: word, flag: known, value: value, bare: !hasValue}
	if known != nil && takesValue(known) && !hasValue {
		if len(rest) == 0 {
			return nil, usagef("flag %s needs a value; see %s --help", word, l.name())
		}
		given.value, given.bare, rest = rest[0], false, rest[1:]
	}
	l.flags = append(l.flags, given)
	return rest, nil
}

// tidy is the rewritten line.
func (l *commandLine) tidy(program string) ([]string, error) {
	out := []string{program}
	if l.version && len(l.path) == 0 {
		return append(out, "version"), nil
	}
	for _, c := range l.path {
		out = append(out, c.Name)
	}
	if l.help {
		return append(out, "--help"), nil
	}
	if subs := l.subcommands(); len(subs) > 0 && !l.runnable() {
		return nil, usagef("missing command: %s has %s; see %s --help", l.name(), commandNames(subs), l.name())
	}
	own := l.path[len(l.path)-1].Flags
	for _, f := range l.flags {
		if f.flag == nil || !hasFlagNamed(own, f.flag.Names()[0]) {
			return nil, l.unknownFlag(f.name, own)
		}
		word := "--" + f.flag.Names()[0]
		if !f.bare {
			word += "=" + f.value
		}
		out = append(out, word)
	}
	if len(l.args) > 0 {
		out = append(append(out, "--"), l.args...)
	}
	return out, nil
}

// runnable says whether the command so far does something without a subcommand:
// `chunkserver` alone is a server, `chunkserver list` asks about them.
func (l *commandLine) runnable() bool {
	return len(l.path) > 0 && l.path[len(l.path)-1].Action != nil
}

func (l *commandLine) subcommands() []*cli.Command {
	if len(l.path) == 0 {
		return l.app.Commands
	}
	return l.path[len(l.path)-1].Subcommands
}

// name is the command so far as the user would type it.
func (l *commandLine) name() string {
	words := []string{l.app.Name}
	for _, c := range l.path {
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

func (l *commandLine) unknownCommand(word string) error {
	subs := l.subcommands()
	return usagef("unknown command %q. %s %s has %s", word, cli.SuggestCommand(subs, word), l.name(), commandNames(subs))
}

func (l *commandLine) unknownFlag(word string, own []cli.Flag) error {
	name, _, _ := strings.Cut(word, "=")
	suggestion := ""
	if flag := cli.SuggestFlag(own, strings.TrimLeft(name, "-"), false); flag != "" {
		suggestion = fmt.Sprintf(cli.SuggestDidYouMeanTemplate, flag) + " "
	}
	return usagef("unknown flag %s. %sSee %s --help", name, suggestion, l.name())
}

func commandNames(commands []*cli.Command) string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, ", ")
}

// flagsOf maps every name of every flag of the tree to a flag. A name means the
// same kind of flag (a switch, or with a value) wherever it stands; a test
// holds the tree to that.
func flagsOf(app *cli.App) map[string]cli.Flag {
	all := map[string]cli.Flag{}
	eachCommand(app.Commands, func(c *cli.Command) {
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				all[name] = f
			}
		}
	})
	return all
}

// eachCommand visits the commands and all below them.
func eachCommand(commands []*cli.Command, visit func(*cli.Command)) {
	for _, c := range commands {
		visit(c)
		eachCommand(c.Subcommands, visit)
	}
}

func hasFlagNamed(flags []cli.Flag, name string) bool {
	return slices.ContainsFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
}

func takesValue(f cli.Flag) bool {
	doc, ok := f.(cli.DocGenerationFlag)
	return ok && doc.TakesValue()
}

// isFlag says whether a word has the form of a flag; "-" alone has not.
func isFlag(word string) bool { return len(word) > 1 && word[0] == '-' }

func isNumber(word string) bool {
	rest := word[1:]
	return rest != "" && (rest[0] >= '0' && rest[0] <= '9' || rest[0] == '.')
}
