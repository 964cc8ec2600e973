package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The script in a real shell, with what it asks the real program.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIPPED: needs bash")
	}
	g := serve(t, nil, "--memory", "--nbd-listen", "tcp:127.0.0.1:0")
	g.must("volume", "create", "pg-data", "--size", "1M")
	for _, name := range []string{vm1, "iqn.2026-11.io.curve:vm2", "eui.0123456789abcdef"} {
		g.must("target", "create", name)
	}
	g.must("acl", "add", vm1, "any")
	g.must("lun", "add", vm1, "pg-data")
	for _, c := range []struct {
		name, words, want string
	}{
		{"commands", `curve-nbd ""`, "acl bench chap chunkserver cluster completion copyset health leader list-mapped lun man map mds serve status target unmap version volume"},
		{"commands that begin so", `curve-nbd vol`, "volume"},
		{"subcommands", `curve-nbd volume rec`, "recover recycled"},
		{"flags", `curve-nbd volume create --stripe`, "--stripe-count --stripe-unit"},
		{"volume names", `curve-nbd volume info pg`, "pg-data"},
		{"targets", `curve-nbd lun rm eui`, "eui.0123456789abcdef"},
		{"targets behind the colon", `curve-nbd lun rm iqn.2026-11.io.curve : v`, "vm1 vm2"},
		{"targets at the colon", `curve-nbd target info iqn.2026-11.io.curve :`, "vm1 vm2"},
		{"initiators to take off", `curve-nbd acl rm iqn.2026-11.io.curve : vm1 ""`, "any"},
		{"volumes to add", `curve-nbd lun add iqn.2026-11.io.curve : vm1 ""`, "pg-data"},
		{"units to take off", `curve-nbd lun rm iqn.2026-11.io.curve : vm1 ""`, "0 pg-data"},
		{"units to make larger", `curve-nbd lun resize iqn.2026-11.io.curve : vm1 pg`, "pg-data"},
		{"shells", `curve-nbd completion ""`, "bash fish zsh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			script := `source <(curve-nbd completion bash)
				COMP_WORDS=(` + c.words + `); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
				_curve_nbd
				printf '%s\n' "${COMPREPLY[@]}" | sort -u`
			cmd := exec.Command(bash, "-c", script)
			cmd.Env = append(cleanEnv(), "CURVE_CONTROL="+g.control, "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := strings.Join(strings.Fields(string(out)), " "); got != c.want {
				t.Errorf("offers %q, want %q", got, c.want)
			}
		})
	}
}
