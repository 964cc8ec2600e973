package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// maxAnswerBytes lets a listing hold some hundred thousand volumes.
const maxAnswerBytes = 64 << 20

// Client asks a gateway. It implements Gateway, but for Status, which can fail
// here. Safe for concurrent use.
type Client struct {
	addr    string
	conn    *grpc.ClientConn
	control controlpb.ControlClient
	health  healthpb.HealthClient
}

// Dial connects to the gateway at addr ("unix:PATH") and returns
// ErrUnreachable, with the reason and the remedy, if none listens there.
func Dial(ctx context.Context, addr string) (*Client, error) {
	path, err := SocketPath(addr)
	if err != nil {
		return nil, err
	}
	// One connection up front: gRPC would only say "unavailable", and late.
	if err := probe(ctx, path); err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	conn, err := grpc.NewClient("passthrough:///curve-nbd",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("control client for %s: %w", addr, err)
	}
	return &Client{
		addr:    addr,
		conn:    conn,
		control: controlpb.NewControlClient(conn),
		health:  healthpb.NewHealthClient(conn),
	}, nil
}

func probe(ctx context.Context, path string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: no gateway answers at unix:%s: start one with `curve-nbd serve`, or name its socket with --control",
			ErrUnreachable, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: no permission to use unix:%s: run as the user who runs the gateway", ErrUnreachable, path)
	}
	return fmt.Errorf("%w: unix:%s: %w", ErrUnreachable, path, err)
}

// Close drops the connection.
func (c *Client) Close() error { return c.conn.Close() }

// CreateVolume makes an empty volume.
func (c *Client) CreateVolume(ctx context.Context, spec backend.VolumeSpec) (backend.VolumeInfo, error) {
	return c.volume(c.control.CreateVolume(ctx, &controlpb.CreateVolumeRequest{
		Name:      spec.Name,
		SizeBytes: spec.Size,
		Geometry:  geometryMessage(spec.Geometry),
		Qos:       qosMessage(spec.QoS),
	}))
}

// Volumes lists the volumes under dir, "" for all, by name.
func (c *Client) Volumes(ctx context.Context, dir string) ([]backend.VolumeInfo, error) {
	return c.volumes(c.control.ListVolumes(ctx, &controlpb.ListVolumesRequest{Directory: dir}))
}

// Volume looks one volume up.
func (c *Client) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	return c.volume(c.control.GetVolume(ctx, &controlpb.GetVolumeRequest{Name: name}))
}

// ResizeVolume sets the size in bytes, open exports included.
func (c *Client) ResizeVolume(ctx context.Context, name string, size int64) (backend.VolumeInfo, error) {
	return c.volume(c.control.ResizeVolume(ctx, &controlpb.ResizeVolumeRequest{Name: name, SizeBytes: size}))
}

// RemoveVolume moves a volume to the recycle bin or, with purge, frees it.
func (c *Client) RemoveVolume(ctx context.Context, name string, purge bool) (backend.VolumeInfo, error) {
	return c.volume(c.control.RemoveVolume(ctx, &controlpb.RemoveVolumeRequest{Name: name, Purge: purge}))
}

// Recycled lists the recycle bin, oldest first.
func (c *Client) Recycled(ctx context.Context) ([]backend.VolumeInfo, error) {
	return c.volumes(c.control.ListRecycled(ctx, &controlpb.ListRecycledRequest{}))
}

// RecoverVolume brings a volume back from the recycle bin.
func (c *Client) RecoverVolume(ctx context.Context, idOrName, newName string) (backend.VolumeInfo, error) {
	return c.volume(c.control.RecoverVolume(ctx, &controlpb.RecoverVolumeRequest{IdOrName: idOrName, NewName: newName}))
}

// Usage returns the bytes of disk that a volume takes.
func (c *Client) Usage(ctx context.Context, name string) (int64, error) {
	usage, err := c.control.GetUsage(ctx, &controlpb.GetUsageRequest{Name: name})
	return usage.GetAllocatedBytes(), c.fromStatus(err)
}

// Status returns what the gateway is and does.
func (c *Client) Status(ctx context.Context) (gateway.Status, error) {
	status, err := c.control.GetStatus(ctx, &controlpb.GetStatusRequest{})
	if err != nil {
		return gateway.Status{}, c.fromStatus(err)
	}
	return statusOf(status), nil
}

// Serving says whether the gateway takes new work; it does not while it starts
// and while it drains.
func (c *Client) Serving(ctx context.Context) (bool, error) {
	answer, err := c.health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return false, c.fromStatus(err)
	}
	return answer.GetStatus() == healthpb.HealthCheckResponse_SERVING, nil
}

func (c *Client) volume(m *controlpb.Volume, err error) (backend.VolumeInfo, error) {
	if err != nil {
		return backend.VolumeInfo{}, c.fromStatus(err)
	}
	return volumeOf(m), nil
}

func (c *Client) volumes(list *controlpb.VolumeList, err error) ([]backend.VolumeInfo, error) {
	if err != nil {
		return nil, c.fromStatus(err)
	}
	return volumesOf(list), nil
}
