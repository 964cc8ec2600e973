package control

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// Limits of the server. Requests hold a name and a few numbers.
const (
	maxRequestBytes     = 64 << 10
	maxConcurrentCalls  = 64
	handshakeTimeout    = 5 * time.Second
	idleConnectionLimit = 10 * time.Minute
)

// Gateway is what the server needs of a gateway. Errors wrap the sentinels of
// package backend.
type Gateway interface {
	CreateVolume(ctx context.Context, spec backend.VolumeSpec) (backend.VolumeInfo, error)
	Volumes(ctx context.Context, dir string) ([]backend.VolumeInfo, error)
	Volume(ctx context.Context, name string) (backend.VolumeInfo, error)
	ResizeVolume(ctx context.Context, name string, size int64) (backend.VolumeInfo, error)
	RemoveVolume(ctx context.Context, name string, purge bool) (backend.VolumeInfo, error)
	Recycled(ctx context.Context) ([]backend.VolumeInfo, error)
	RecoverVolume(ctx context.Context, idOrName, newName string) (backend.VolumeInfo, error)
	Usage(ctx context.Context, name string) (int64, error)
	Status() gateway.Status
}

// Server answers the control protocol for one gateway.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// NewServer makes a server that is not serving yet, in the sense of the health
// service too: call SetServing when the gateway's listeners are up. devices and
// targets are nil for a gateway that has none.
func NewServer(gw Gateway, devices Devices, targets Targets) *Server {
	s := &Server{
		grpc: grpc.NewServer(
			grpc.MaxRecvMsgSize(maxRequestBytes),
			grpc.MaxConcurrentStreams(maxConcurrentCalls),
			grpc.ConnectionTimeout(handshakeTimeout),
			grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleConnectionLimit}),
			grpc.WaitForHandlers(true),
		),
		health: health.NewServer(),
	}
	controlpb.RegisterControlServer(s.grpc, &service{gw: gw, devices: devices, targets: targets})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	s.SetServing(false)
	return s
}

// SetServing says whether the gateway takes new work.
func (s *Server) SetServing(serving bool) {
	state := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
}

// Serve answers on l until Shutdown, which it reports as nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Shutdown stops listening and waits for the calls in progress; when ctx ends
// first it cancels them, waits for their handlers, and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		return ctx.Err()
	}
}
