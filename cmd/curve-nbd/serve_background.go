package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

const backgroundFlag = "background"

// serveInBackground starts the same command as a process of its own, without
// --background and with this one's stderr, and returns once that one serves.
func serveInBackground(ctx *cli.Context) error {
	gateway, err := spawnOrphan(withoutBackground(os.Args[1:]))
	if err != nil {
		return fmt.Errorf("start a gateway: %w", err)
	}
	ticker := time.NewTicker(gatewayPoll)
	defer ticker.Stop()
	for late := time.After(startLimit); ; {
		if servesAs(ctx.Context, ctx.String("control"), gateway.PID) {
			return nil
		}
		if !gateway.alive() {
			return fmt.Errorf("the gateway that was started, pid %d, has ended: see its log above", gateway.PID)
		}
		select {
		case <-late:
			return fmt.Errorf("the gateway that was started, pid %d, does not serve after %v: see its log above", gateway.PID, startLimit)
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// spawnOrphan starts this program as a process that is nobody's child. One that is to
// become the main process of a systemd service must be systemd's: that of another
// process it kills without waiting for its end, and hardly notices when it dies.
func spawnOrphan(args []string) (processID, error) {
	program, err := os.Executable()
	if err != nil {
		return processID{}, err
	}
	// The shell ends at once, and leaves its child behind.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `"$@" >/dev/null & echo $!`, "sh", program}, args...)...)
	cmd.Stderr, cmd.Env = os.Stderr, childEnv(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	said, err := cmd.Output()
	if err != nil {
		return processID{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(said)))
	if err != nil {
		return processID{}, err
	}
	return identify(pid)
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

const watchdogVariable = "WATCHDOG_USEC="

// childEnv is an environment for a gateway that may become a service's main process.
// systemd tells only the main process of the watchdog, and says to which others it
// gives the pid of that one.
func childEnv(env []string) []string {
	var kept []string
	watched := false
	main := ""
	for _, v := range env {
		watched = watched || strings.HasPrefix(v, watchdogVariable)
		if pid, ok := strings.CutPrefix(v, "MAINPID="); ok {
			main = pid
		}
		if !strings.HasPrefix(v, "WATCHDOG_PID=") { // meant for this process
			kept = append(kept, v)
		}
	}
	if watched || main == "" {
		return kept
	}
	theirs, err := os.ReadFile(filepath.Join("/proc", main, "environ"))
	if err != nil {
		return kept // it is gone: there is no service to go on with
	}
	for _, v := range bytes.Split(theirs, []byte{0}) {
		if bytes.HasPrefix(v, []byte(watchdogVariable)) {
			kept = append(kept, string(v))
		}
	}
	return kept
}
