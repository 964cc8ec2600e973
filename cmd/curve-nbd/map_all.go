package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/nbd/device"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// mapAllPause is between attempts of map --all --retry.
const mapAllPause = time.Second

// mapAll maps the entries of the table, all of them whatever fails. At boot the
// gateway or the cluster behind it may come later: with --retry it asks again.
func mapAll(ctx *cli.Context) error {
	t, err := readTab(ctx.String("tab"))
	if err != nil {
		return err
	}
	entries := t.entries()
	if len(entries) == 0 {
		return nil
	}
	if !ctx.Bool("no-start") {
		if err := ensureGateway(ctx); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(ctx.Duration("retry"))
	var lasting []error
	for {
		var failed []tabLine
		var passing []error
		for _, e := range entries {
			switch err := mapEntry(ctx, e); {
			case err == nil:
			case comesAndGoes(err):
				failed, passing = append(failed, e), append(passing, err)
			default:
				lasting = append(lasting, err)
			}
		}
		if entries = failed; len(entries) == 0 || time.Until(deadline) < mapAllPause {
			return errors.Join(append(lasting, passing...)...)
		}
		select {
		case <-time.After(mapAllPause):
		case <-ctx.Done():
			return errors.Join(append(lasting, passing...)...)
		}
	}
}

// comesAndGoes says that what failed may work a moment later, with nobody doing
// anything about it.
func comesAndGoes(err error) bool {
	code := exitCode(err)
	return code == exitUnreachable || code == exitBusy || errors.Is(err, context.DeadlineExceeded)
}

func mapEntry(ctx *cli.Context, e tabLine) error {
	return withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
		req, err := e.request()
		if err != nil {
			return err
		}
		d, err := gw.MapVolume(deadline, req)
		if exitCode(err) == exitExists { // as it should be
			return nil
		}
		if err != nil {
			return err
		}
		awaitUdev(deadline, deviceLink(d.Volume))
		_, err = fmt.Fprintln(ctx.App.Writer, d.Path)
		return err
	})
}

// unmapAll unmaps every device, whatever fails.
func unmapAll(ctx *cli.Context) error {
	var list []control.Device
	err := withGateway(ctx, func(deadline context.Context, gw *control.Client) (err error) {
		list, err = gw.Devices(deadline)
		return err
	})
	if exitCode(err) == exitUnreachable && ctx.Bool("missing-ok") {
		return strays(err)
	}
	errs := []error{err}
	for _, d := range list {
		errs = append(errs, withGateway(ctx, func(deadline context.Context, gw *control.Client) error {
			if ctx.Bool("unmount") {
				if err := unmountDevice(deadline, d.Path); err != nil {
					return err
				}
			}
			gone, err := unmapIdle(deadline, gw, d.Path, ctx.Bool("force"))
			if err == nil {
				fmt.Fprintf(ctx.App.ErrWriter, "unmapped %s from %s\n", gone.Volume, gone.Path)
			}
			return err
		}))
	}
	return errors.Join(errs...)
}

// strays is nil when there is indeed nothing to unmap, and otherwise why it cannot be.
func strays(unreachable error) error {
	var system kernel.System
	indices, err := system.Devices()
	if err != nil {
		return err
	}
	var left []string
	for _, index := range indices {
		if st, err := system.State(index); err == nil && st.Connected && device.IsBackend(st.Backend) {
			left = append(left, kernel.DevicePath(index))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%s cannot be unmapped while no gateway runs: %w", strings.Join(left, ", "), unreachable)
}

// unmapIdle unmaps a device, for which udev may have to be waited for: it looks into a
// device whenever one who could write to it has closed it.
func unmapIdle(ctx context.Context, gw *control.Client, target string, force bool) (control.Device, error) {
	d, err := gw.UnmapDevice(ctx, target, force)
	if exitCode(err) == exitBusy && awaitUdev(ctx, "") {
		d, err = gw.UnmapDevice(ctx, target, force)
	}
	if err == nil {
		awaitUdev(ctx, "") // the names go
	}
	return d, err
}

// unmountTarget is unmountDevice for a device or a volume; what is not mapped is left
// for unmap to refuse.
func unmountTarget(ctx context.Context, gw *control.Client, target string) error {
	list, err := gw.Devices(ctx)
	if err != nil {
		return err
	}
	if index, err := kernel.ParseDevice(target); err == nil {
		target = kernel.DevicePath(index)
	}
	for _, d := range list {
		if d.Path == target || d.Volume == target {
			if err := unmountDevice(ctx, d.Path); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmountPause is between attempts to unmount what is in use.
const unmountPause = 200 * time.Millisecond

// unmountDevice unmounts what is mounted of a device and of its partitions, with what
// is mounted below. It waits for who still uses it, as services do that end at the same
// shutdown.
func unmountDevice(ctx context.Context, path string) error {
	index, err := kernel.ParseDevice(path)
	if err != nil {
		return err
	}
	var refused error
	for {
		mounted, err := kernel.System{}.Mounted(index)
		if err != nil || len(mounted) == 0 {
			return err
		}
		// Unmounting one may unmount others.
		said, err := exec.CommandContext(ctx, "umount", "--all-targets", "--recursive", mounted[0]).CombinedOutput()
		if err == nil {
			continue
		}
		if ctx.Err() == nil || refused == nil {
			refused = fmt.Errorf("unmount %s: %w: %s", mounted[0], err, strings.TrimSpace(string(said)))
		}
		select {
		case <-time.After(unmountPause):
		case <-ctx.Done():
			return refused
		}
	}
}
