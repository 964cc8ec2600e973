package mds

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/opencurve/curve-nbd/backend/pb"
)

// Limits of the server.
const (
	// maxRequestBytes holds a heartbeat of maxCopysets replicas.
	maxRequestBytes = 4 << 20
	// maxCallsPerConnection bounds what one client has in progress.
	maxCallsPerConnection = 256
	handshakeTimeout      = 5 * time.Second
	// clientPing is how often a client may ask whether the connection lives, and
	// deadClient how long one may leave the server's own question unanswered.
	clientPing = 2 * time.Second
	deadClient = 10 * time.Second
)

// ServerOptions of a Server. The zero value is good.
type ServerOptions struct {
	// Purger is woken when a volume was removed; nil for none.
	Purger *Purger
}

// Server answers for one MDS over gRPC: the services of pb/mds.proto, health and
// reflection.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// NewServer makes a server that is not serving yet. It does not own the MDS.
func NewServer(m *MDS, opts ServerOptions) *Server {
	s := &Server{
		grpc: grpc.NewServer(
			grpc.MaxRecvMsgSize(maxRequestBytes),
			grpc.MaxConcurrentStreams(maxCallsPerConnection),
			grpc.ConnectionTimeout(handshakeTimeout),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPing, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: deadClient, Timeout: deadClient}),
			grpc.UnaryInterceptor(withStatus),
			grpc.WaitForHandlers(true),
		),
		health: health.NewServer(),
	}
	pb.RegisterMetaServer(s.grpc, &metaService{mds: m, purger: opts.Purger})
	pb.RegisterTopologyServer(s.grpc, &topologyService{mds: m})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	return s
}

// withStatus makes gRPC's errors of ours.
func withStatus(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	return resp, pb.ToStatus(err)
}

// Serve answers on l until Shutdown, which it reports as nil.
func (s *Server) Serve(l net.Listener) error {
	for _, service := range []string{"", pb.Meta_ServiceDesc.ServiceName, pb.Topology_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
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
