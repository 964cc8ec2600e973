package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

// serveInBackground starts the same command as a process of its own, without
// --background and with this one's stderr, and returns once that one serves.
func serveInBackground(ctx *cli.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, withoutBackground(os.Args[1:])...)
	cmd.Stderr = os.Stderr
	cmd.Env = childEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a gateway: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // ends with the child, or with this program
	ticker := time.NewTicker(gatewayPoll)
	defer ticker.Stop()
	for late := time.After(startLimit); ; {
		if servesAs(ctx.Context, ctx.String("control"), cmd.Process.Pid) {
			return nil
		}
		select {
		case err := <-exited:
			return fmt.Errorf("the gateway that was started does not serve: %w: see its log above", err)
		case <-late:
			return fmt.Errorf("the gateway that was started, pid %d, does not serve after %v: see its log", cmd.Process.Pid, startLimit)
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// servesAs says that the process serves on a control socket.
func servesAs(ctx context.Context, address string, pid int) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := control.Dial(ctx, address)
	if err != nil {
		return false
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil || status.PID != pid {
		return false
	}
	serving, err := client.Serving(ctx)
	return err == nil && serving
}

// withoutBackground is a command line of serve without the flag that brought it here.
func withoutBackground(words []string) (rest []string) {
	for _, word := range words {
		if name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "="); !strings.HasPrefix(word, "-") || name != backgroundFlag {
			rest = append(rest, word)
		}
	}
	return rest
}

const backgroundFlag = "background"

// childEnv is an environment whose watchdog, meant for this process, is the child's.
func childEnv(env []string) (kept []string) {
	for _, v := range env {
		if !strings.HasPrefix(v, "WATCHDOG_PID=") {
			kept = append(kept, v)
		}
	}
	return kept
}
