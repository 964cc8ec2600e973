package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/goccy/go-yaml"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"
)

// outputFlag is what every command takes that has a result to show.
func outputFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "output", Aliases: []string{"o"}, Usage: "print the result as `table|json|yaml`",
		Value: "table", EnvVars: env("output"),
		Action: func(_ *cli.Context, format string) error { return checkOutput(format) },
	}
}

func checkOutput(format string) error {
	switch format {
	case "table", "json", "yaml":
		return nil
	}
	return usagef("output format %q: use table, json or yaml", format)
}

// result is something a command shows. Its JSON form is a contract: keys in
// snake_case, sizes in bytes, durations in seconds, times as RFC 3339.
type result interface {
	// table draws it for people.
	table(t table.Writer)
}

// show prints a result alone on stdout in the format the user chose.
func show(ctx *cli.Context, r result) error {
	return write(ctx.App.Writer, ctx.String("output"), r)
}

func write(w io.Writer, format string, r result) error {
	// Checked again: the configuration file is read after the flag's Action.
	if err := checkOutput(format); err != nil {
		return err
	}
	if format == "table" {
		t := newTable()
		r.table(t)
		_, err := fmt.Fprintln(w, t.Render())
		return err
	}
	var encoded []byte
	var err error
	if format == "json" {
		encoded, err = json.MarshalIndent(r, "", "  ")
	} else {
		// This package takes the json tags where there are no yaml ones, so the
		// keys are the same. All text is quoted: a volume may be named 1e3, yes
		// or -.inf, and readers of YAML differ in what they take for a text.
		encoded, err = yaml.MarshalWithOptions(r, yaml.CustomMarshaler(func(s string) ([]byte, error) { return json.Marshal(s) }))
	}
	if err != nil {
		return err
	}
	if n := len(encoded); n == 0 || encoded[n-1] != '\n' {
		encoded = append(encoded, '\n')
	}
	_, err = w.Write(encoded)
	return err
}

// newTable has neither frames nor colours: easy on the eye, and awk can cut it.
func newTable() table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Name = "plain"
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	return t
}
