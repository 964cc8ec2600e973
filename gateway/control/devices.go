package control

import (
	"context"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// Devices is what the server needs of whoever maps volumes to block devices. Errors
// wrap the sentinels of package backend.
type Devices interface {
	MapVolume(ctx context.Context, req MapRequest) (Device, error)
	UnmapDevice(ctx context.Context, target string, force bool) (Device, error)
	Devices() []Device
	// Resized has the devices of a volume take its size over before it returns.
	Resized(volume string) error
}

// MapRequest asks for a device. Zero values are defaults.
type MapRequest struct {
	// Volume to map; Device is /dev/nbdN, "" for any.
	Volume, Device string
	ReadOnly       bool
	Connections    int
	// Timeout is after which the kernel sends a request again, Reattach how long it
	// waits for a gateway.
	Timeout, Reattach time.Duration
	// Shared: the volume may have other devices.
	Shared bool
	// MaxDevices and MaxPartitions are parameters for the kernel module, should it
	// have to be loaded.
	MaxDevices, MaxPartitions string
	// TryIoctl attaches it by ioctl where the kernel has no netlink interface.
	TryIoctl bool
}

// Device is a volume mapped to a block device.
type Device struct {
	Path, Volume, State string
	// Problem says why it is not attached, "" when it is.
	Problem           string
	Size              int64
	ReadOnly          bool
	Connections       int
	Timeout, Reattach time.Duration
	Since             time.Time
	PID               int
	// Ioctl: it is attached by ioctl, and goes with its gateway.
	Ioctl bool
}

func (s *service) MapVolume(ctx context.Context, req *controlpb.MapVolumeRequest) (*controlpb.Device, error) {
	if s.devices == nil {
		return nil, toStatus(errNoDevices)
	}
	ctx, cancel := beforeDeadline(ctx)
	defer cancel()
	return oneDevice(s.devices.MapVolume(ctx, MapRequest{
		Volume: req.GetVolume(), Device: req.GetDevice(), ReadOnly: req.GetReadOnly(), Connections: int(req.GetConnections()),
		Timeout: time.Duration(req.GetTimeoutNs()), Reattach: time.Duration(req.GetReattachTimeoutNs()), Shared: req.GetShared(),
		MaxDevices: req.GetNbdsMax(), MaxPartitions: req.GetMaxPart(), TryIoctl: req.GetTryIoctl(),
	}))
}

func (s *service) UnmapDevice(ctx context.Context, req *controlpb.UnmapDeviceRequest) (*controlpb.Device, error) {
	if s.devices == nil {
		return nil, toStatus(errNoDevices)
	}
	ctx, cancel := beforeDeadline(ctx)
	defer cancel()
	return oneDevice(s.devices.UnmapDevice(ctx, req.GetTarget(), req.GetForce()))
}

// beforeDeadline ends a little before the client gives up, so that it is told what
// could not be done in time; to say who uses a device takes a slow machine a second.
func beforeDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	const room = 2 * time.Second
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, end.Add(-min(room, time.Until(end)/4)))
}

func (s *service) ListDevices(context.Context, *controlpb.ListDevicesRequest) (*controlpb.DeviceList, error) {
	list := &controlpb.DeviceList{}
	if s.devices != nil {
		for _, d := range s.devices.Devices() {
			list.Devices = append(list.Devices, deviceMessage(d))
		}
	}
	return list, nil
}

var errNoDevices = fmt.Errorf("%w: this gateway maps no devices", backend.ErrNotSupported)

func oneDevice(d Device, err error) (*controlpb.Device, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return deviceMessage(d), nil
}

func deviceMessage(d Device) *controlpb.Device {
	return &controlpb.Device{
		Path: d.Path, Volume: d.Volume, State: d.State, Problem: d.Problem, SizeBytes: d.Size, ReadOnly: d.ReadOnly,
		Connections: int32(d.Connections), TimeoutNs: int64(d.Timeout), ReattachTimeoutNs: int64(d.Reattach),
		AttachedAtNs: timeToNs(d.Since), Pid: int64(d.PID), Ioctl: d.Ioctl,
	}
}

func deviceOf(m *controlpb.Device) Device {
	return Device{
		Path: m.GetPath(), Volume: m.GetVolume(), State: m.GetState(), Problem: m.GetProblem(), Size: m.GetSizeBytes(), ReadOnly: m.GetReadOnly(),
		Connections: int(m.GetConnections()), Timeout: time.Duration(m.GetTimeoutNs()), Reattach: time.Duration(m.GetReattachTimeoutNs()),
		Since: nsToTime(m.GetAttachedAtNs()), PID: int(m.GetPid()), Ioctl: m.GetIoctl(),
	}
}

// MapVolume makes a block device of a volume.
func (c *Client) MapVolume(ctx context.Context, req MapRequest) (Device, error) {
	m, err := c.control.MapVolume(ctx, &controlpb.MapVolumeRequest{
		Volume: req.Volume, Device: req.Device, ReadOnly: req.ReadOnly, Connections: int32(req.Connections),
		TimeoutNs: int64(req.Timeout), ReattachTimeoutNs: int64(req.Reattach), Shared: req.Shared,
		NbdsMax: req.MaxDevices, MaxPart: req.MaxPartitions, TryIoctl: req.TryIoctl,
	})
	if err != nil {
		return Device{}, c.fromStatus(err)
	}
	return deviceOf(m), nil
}

// UnmapDevice takes a device, or that of a volume, down; with force though in use.
func (c *Client) UnmapDevice(ctx context.Context, target string, force bool) (Device, error) {
	m, err := c.control.UnmapDevice(ctx, &controlpb.UnmapDeviceRequest{Target: target, Force: force})
	if err != nil {
		return Device{}, c.fromStatus(err)
	}
	return deviceOf(m), nil
}

// Devices lists what is mapped, by number.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	list, err := c.control.ListDevices(ctx, &controlpb.ListDevicesRequest{})
	if err != nil {
		return nil, c.fromStatus(err)
	}
	devices := make([]Device, len(list.GetDevices()))
	for i, m := range list.GetDevices() {
		devices[i] = deviceOf(m)
	}
	return devices, nil
}
