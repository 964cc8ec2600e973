package mds_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// serve runs a server on this machine and returns a connection to it.
func serve(t *testing.T, m *mds.MDS, opts mds.ServerOptions) (*mds.Server, *grpc.ClientConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := mds.NewServer(m, opts)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, conn
}

func TestServerTellsItsHealthAndItsServices(t *testing.T) {
	_, conn := serve(t, newMDS(t, mds.NewMemStore(), mds.Options{}), mds.ServerOptions{})
	for _, service := range []string{"", "curve.nbd.mds.v1.Meta", "curve.nbd.mds.v1.Topology"} {
		r, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, r, err)
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || !strings.Contains(r.String(), "curve.nbd.mds.v1.Topology") {
		t.Errorf("services: %v, %v", r, err)
	}
}

func TestBadRequestsAreRefusedWithAReason(t *testing.T) {
	_, conn := serve(t, newMDS(t, mds.NewMemStore(), mds.Options{}), mds.ServerOptions{})
	meta, topology := pb.NewMetaClient(conn), pb.NewTopologyClient(conn)
	ctx := t.Context()
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"nothing asked for":     {second(meta.CreateVolume(ctx, &pb.CreateVolumeRequest{})), codes.InvalidArgument},
		"short request id":      {second(meta.CreateVolume(ctx, &pb.CreateVolumeRequest{RequestId: []byte("short"), Name: []byte("v"), SizeBytes: 1 << 30})), codes.InvalidArgument},
		"no open mode":          {second(meta.OpenVolume(ctx, &pb.OpenVolumeRequest{Name: []byte("v"), Owner: []byte("gw")})), codes.InvalidArgument},
		"open mode 77":          {second(meta.OpenVolume(ctx, &pb.OpenVolumeRequest{Name: []byte("v"), Owner: []byte("gw"), Mode: 77})), codes.InvalidArgument},
		"no owner":              {second(meta.KeepAlive(ctx, &pb.KeepAliveRequest{})), codes.InvalidArgument},
		"no such volume":        {second(meta.GetVolume(ctx, &pb.GetVolumeRequest{Name: []byte("v")})), codes.NotFound},
		"segments of no volume": {second(meta.ListSegments(ctx, &pb.ListSegmentsRequest{Volume: 9})), codes.NotFound},
		"no chunkservers here":  {second(topology.Heartbeat(ctx, &pb.HeartbeatRequest{})), codes.Unimplemented},
		"a request of 5 MiB":    {second(meta.GetVolume(ctx, &pb.GetVolumeRequest{Name: make([]byte, 5<<20)})), codes.ResourceExhausted},
	} {
		if status.Code(c.err) != c.code {
			t.Errorf("%s: %v, want %s", name, c.err, c.code)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestRemovingOverTheNetworkWakesThePurger(t *testing.T) {
	m := newMDS(t, mds.NewMemStore(), mds.Options{})
	createV(t, m)
	purged := make(chan struct{}, 1)
	bin := mds.NewPurger(m, mds.PurgeOptions{Keep: mds.PurgeAtOnce, Log: quiet, Delete: func(context.Context, backend.VolumeID, []backend.ChunkRef) error {
		purged <- struct{}{}
		return nil
	}})
	lease, err := m.OpenVolume(t.Context(), "v", "gw", backend.OpenExclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.AllocateSegment(t.Context(), lease.Volume.ID, lease.Epoch, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.CloseVolume(t.Context(), lease.Volume.ID, lease.Epoch); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); bin.Run(ctx) }()
	_, conn := serve(t, m, mds.ServerOptions{Purger: bin})
	if _, err := pb.NewMetaClient(conn).RemoveVolume(t.Context(), &pb.RemoveVolumeRequest{Name: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	<-purged
	cancel()
	<-done
}
