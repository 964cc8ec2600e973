package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name:  "man",
		Usage: "print the manual page",
		Description: `Prints what --help says of all commands as one manual page.

   curve-nbd man | man -l -
   curve-nbd man > /usr/local/share/man/man8/curve-nbd.8`,
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			var page manPage
			page.app(ctx.App)
			_, err := io.WriteString(ctx.App.Writer, page.String())
			return err
		},
	}
}

// manPage is a manual page in the making. cli's own has neither the descriptions of
// commands nor their examples.
type manPage struct{ strings.Builder }

func (p *manPage) app(app *cli.App) {
	fmt.Fprintf(p, ".TH %s 8\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(app.Name)), roff(app.Name), roff(app.Usage))
	fmt.Fprintf(p, ".SH SYNOPSIS\n%s\n.SH DESCRIPTION\n", roff(app.UsageText))
	p.text(app.Description)
	p.WriteString(".SH COMMANDS\n")
	p.commands(app.Name, app.Commands)
}

func (p *manPage) commands(parent string, commands []*cli.Command) {
	for _, c := range commands {
		if c.Hidden {
			continue
		}
		name := parent + " " + c.Name
		fmt.Fprintf(p, ".SS %s\n%s.\n", roff(strings.TrimSpace(name+" "+c.ArgsUsage)), roff(c.Usage))
		p.text(c.Description)
		for _, f := range c.VisibleFlags() {
			flag, usage, _ := strings.Cut(f.String(), "\t")
			fmt.Fprintf(p, ".TP\n.B %s\n%s\n", roff(flag), roff(usage))
		}
		p.commands(name, c.Subcommands)
	}
}

// text is paragraphs, and lines that are set in, which stay as they are.
func (p *manPage) text(s string) {
	asIs := false
	p.WriteString(".PP\n")
	for line := range strings.SplitSeq(s, "\n") {
		in := strings.HasPrefix(line, " ")
		switch {
		case in && !asIs:
			p.WriteString(".nf\n")
		case !in && asIs:
			p.WriteString(".fi\n")
		}
		if asIs = in; line == "" {
			line = ".PP"
		} else {
			line = roff(line)
		}
		p.WriteString(line + "\n")
	}
	if asIs {
		p.WriteString(".fi\n")
	}
}

// roff is text that the formatter takes for text.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
