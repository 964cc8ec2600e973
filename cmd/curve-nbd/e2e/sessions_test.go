package e2e

import (
	"bufio"
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// sessionJSON is what scripts rely on in `target sessions -o json`.
type sessionJSON struct {
	Target     string `json:"target"`
	Initiator  string `json:"initiator"`
	User       string `json:"user"`
	Address    string `json:"address"`
	Since      string `json:"since"`
	Reads      uint64 `json:"reads"`
	ReadBytes  uint64 `json:"read_bytes"`
	Writes     uint64 `json:"writes"`
	WriteBytes uint64 `json:"write_bytes"`
}

// stay keeps a session with the unit, in which 64 KiB are written and read, for as long
// as the test lasts.
func (u *unit) stay() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	cmd := exec.CommandContext(ctx, "qemu-io", "-f", "raw", u.url)
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	for _, err := range []error{inErr, outErr, cmd.Start()} {
		if err != nil {
			u.t.Fatal(err)
		}
	}
	u.t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for command, says := range map[string]string{"write": "wrote 65536/65536", "read": "read 65536/65536"} {
		// One at a time: it does not look at what came along with a line.
		if _, err := io.WriteString(in, command+" 0 64k\n"); err != nil {
			u.t.Fatal(err)
		}
		for !strings.Contains(lines.Text(), says) {
			if !lines.Scan() {
				u.t.Fatalf("qemu-io does not %s", command)
			}
		}
	}
}

// An operator sees who is connected, from where and with what, and is not let do by
// mistake what would pull the disk from under them.
func TestOperatorSeesWhoIsLoggedIn(t *testing.T) {
	u := serveUnit(t, "qemu-io")
	if u.g == nil {
		t.Skip("of a peer")
	}
	const target = "iqn.2026-11.io.curve:e2e"
	if o := u.g.cli("target", "create", target+"2"); o.code != 0 || o.stderr != "" {
		t.Errorf("a target that initiators can reach: exit code %d: %s", o.code, o.stderr)
	}
	if got := mustJSON[[]sessionJSON](u.g, "target", "sessions"); len(got) != 0 {
		t.Errorf("before anybody came: %+v", got)
	}
	u.stay()
	var s sessionJSON
	u.g.eventually("what the initiator does is not shown", func() bool {
		list := mustJSON[[]sessionJSON](u.g, "target", "sessions", target)
		if len(list) != 1 {
			t.Fatalf("sessions %+v", list)
		}
		s = list[0]
		return s.WriteBytes == 64<<10 && s.ReadBytes >= 64<<10
	})
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil || host != "127.0.0.1" || s.Target != target || !strings.HasPrefix(s.Initiator, "iqn.") || s.User != "" || s.Since == "" || s.Writes == 0 || s.Reads == 0 {
		t.Errorf("session %+v", s)
	}
	for _, command := range []string{"target sessions", "status", "target info " + target} {
		if out := u.g.must(strings.Fields(command)...); !strings.Contains(out, s.Initiator) || !strings.Contains(out, s.Address) {
			t.Errorf("%s does not say who is logged in:\n%s", command, out)
		}
	}
	status := mustJSON[struct {
		Exports  []struct{ Connections int }
		Sessions []sessionJSON
	}](u.g, "status")
	if len(status.Exports) != 1 || status.Exports[0].Connections != 1 || len(status.Sessions) != 1 {
		t.Errorf("status of one initiator: %+v", status)
	}
	if o := u.g.cli("target", "sessions", target+"x"); o.code != exitNotFound {
		t.Errorf("sessions of no target: exit code %d: %s", o.code, o.stderr)
	}
	for _, command := range []string{"target rm " + target, "lun rm " + target + " 0"} {
		if o := u.g.cli(strings.Fields(command)...); o.code != exitBusy || !strings.Contains(o.stderr, s.Initiator) || !strings.Contains(o.stderr, "--force") {
			t.Errorf("%s: exit code %d: %s", command, o.code, o.stderr)
		}
	}
	u.g.must("acl", "rm", target, "any")
	u.g.eventually("an initiator that may not be there any more stays", func() bool {
		return len(mustJSON[[]sessionJSON](u.g, "target", "sessions")) == 0
	})
}
