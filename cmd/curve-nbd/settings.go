package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"
)

// A setting is a flag that may also stand in the environment and in the
// configuration file: --data-dir is CURVE_DATA_DIR and data_dir. A flag is a
// setting if it has an environment variable; cli reads that one, and
// applySettings the file. The flag beats the variable beats the file.

const (
	defaultConfigFile = "/etc/curve/curve-nbd.yaml"
	// maxConfigBytes is far above any real file and keeps a wrong path (a disk
	// image, /dev/zero) from being read to its end.
	maxConfigBytes = 1 << 20

	defaultControlTimeout = 30 * time.Second
)

// env names the environment variable of a setting.
func env(flag string) []string {
	return []string{"CURVE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

// settingKey names the setting in the configuration file.
func settingKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// configFlag is what every command with settings takes.
func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "config", Usage: "read settings from `FILE`", Value: defaultConfigFile, EnvVars: env("config"),
	}
}

// clientFlags are what every command takes that asks a gateway.
func clientFlags() []cli.Flag {
	return []cli.Flag{
		controlFlag("ask the gateway at `ADDR`"),
		&cli.DurationFlag{
			Name: "control-timeout", Usage: "give up when the gateway has not answered for `D`",
			Value: defaultControlTimeout, EnvVars: env("control-timeout"),
		},
		configFlag(),
	}
}

func controlFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "control", Usage: usage, Value: defaultControl(), EnvVars: env("control")}
}

// defaultControl is where a gateway listens unless told otherwise: a system
// directory for root, the user's own otherwise.
func defaultControl() string {
	dir := "/run"
	if runtimeDir := os.Getenv("XDG_RUNTIME_DIR"); os.Getuid() != 0 && runtimeDir != "" {
		dir = runtimeDir
	}
	return "unix:" + filepath.Join(dir, "curve-nbd", "control.sock")
}

// applySettings fills the command's settings that neither flag nor environment
// gave from the configuration file.
func applySettings(ctx *cli.Context) error {
	if !hasFlagNamed(ctx.Command.Flags, "config") {
		return nil
	}
	path := ctx.String("config")
	file, err := readConfig(path, ctx.IsSet("config"))
	if err != nil {
		return err
	}
	known := settingsOf(ctx.App)
	for _, key := range slices.Sorted(maps.Keys(file)) {
		if !known[key] {
			return usagef("%s: unknown key %q: the keys are %s", path, key, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	for _, f := range ctx.Command.Flags {
		name := f.Names()[0]
		value, given := file[settingKey(name)]
		if !given || !isSetting(f) || ctx.IsSet(name) {
			continue
		}
		if err := setFrom(ctx, name, value); err != nil {
			return usagef("%s: key %s: %v", path, settingKey(name), err)
		}
	}
	return nil
}

// readConfig reads the file at path; without one there are no settings, unless
// it was asked for by name.
func readConfig(path string, required bool) (map[string]any, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, nil
	}
	if err != nil {
		return nil, usagef("configuration file: %v", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigBytes+1))
	switch {
	case err != nil:
		return nil, usagef("configuration file: %v", err)
	case len(text) > maxConfigBytes:
		return nil, usagef("configuration file %s is larger than %d bytes: is it the right file?", path, maxConfigBytes)
	}
	return parseConfig(path, text)
}

func parseConfig(path string, text []byte) (map[string]any, error) {
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, usagef("configuration file %s: want YAML lines like `data_dir: PATH`: %s",
			path, strings.TrimSpace(yaml.FormatError(err, false, false)))
	}
	return values, nil
}

// setFrom gives a flag the value of a YAML node: a scalar, or a list of them.
func setFrom(ctx *cli.Context, name string, value any) error {
	values, isList := value.([]any)
	if !isList {
		values = []any{value}
	}
	for _, v := range values {
		switch v.(type) {
		case string, bool, int64, uint64, float64, int:
		default:
			return fmt.Errorf("want a text, a number, true or false, or a list of them; found %T", v)
		}
		if err := ctx.Set(name, fmt.Sprint(v)); err != nil {
			return err
		}
	}
	return nil
}

// settingsOf is every key a configuration file may hold: all commands share
// one file.
func settingsOf(app *cli.App) map[string]bool {
	keys := map[string]bool{}
	eachCommand(app.Commands, func(c *cli.Command) {
		for _, f := range c.Flags {
			if isSetting(f) && f.Names()[0] != "config" {
				keys[settingKey(f.Names()[0])] = true
			}
		}
	})
	return keys
}

func isSetting(f cli.Flag) bool {
	doc, ok := f.(cli.DocGenerationFlag)
	return ok && len(doc.GetEnvVars()) > 0
}
