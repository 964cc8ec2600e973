package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{backend.ErrIO, 1},
		{backend.ErrNoSpace, 1},
		{backend.ErrReadOnly, 1},
		{context.DeadlineExceeded, 1},
		{usagef("flag"), 2},
		{backend.ErrInvalid, 2},
		{backend.ErrNotFound, 3},
		{backend.ErrBusy, 4},
		{syscall.EADDRINUSE, 4},
		{backend.ErrExists, 5},
		{control.ErrUnreachable, 6},
		{backend.ErrUnreachable, 6},
		{errDegraded, 7},
		{fmt.Errorf("%w, and it was %w", control.ErrUnreachable, backend.ErrNotFound), 6},
	} {
		wrapped := c.err
		if wrapped != nil {
			wrapped = fmt.Errorf("serve: %w", c.err)
		}
		if got := exitCode(wrapped); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

func TestHelpGoesToStdoutAndSucceeds(t *testing.T) {
	for _, line := range []string{"--help", "help", "volume --help", "volume create -h", "serve --help"} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append([]string{"curve-nbd"}, strings.Fields(line)...), &stdout, &stderr)
		if code != 0 || !strings.Contains(stdout.String(), "curve-nbd volume create") && !strings.Contains(stdout.String(), "curve-nbd serve") || stderr.Len() > 0 {
			t.Errorf("%s: code %d, stdout %q, stderr %q", line, code, stdout.String(), stderr.String())
		}
	}
}

func TestHealthJudgesByTheOldestRequest(t *testing.T) {
	stalled := gateway.Status{Exports: []gateway.ExportStatus{{Name: "quick", OldestQueued: time.Second}, {Name: "slow", OldestQueued: time.Minute}}}
	for _, c := range []struct {
		name       string
		serving    bool
		status     gateway.Status
		stallAfter time.Duration
		reasons    []string
	}{
		{"idle", true, gateway.Status{}, time.Second, nil},
		{"at the limit", true, stalled, time.Minute, nil},
		{"one stalls", true, stalled, 30 * time.Second, []string{"slow"}},
		{"both stall", true, stalled, time.Millisecond, []string{"quick", "slow"}},
		{"volume taken over", true, gateway.Status{Exports: []gateway.ExportStatus{{Name: "pg", Lost: "opened elsewhere"}}}, time.Second, []string{"opened elsewhere"}},
		{"draining", false, gateway.Status{}, time.Second, []string{"shutting down"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := judge(c.serving, c.status, c.stallAfter)
			if len(h.Reasons) != len(c.reasons) || (h.State == "healthy") != (len(c.reasons) == 0) {
				t.Fatalf("got %+v, want reasons %q", h, c.reasons)
			}
			for i, part := range c.reasons {
				if !strings.Contains(h.Reasons[i], part) {
					t.Errorf("reason %q does not say %q", h.Reasons[i], part)
				}
			}
		})
	}
}

func TestCompletionScriptsParse(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := completionScript(newApp(io.Discard, io.Discard), shell)
		if err != nil || !strings.Contains(script, "curve-nbd") {
			t.Fatalf("%s: %v in %q", shell, err, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed: its script was not parsed", shell)
			continue
		}
		parse := exec.Command(path, "-n")
		parse.Stdin = strings.NewReader(script)
		if out, err := parse.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
}
