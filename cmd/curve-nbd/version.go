package main

import (
	"runtime"
	"runtime/debug"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "show what was built, and from what",
		Description: "   curve-nbd version\n   curve-nbd version -o json",
		Flags:       []cli.Flag{outputFlag()},
		Action: func(ctx *cli.Context) error {
			if _, err := arguments(ctx); err != nil {
				return err
			}
			return show(ctx, buildVersion())
		},
	}
}

// versionView comes from what the Go linker noted in the binary.
type versionView struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"`
	Time     string `json:"commit_time"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildVersion() versionView {
	v := versionView{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func (v versionView) table(t table.Writer) {
	commit := orDash(v.Commit)
	if v.Modified {
		commit += " (modified)"
	}
	t.AppendRow(table.Row{"Version", v.Version})
	t.AppendRow(table.Row{"Commit", commit})
	t.AppendRow(table.Row{"Built with", v.Go + " for " + v.Platform})
}
