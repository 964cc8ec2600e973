package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// installation is a directory that scripts/install.sh installs into.
type installation struct {
	t    *testing.T
	root string
}

func (i installation) run(args ...string) (out string, err error) {
	i.t.Helper()
	cmd := exec.Command("../../../scripts/install.sh", args...)
	cmd.Env = append(cleanEnv(), "DESTDIR="+i.root)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func (i installation) must(args ...string) {
	i.t.Helper()
	if out, err := i.run(args...); err != nil {
		i.t.Fatalf("install.sh %q: %v\n%s", args, err, out)
	}
}

func (i installation) files() (list []string) {
	i.t.Helper()
	err := filepath.WalkDir(i.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list = append(list, strings.TrimPrefix(path, i.root))
		}
		return err
	})
	if err != nil {
		i.t.Fatal(err)
	}
	return list
}

func (i installation) read(path string) string {
	i.t.Helper()
	text, err := os.ReadFile(filepath.Join(i.root, path))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(text)
}

func TestInstallScript(t *testing.T) {
	i := installation{t, t.TempDir()}
	i.must("--prefix", "/opt/curve", program)
	settings := []string{"/etc/curve/curve-nbd.yaml", "/etc/curve/curvetab"}
	want := append(slices.Clone(settings), "/opt/curve/bin/curve-nbd", "/opt/curve/lib/systemd/system/curve-nbd-map.service",
		"/opt/curve/lib/systemd/system/curve-nbd.service", "/opt/curve/lib/udev/rules.d/60-curve-nbd.rules",
		"/opt/curve/share/bash-completion/completions/curve-nbd", "/opt/curve/share/man/man8/curve-nbd.8")
	if got := i.files(); !slices.Equal(got, want) {
		t.Fatalf("installed %q, want %q", got, want)
	}
	for _, unit := range want[3:5] {
		if text := i.read(unit); strings.Contains(text, "@") || !strings.Contains(text, "/opt/curve/bin/curve-nbd ") {
			t.Errorf("%s is of another program:\n%s", unit, text)
		}
	}
	// The program takes the settings that come with it, and there is nothing to map.
	if o := cli(t, []string{"CURVE_CONFIG=" + filepath.Join(i.root, settings[0]), "CURVE_TAB=" + filepath.Join(i.root, settings[1])},
		"map", "--all", "--no-start"); o.code != 0 || o.stdout != "" {
		t.Errorf("map --all with the settings as they come: exit code %d: %s", o.code, o.stderr)
	}

	const mine = "# mine\n"
	for _, path := range settings {
		if err := os.WriteFile(filepath.Join(i.root, path), []byte(mine), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	i.must("--prefix=/opt/curve", program)
	if got := i.files(); !slices.Equal(got, want) {
		t.Errorf("installed again, there is %q, want %q", got, want)
	}
	i.must("--prefix", "/opt/curve", "--uninstall")
	if got := i.files(); !slices.Equal(got, settings) || i.read(settings[0]) != mine || i.read(settings[1]) != mine {
		t.Errorf("uninstalled, there is %q, want the settings as they were", got)
	}
	for _, wrong := range [][]string{{"--prefix", "relative", program}, {"--frobnicate"}, {"/nowhere/curve-nbd"}} {
		if out, err := i.run(wrong...); err == nil || !strings.Contains(out, "install.sh: ") {
			t.Errorf("install.sh %q: %v, %s", wrong, err, out)
		}
	}
}
