package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
	"github.com/opencurve/curve-nbd/nbd/device"
	"github.com/opencurve/curve-nbd/nbd/kernel"
)

// detachTimeout bounds an unmap whose client has set no earlier deadline.
const detachTimeout = 60 * time.Second

// devices is the gateway's side of map and unmap. The kernel's driver is looked for
// when it is first needed: most gateways map nothing.
type devices struct {
	manager *device.Manager
	driver  lazyDriver
	ioctl   kernel.Ioctl
	system  kernel.System
	log     *slog.Logger
}

// claimer is this program, whatever has been installed in its place since it started.
var claimer = []string{"/proc/self/exe", "claim-device"}

// claimDeviceCommand is for the gateway's own use.
func claimDeviceCommand() *cli.Command {
	return &cli.Command{
		Name: "claim-device", Hidden: true, ArgsUsage: "DEVICE",
		Usage: "claim a block device, write its cache back, and hold it until stdin ends",
		Description: `The gateway has it done by a process of its own: one that waits for a device in the
kernel cannot be killed, and must not be the one that serves it.

   curve-nbd claim-device /dev/nbd0`,
		Action: func(ctx *cli.Context) error {
			args, err := arguments(ctx, "DEVICE")
			if err != nil {
				return err
			}
			return kernel.Claim(args[0], ctx.App.Reader, ctx.App.Writer)
		},
	}
}

// lazyDriver is a kernel.Driver from the first open on.
type lazyDriver struct {
	mu     sync.Mutex
	driver *kernel.Driver
}

func (d *lazyDriver) open() (*kernel.Driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		var err error
		if d.driver, err = kernel.Open(); err != nil {
			return nil, err
		}
	}
	return d.driver, nil
}

func (d *lazyDriver) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return nil
	}
	return d.driver.Close()
}

func (d *lazyDriver) Connect(c kernel.Config) (int, error) {
	driver, err := d.open()
	if err != nil {
		return 0, err
	}
	return driver.Connect(c)
}

func (d *lazyDriver) Reconfigure(c kernel.Config) error {
	driver, err := d.open()
	if err != nil {
		return err
	}
	return driver.Reconfigure(c)
}

func (d *lazyDriver) Resize(index int, backend string, size int64) error {
	driver, err := d.open()
	if err != nil {
		return err
	}
	return driver.Resize(index, backend, size)
}

func (d *lazyDriver) Disconnect(index int) error {
	driver, err := d.open()
	if err != nil {
		return err
	}
	return driver.Disconnect(index)
}

func (d *devices) MapVolume(ctx context.Context, req control.MapRequest) (control.Device, error) {
	spec := device.Spec{
		Volume: req.Volume, Index: kernel.AnyDevice, ReadOnly: req.ReadOnly, Connections: req.Connections,
		Timeout: req.Timeout, Reattach: req.Reattach, Shared: req.Shared,
	}
	if req.Device != "" {
		var err error
		if spec.Index, err = kernel.ParseDevice(req.Device); err != nil {
			return control.Device{}, err
		}
	}
	if spec.Connections == 0 {
		spec.Connections = device.DefaultConnections
	}
	if spec.Timeout == 0 {
		spec.Timeout = device.DefaultTimeout
	}
	if spec.Reattach == 0 {
		spec.Reattach = device.DefaultReattach
	}
	loaded, err := d.system.Load(ctx, kernel.Module{MaxDevices: req.MaxDevices, MaxPartitions: req.MaxPartitions})
	if err != nil {
		return control.Device{}, err
	}
	if !loaded && (req.MaxDevices != "" || req.MaxPartitions != "") {
		d.log.Warn("the nbd module is loaded already: nbds_max and max_part count for nothing")
	}
	if _, err := d.driver.open(); errors.Is(err, backend.ErrNotSupported) {
		if !req.TryIoctl {
			return control.Device{}, fmt.Errorf("%w; or map it with --try-ioctl, to a device that goes with this gateway", err)
		}
		spec.Ioctl = true
	}
	mapped, err := d.manager.Map(ctx, spec)
	return controlDevice(mapped), err
}

func (d *devices) UnmapDevice(ctx context.Context, target string, force bool) (control.Device, error) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	gone, err := d.manager.Unmap(ctx, target, force)
	return controlDevice(gone), err
}

func (d *devices) Devices() []control.Device {
	var list []control.Device
	for _, mapped := range d.manager.Devices() {
		list = append(list, controlDevice(mapped))
	}
	return list
}

func (d *devices) Resized(volume string) error { return d.manager.Sync(volume) }

func controlDevice(d device.Device) control.Device {
	return control.Device{
		Path: d.Path, Volume: d.Volume, State: d.State, Problem: d.Problem, Size: d.Size, ReadOnly: d.ReadOnly,
		Connections: d.Connections, Timeout: d.Timeout, Reattach: d.Reattach, Since: d.Since, PID: d.PID,
		Ioctl: d.Ioctl,
	}
}

// restoreDevices takes up the devices that the last gateway on this control socket had.
func (f *frontEnds) restoreDevices() error {
	d := f.devices
	f.running.push("device keepers", closeTimeout, func(context.Context) error {
		return errors.Join(d.manager.Close(), d.driver.close())
	})
	if err := d.manager.Restore(f.inherited.devices); err != nil {
		return fmt.Errorf("devices that were mapped: %w", err)
	}
	return nil
}

// stopDevices leaves the devices to whoever comes next. A successor has their sockets,
// and they stand still from HandOver until it serves them: what can be done before is.
func (f *frontEnds) stopDevices(ctx context.Context) error {
	if !f.successor.asked() {
		return f.devices.manager.Close()
	}
	draining, cancel := context.WithTimeout(ctx, f.ctx.Duration("drain-timeout"))
	defer cancel()
	err := f.nbd.ShutdownClients(draining)
	if l, ok := f.store.(legator); ok {
		// What fails here fails again, and is reported, when the backend is closed.
		if err := l.Settle(ctx); err != nil {
			f.log.Warn("settle before the hand-over", "error", err)
		}
	}
	f.successor.leaves.devices = f.devices.manager.HandOver()
	return err
}

// closeStore closes the backend, and keeps for a successor what makes it quick to open.
func (f *frontEnds) closeStore() error {
	err := f.store.Close()
	if l, ok := f.store.(legator); ok && f.successor.asked() {
		f.successor.leaves.legacy = l.Legacy()
	}
	return err
}
