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
	for _, c := range []struct {
		name, words, want string
	}{
		{"commands", `curve-nbd ""`, "bench chunkserver cluster completion copyset health leader list-mapped map mds serve status unmap version volume"},
		{"commands that begin so", `curve-nbd vol`, "volume"},
		{"subcommands", `curve-nbd volume rec`, "recover recycled"},
		{"flags", `curve-nbd volume create --stripe`, "--stripe-count --stripe-unit"},
		{"volume names", `curve-nbd volume info pg`, "pg-data"},
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
