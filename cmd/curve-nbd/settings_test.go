package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// settingsSeen runs a command line of serve and returns what reached it.
func settingsSeen(t *testing.T, args ...string) (seen map[string]string, listen []string, err error) {
	t.Helper()
	app := newApp(io.Discard, io.Discard)
	for _, c := range app.Commands {
		if c.Name != "serve" {
			continue
		}
		c.Action = func(ctx *cli.Context) error {
			if err := applySettings(ctx); err != nil {
				return err
			}
			seen = map[string]string{
				"data-dir": ctx.String("data-dir"), "log-level": ctx.String("log-level"),
				"drain-timeout": ctx.Duration("drain-timeout").String(),
			}
			listen = ctx.StringSlice("nbd-listen")
			return nil
		}
	}
	argv, err := tidyArgv(app, append([]string{"curve-nbd", "serve"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	return seen, listen, app.Run(argv)
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "curve-nbd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	file := configFile(t, "data_dir: /from/file\nlog_level: debug\ndrain_timeout: 7s\n")
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"default", nil, nil, "./data"},
		{"file", nil, []string{"--config", file}, "/from/file"},
		{"file named by environment", map[string]string{"CURVE_CONFIG": file}, nil, "/from/file"},
		{"environment", map[string]string{"CURVE_DATA_DIR": "/from/env"}, []string{"--config", file}, "/from/env"},
		{"flag", map[string]string{"CURVE_DATA_DIR": "/from/env"}, []string{"--config", file, "--data-dir", "/from/flag"}, "/from/flag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			seen, _, err := settingsSeen(t, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			if seen["data-dir"] != c.want {
				t.Errorf("data-dir is %q, want %q", seen["data-dir"], c.want)
			}
			if c.name != "default" && (seen["log-level"] != "debug" || seen["drain-timeout"] != "7s") {
				t.Errorf("the rest of the file was lost: %v", seen)
			}
		})
	}
}

func TestListInFileReplacesTheDefault(t *testing.T) {
	want := []string{"unix:/a", "tcp:127.0.0.1:0"}
	for _, text := range []string{"nbd_listen: [unix:/a, 'tcp:127.0.0.1:0']", "nbd_listen: unix:/a,tcp:127.0.0.1:0"} {
		_, listen, err := settingsSeen(t, "--config", configFile(t, text))
		if err != nil || !slices.Equal(listen, want) {
			t.Errorf("%s: got %q, %v; want %q", text, listen, err, want)
		}
	}
	_, listen, err := settingsSeen(t, "--config", configFile(t, "nbd_listen: unix:/a"), "--nbd-listen", "unix:/b")
	if err != nil || !slices.Equal(listen, []string{"unix:/b"}) {
		t.Errorf("flag over file: got %q, %v", listen, err)
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	for _, c := range []struct{ name, text, says string }{
		{"unknown key", "data_dir: x\ncolour: red\n", `unknown key "colour"`},
		{"unknown key says which there are", "colour: red\n", "data_dir"},
		{"flag spelling", "data-dir: x\n", `unknown key "data-dir"`},
		{"bad duration", "drain_timeout: soon\n", "key drain_timeout"},
		{"no value", "data_dir:\n", "key data_dir"},
		{"map for a value", "data_dir: {a: b}\n", "key data_dir"},
		{"not YAML", "data_dir: [\n", "want YAML"},
		{"not a map", "- a\n- b\n", "want YAML"},
		{"duplicate key", "data_dir: a\ndata_dir: b\n", "want YAML"},
		{"too large", strings.Repeat("#", maxConfigBytes+1), "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := configFile(t, c.text)
			_, _, err := settingsSeen(t, "--config", path)
			if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want a usage error that says %q and names the file", err, c.says)
			}
		})
	}
	t.Run("missing file that was named", func(t *testing.T) {
		if _, _, err := settingsSeen(t, "--config", "/no/such/file"); !errors.Is(err, errUsage) {
			t.Errorf("got %v, want a usage error", err)
		}
	})
	t.Run("bad environment", func(t *testing.T) {
		t.Setenv("CURVE_DRAIN_TIMEOUT", "soon")
		if _, _, err := settingsSeen(t); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), "CURVE_DRAIN_TIMEOUT") {
			t.Errorf("got %v, want a usage error that names the variable", err)
		}
	})
}

func TestDefaultControlIsTheUsersOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
		if got := defaultControl(); got != "unix:/run/user/7/curve-nbd/control.sock" {
			t.Errorf("got %s", got)
		}
		t.Setenv("XDG_RUNTIME_DIR", "")
	}
	if got := defaultControl(); got != "unix:/run/curve-nbd/control.sock" {
		t.Errorf("got %s", got)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("data_dir: x\nnbd_listen: [a, b]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? {}\n: -\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 {
			return // readConfig bounds the size; a slow parse of large input finds nothing new
		}
		if _, err := parseConfig("file", text); err != nil && !errors.Is(err, errUsage) {
			t.Fatalf("%q: %v is not a usage error", text, err)
		}
	})
}
