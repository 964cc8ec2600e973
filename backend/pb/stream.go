package pb

import (
	"context"

	"google.golang.org/grpc"
)

// ioMethod is the full name of the frames' stream.
const (
	ioService = "curve.nbd.chunk.v1.IO"
	ioStream  = "Stream"
	ioMethod  = "/" + ioService + "/" + ioStream
)

// IOServer serves the frames' stream. It returns to end it; the error is a gRPC
// status.
type IOServer interface {
	ServeIO(stream grpc.ServerStream) error
}

var ioDesc = grpc.StreamDesc{
	StreamName:    ioStream,
	ServerStreams: true,
	ClientStreams: true,
	Handler: func(srv any, stream grpc.ServerStream) error {
		return srv.(IOServer).ServeIO(stream)
	},
}

// RegisterIO makes server serve the frames' stream.
func RegisterIO(server grpc.ServiceRegistrar, io IOServer) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: ioService,
		HandlerType: (*IOServer)(nil),
		Streams:     []grpc.StreamDesc{ioDesc},
	}, io)
}

// OpenIO opens the frames' stream, which lives as long as ctx. SendMsg and RecvMsg
// take a *Frame.
func OpenIO(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	return conn.NewStream(ctx, &ioDesc, ioMethod, grpc.ForceCodecV2(Codec{}))
}
