package main

import (
	"log/slog"

	"github.com/urfave/cli/v2"
)

func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Usage: "log `debug|info|warn|error` and above", Value: "info", EnvVars: env("log-level")},
		&cli.StringFlag{Name: "log-format", Usage: "log as `text|json`", Value: "text", EnvVars: env("log-format")},
	}
}

// newLogger logs to stderr as the flags say.
func newLogger(ctx *cli.Context) (*slog.Logger, error) {
	var opts slog.HandlerOptions
	switch level := ctx.String("log-level"); level {
	case "debug":
		opts.Level = slog.LevelDebug
	case "info":
		opts.Level = slog.LevelInfo
	case "warn":
		opts.Level = slog.LevelWarn
	case "error":
		opts.Level = slog.LevelError
	default:
		return nil, usagef("log level %q: use debug, info, warn or error", level)
	}
	switch format := ctx.String("log-format"); format {
	case "text":
		return slog.New(slog.NewTextHandler(ctx.App.ErrWriter, &opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(ctx.App.ErrWriter, &opts)), nil
	default:
		return nil, usagef("log format %q: use text or json", format)
	}
}
