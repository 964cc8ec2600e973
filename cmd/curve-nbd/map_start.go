package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
)

const (
	// gatewayStart bounds how long a gateway that map starts may take to serve.
	gatewayStart = 60 * time.Second
	gatewayPoll  = 20 * time.Millisecond
)

// ensureGateway starts a gateway when none runs on the control socket, in the
// background and with this command's environment and configuration file, as `serve`
// by hand would have.
func ensureGateway(ctx *cli.Context) error {
	address := ctx.String("control")
	path, err := control.SocketPath(address)
	if err != nil {
		return err
	}
	if serves(ctx.Context, address) {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	args := []string{"serve", "--control", address}
	if config := ctx.String("config"); ctx.IsSet("config") {
		args = append(args, "--config", config)
	}
	logPath := path + ".log"
	child, err := spawn(program, args, dir, logPath, gatewayEnv(os.Environ())...)
	if err != nil {
		return fmt.Errorf("start a gateway: %w", err)
	}
	fmt.Fprintf(ctx.App.ErrWriter, "started a gateway, pid %d, that logs to %s\n", child.PID, logPath)
	return awaitGateway(ctx.Context, address, child, logPath)
}

// gatewayEnv are the variables that set this program's flags.
func gatewayEnv(env []string) (settings []string) {
	for _, v := range env {
		if strings.HasPrefix(v, "CURVE_") {
			settings = append(settings, v)
		}
	}
	return settings
}

// serves says that a gateway is there; one that is just starting counts only once
// it serves.
func serves(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := control.Dial(ctx, address)
	if err != nil {
		return !errors.Is(err, control.ErrUnreachable)
	}
	defer client.Close()
	ok, err := client.Serving(ctx)
	return err == nil && ok
}

// awaitGateway waits until the gateway serves, or another one does that was quicker.
func awaitGateway(ctx context.Context, address string, child *child, logPath string) error {
	ctx, cancel := context.WithTimeout(ctx, gatewayStart)
	defer cancel()
	ticker := time.NewTicker(gatewayPoll)
	defer ticker.Stop()
	exited := child.exited
	for {
		if serves(ctx, address) {
			return nil
		}
		select {
		case <-exited:
			if exited = nil; !serves(ctx, address) {
				return fmt.Errorf("%w: the gateway that was started ended with exit code %d; see %s", control.ErrUnreachable, child.code, logPath)
			}
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: the gateway that was started does not serve after %v; see %s", control.ErrUnreachable, gatewayStart, logPath)
		}
	}
}
