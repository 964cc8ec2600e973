package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const (
	vm1   = "iqn.2026-11.io.curve:vm1"
	host1 = "iqn.1993-08.org.debian:01:host1"
	// sesame is looked for in all that is said and stored in plain sight.
	sesame = "open-sesame-1234"
)

// targetJSON is what scripts rely on in `target info -o json`.
type targetJSON struct {
	Name       string       `json:"iqn"`
	Alias      string       `json:"alias"`
	Units      []unitJSON   `json:"luns"`
	Access     []accessJSON `json:"access"`
	Users      []string     `json:"users"`
	MutualUser string       `json:"mutual_user"`
	Sessions   []any        `json:"sessions"`
}

type unitJSON struct {
	Target    string `json:"target"`
	LUN       int    `json:"lun"`
	Volume    string `json:"volume"`
	VolumeID  uint64 `json:"volume_id"`
	ReadOnly  bool   `json:"read_only"`
	Removable bool   `json:"removable"`
	Physical  int64  `json:"physical_block_bytes"`
	SizeBytes int64  `json:"size_bytes"`
}

type accessJSON struct {
	Target    string `json:"target"`
	Initiator string `json:"initiator"`
	AllLUNs   bool   `json:"all_luns"`
	LUNs      []int  `json:"luns"`
}

type loginJSON struct {
	Target     string   `json:"target"`
	Discovery  bool     `json:"discovery"`
	Users      []string `json:"users"`
	MutualUser string   `json:"mutual_user"`
}

// cliIn is cli with something on stdin.
func (g *gateway) cliIn(stdin string, args ...string) outcome {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(cleanEnv(), "CURVE_CONTROL="+g.control)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		g.t.Fatalf("curve-nbd %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return outcome{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

func TestLifeOfATarget(t *testing.T) {
	dataDir := filepath.Join(t.TempDir(), "data")
	g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	for _, name := range []string{"pg-data", "images/debian"} {
		g.must("volume", "create", name, "--size", "64M")
	}
	if made := mustJSON[targetJSON](g, "target", "create", strings.ToUpper(vm1), "--alias", "the database"); made.Name != vm1 || made.Alias != "the database" || len(made.Access) != 0 {
		t.Errorf("made %+v", made)
	}
	if o := g.cli("target", "create", vm1+"-unreached"); o.code != 0 || !strings.Contains(o.stderr, "--iscsi-listen") {
		t.Errorf("a target that nobody can reach: exit code %d: %s", o.code, o.stderr)
	}
	g.must("target", "rm", vm1+"-unreached")
	if added := mustJSON[[]unitJSON](g, "lun", "add", vm1, "pg-data"); len(added) != 1 || added[0].LUN != 0 || added[0].SizeBytes != 64<<20 {
		t.Errorf("added %+v", added)
	}
	g.must("lun", "add", vm1, "images/debian", "--lun", "10", "--read-only", "--removable", "--physical-block", "4096")
	access := mustJSON[[]accessJSON](g, "acl", "add", vm1, host1, "--lun", "10,0")
	if want := []accessJSON{{vm1, host1, false, []int{0, 10}}}; !reflect.DeepEqual(access, want) {
		t.Errorf("access %+v, want %+v", access, want)
	}
	access = mustJSON[[]accessJSON](g, "acl", "add", vm1, "any")
	if len(access) != 2 || access[0].Initiator != "any" || !access[0].AllLUNs {
		t.Errorf("access %+v", access)
	}
	if grown := mustJSON[volumeJSON](g, "lun", "resize", vm1, "0", "128M"); grown.Name != "pg-data" || grown.SizeBytes != 128<<20 {
		t.Errorf("resized %+v", grown)
	}
	if grown := mustJSON[volumeJSON](g, "lun", "resize", vm1, "images/debian", "80M"); grown.Name != "images/debian" || grown.SizeBytes != 80<<20 {
		t.Errorf("resized by its volume %+v", grown)
	}
	units := mustJSON[[]unitJSON](g, "lun", "list", vm1)
	if len(units) != 2 || units[0].SizeBytes != 128<<20 || units[1].LUN != 10 || !units[1].ReadOnly || !units[1].Removable || units[0].Removable || units[0].Physical != 4096 {
		t.Errorf("units %+v", units)
	}
	for _, c := range []struct{ args, says string }{
		{"target list", vm1}, {"target info " + vm1, "images/debian, 80MiB, read-only, removable, physical block 4096"}, {"lun list", "read-only, removable"},
		{"acl list " + vm1, "0,10"}, {"target list -o yaml", `"the database"`},
	} {
		if out := g.must(strings.Fields(c.args)...); !strings.Contains(out, c.says) {
			t.Errorf("%s does not say %q:\n%s", c.args, c.says, out)
		}
	}
	g.stop()

	// Nothing is lost by a restart.
	g = serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	if again := mustJSON[[]unitJSON](g, "lun", "list"); !reflect.DeepEqual(again, units) {
		t.Errorf("after a restart %+v, was %+v", again, units)
	}
	for _, purge := range []string{"--purge=false", "--purge"} {
		if o := g.cli("volume", "rm", "images/debian", purge); o.code != exitBusy || !strings.Contains(o.stderr, "lun rm "+vm1+" 10") {
			t.Errorf("volume rm %s of a unit: exit code %d: %s", purge, o.code, o.stderr)
		}
	}
	g.must("lun", "rm", vm1, "images/debian")
	g.must("volume", "rm", "images/debian")
	g.must("lun", "rm", vm1, "0")
	g.must("acl", "rm", vm1, "any")
	if o := g.cli("acl", "rm", vm1, host1); o.code != 0 || !strings.Contains(o.stderr, "acl add "+vm1+" any") {
		t.Errorf("an empty access list is not explained: code %d, %s", o.code, o.stderr)
	}
	g.must("target", "rm", vm1)
	if out := g.must("target", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("after rm: %s", out)
	}
	if list := mustJSON[[]volumeJSON](g, "volume", "list"); len(list) != 1 {
		t.Errorf("the volumes of a removed target: %+v", list)
	}
}

func TestSecretsStayWhereTheyBelong(t *testing.T) {
	dir := t.TempDir()
	dataDir := filepath.Join(dir, "data")
	g := serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0", "--log-level", "debug")
	g.must("target", "create", vm1)
	var said strings.Builder
	do := func(code int, stdin string, args ...string) outcome {
		t.Helper()
		o := g.cliIn(stdin, args...)
		if o.code != code {
			t.Errorf("%s: exit code %d, want %d: %s", strings.Join(args, " "), o.code, code, o.stderr)
		}
		said.WriteString(o.stdout + o.stderr)
		return o
	}
	do(0, sesame+"\n", "chap", "set", vm1, "--user", "u", "--secret-file", "-")
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte("another-secret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := do(0, "", "chap", "set", vm1, "--user", "t", "--secret-file", file, "--mutual", "-o", "json"); strings.Contains(o.stderr, "warning") {
		t.Errorf("warns of a private file: %s", o.stderr)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if o := do(0, "", "chap", "set", "--discovery", "--user", "d", "--secret-file", file); !strings.Contains(o.stderr, "chmod 600") {
		t.Errorf("does not warn of a file that others may read: %s", o.stderr)
	}
	if login := mustJSON[loginJSON](g, "chap", "list", vm1); !reflect.DeepEqual(login, loginJSON{Target: vm1, Users: []string{"u"}, MutualUser: "t"}) {
		t.Errorf("login %+v", login)
	}
	if login := mustJSON[loginJSON](g, "chap", "list", "--discovery"); !login.Discovery || !reflect.DeepEqual(login.Users, []string{"d"}) {
		t.Errorf("discovery %+v", login)
	}
	do(exitUsage, sesame, "chap", "set", vm1, "--user", "t2", "--secret-file", "-", "--mutual") // the user's own
	do(exitUsage, sesame+"\nmore", "chap", "set", vm1, "--user", "u", "--secret-file", "-")
	do(exitUsage, sesame[:11], "chap", "set", vm1, "--user", "u", "--secret-file", "-")
	do(0, "", "chap", "list", vm1)
	do(0, "", "target", "info", vm1)
	do(0, "", "target", "list", "-o", "json")
	g.stop()
	for _, text := range []string{said.String(), g.said()} {
		for _, secret := range []string{sesame[:11], "another-secret"} {
			if strings.Contains(text, secret) {
				t.Errorf("the secret %q is in\n%s", secret, text)
			}
		}
	}
	err := filepath.WalkDir(dataDir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && bytes.Contains(data, []byte(`"secret":`)) && info.Mode().Perm() != 0o600 {
			t.Errorf("%s, which has secrets in it, has mode %#o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory has mode %v, %v", info.Mode(), err)
	}

	g = serve(t, nil, "--data-dir", dataDir, "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("chap", "rm", vm1, "--mutual")
	g.must("chap", "rm", "--discovery", "--user", "d")
	if login := mustJSON[loginJSON](g, "chap", "rm", vm1, "--user", "u"); len(login.Users) != 0 || login.MutualUser != "" {
		t.Errorf("after all was removed: %+v", login)
	}
}

func TestAnotherGatewayHasTheSameTargets(t *testing.T) {
	mds := launch(t, nil, "mds", "--data-dir", filepath.Join(t.TempDir(), "mds"), "--listen", "127.0.0.1:0")
	address := mds.address("mds")
	a := serve(t, nil, "--mds", address, "--nbd-listen", "tcp:127.0.0.1:0")
	b := serve(t, nil, "--mds", address, "--nbd-listen", "tcp:127.0.0.1:0")
	a.must("volume", "create", "pg", "--size", "64M")
	a.must("target", "create", vm1)
	a.must("lun", "add", vm1, "pg")
	if units := mustJSON[[]unitJSON](b, "lun", "list", vm1); len(units) != 1 || units[0].Volume != "pg" {
		t.Errorf("the other gateway has %+v", units)
	}
	b.must("acl", "add", vm1, host1)
	if access := mustJSON[[]accessJSON](a, "acl", "list", vm1); len(access) != 1 {
		t.Errorf("the first gateway has %+v", access)
	}
	// While the MDS is away the targets are known, and cannot be changed.
	mds.stop()
	if access := mustJSON[[]accessJSON](b, "acl", "list", vm1); len(access) != 1 {
		t.Errorf("without the MDS there are %+v", access)
	}
	if o := b.cli("acl", "add", vm1, "any", "--control-timeout", "3s"); o.code != exitNoServer {
		t.Errorf("change without the MDS: exit code %d: %s", o.code, o.stderr)
	}
}

func TestBadInputOfTargetCommands(t *testing.T) {
	g := serve(t, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("volume", "create", "pg", "--size", "8M")
	g.must("volume", "create", "logs", "--size", "8M")
	g.must("target", "create", vm1)
	g.must("lun", "add", vm1, "pg")
	g.must("target", "create", vm1+"-other")
	file := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, line string
		code       int
		says       []string
	}{
		{"name that is none", "target create vm1", exitUsage, []string{"vm1", "iqn."}},
		{"name without a date", "target create iqn.com.example:vm", exitUsage, []string{"iqn.2001-04.com.example"}},
		{"name of other letters", "target create iqn.2026-11.io.curve:\xff", exitUsage, []string{`\xff`, "UTF-8"}},
		{"name missing", "target create", exitUsage, []string{"IQN"}},
		{"name taken", "target create " + vm1, exitExists, []string{vm1, "already exists"}},
		{"no such target", "target info iqn.2026-11.io.curve:none", exitNotFound, []string{"none", "not found"}},
		{"remove nothing", "target rm iqn.2026-11.io.curve:none", exitNotFound, []string{"none"}},
		{"no such volume", "lun add " + vm1 + " none", exitNotFound, []string{"none"}},
		{"unit of nothing", "lun add iqn.2026-11.io.curve:none logs", exitNotFound, []string{"none"}},
		{"volume twice", "lun add " + vm1 + " pg", exitExists, []string{"pg", "unit 0"}},
		{"number taken", "lun add " + vm1 + " logs --lun 0", exitExists, []string{"pg"}},
		{"number too high", "lun add " + vm1 + " logs --lun 20000", exitUsage, []string{"16383"}},
		{"number beyond all", "lun add " + vm1 + " logs --lun 5000000000", exitUsage, []string{"5000000000", "16383"}},
		{"number below zero", "lun add " + vm1 + " logs --lun -1", exitUsage, []string{"--lun"}},
		{"physical block below the volume's", "lun add " + vm1 + " logs --physical-block 512", exitUsage, []string{"logs", "blocks of 4096"}},
		{"physical block of no disk", "lun add " + vm1 + " logs --physical-block 16K", exitUsage, []string{"512 or 4096"}},
		{"units that differ", "lun add " + vm1 + "-other pg --removable", exitUsage, []string{"unit 0 of target " + vm1, "alike"}},
		{"number that is none", "lun add " + vm1 + " logs --lun x", exitUsage, []string{"x"}},
		{"no such unit", "lun rm " + vm1 + " 7", exitNotFound, []string{`"7"`}},
		{"resize no unit", "lun resize " + vm1 + " 7 1G", exitNotFound, []string{`"7"`, "lun list"}},
		{"shrink", "lun resize " + vm1 + " 0 4M", exitUsage, []string{"only grows"}},
		{"size that is none", "lun resize " + vm1 + " 0 big", exitUsage, []string{"big"}},
		{"initiator that is none", "acl add " + vm1 + " host1", exitUsage, []string{"host1", `"any"`}},
		{"access to no unit", "acl add " + vm1 + " any --lun 0,7", exitNotFound, []string{"unit 7"}},
		{"access to a word", "acl add " + vm1 + " any --lun 0,x", exitUsage, []string{`"x"`, "0,2"}},
		{"initiator not in the list", "acl rm " + vm1 + " " + host1, exitNotFound, []string{host1}},
		{"user missing", "chap set " + vm1 + " --secret-file -", exitUsage, []string{"--user"}},
		{"secret missing", "chap set " + vm1 + " --user u", exitUsage, []string{"--secret-file"}},
		{"secret file missing", "chap set " + vm1 + " --user u --secret-file /nonexistent", exitUsage, []string{"/nonexistent"}},
		{"secret file empty", "chap set " + vm1 + " --user u --secret-file " + file, exitUsage, []string{file, "empty"}},
		{"secret file endless", "chap set " + vm1 + " --user u --secret-file /dev/zero", exitUsage, []string{"/dev/zero", "4096"}},
		{"target and discovery", "chap list " + vm1 + " --discovery", exitUsage, []string{vm1}},
		{"neither target nor discovery", "chap list", exitUsage, []string{"IQN", "--discovery"}},
		{"forget nothing", "chap rm " + vm1, exitUsage, []string{"--user", "--mutual"}},
		{"forget two things", "chap rm " + vm1 + " --user u --mutual", exitUsage, []string{"one of them"}},
		{"no such user", "chap rm " + vm1 + " --user u", exitNotFound, []string{`"u"`}},
		{"no mutual", "chap rm --discovery --mutual", exitNotFound, []string{"other direction"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := g.cli(strings.Fields(c.line)...)
			if o.code != c.code {
				t.Errorf("exit code %d, want %d", o.code, c.code)
			}
			if o.stdout != "" || !strings.HasPrefix(o.stderr, "curve-nbd: ") || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("want one line that begins with curve-nbd: , got %q and stdout %q", o.stderr, o.stdout)
			}
			for _, part := range c.says {
				if !strings.Contains(o.stderr, part) {
					t.Errorf("stderr does not say %q: %s", part, o.stderr)
				}
			}
		})
	}
	if info := mustJSON[targetJSON](g, "target", "info", vm1); len(info.Units) != 1 || len(info.Access)+len(info.Users) != 0 {
		t.Errorf("bad input changed the target: %+v", info)
	}
}
