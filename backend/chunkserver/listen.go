package chunkserver

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// maxControlMessage bounds a message of the unary calls, in bytes: an export's
	// blocks, or the names of maxChunksPerCall chunks.
	maxControlMessage = 4 << 20
	// Flow-control windows of a client's stream and connection, in bytes.
	streamWindow = 16 << 20
	connWindow   = 32 << 20
	// streamsPerConn bounds the calls and streams of one connection.
	streamsPerConn = 256
	// keepaliveMin is how often a client may ask for a sign of life; the server asks
	// itself after keepaliveAfter, so that connections of dead machines go away.
	keepaliveMin     = 5 * time.Second
	keepaliveAfter   = 30 * time.Second
	keepaliveTimeout = 10 * time.Second
)

// newGRPC is the gRPC server for the chunk service, with health and reflection.
func newGRPC(io *ioService, c *control) (*grpc.Server, *health.Server) {
	s := grpc.NewServer(
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxConcurrentStreams(streamsPerConn),
		grpc.MaxRecvMsgSize(pb.MaxFrame),
		grpc.MaxSendMsgSize(pb.MaxFrame),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMin, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveAfter, Timeout: keepaliveTimeout}),
		experimental.BufferPool(pb.Pool),
		grpc.WaitForHandlers(true), // Stop ends their contexts; the replicas close after it
	)
	pb.RegisterIO(s, io)
	pb.RegisterChunkServer(s, c)
	alive := health.NewServer()
	grpc_health_v1.RegisterHealthServer(s, alive)
	reflection.Register(s)
	return s, alive
}
