package remote

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

type topologyCall[Req, Resp any] func(pb.TopologyClient, context.Context, Req, ...grpc.CallOption) (Resp, error)

// askTopology makes a call of service Topology. All of them are repeatable.
func askTopology[Req, Resp any](ctx context.Context, m *Meta, method topologyCall[Req, Resp], req Req) (resp Resp, err error) {
	err = m.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = method(pb.NewTopologyClient(conn), ctx, req)
		return err
	})
	return resp, err
}

// Register implements backend.Topology.
func (m *Meta) Register(ctx context.Context, info backend.ServerInfo) (backend.ServerInfo, error) {
	resp, err := askTopology(ctx, m, pb.TopologyClient.Register, &pb.RegisterRequest{
		Uuid: info.UUID, Address: info.Address, PeerAddress: info.PeerAddress, Zone: info.Zone, Pid: int64(info.PID),
	})
	if err != nil {
		return backend.ServerInfo{}, err
	}
	return resp.Info()
}

// Heartbeat implements backend.Topology.
func (m *Meta) Heartbeat(ctx context.Context, r backend.Report) (backend.Orders, error) {
	resp, err := askTopology(ctx, m, pb.TopologyClient.Heartbeat, pb.HeartbeatOf(r))
	if err != nil {
		return backend.Orders{}, err
	}
	return resp.Words()
}

// Servers implements backend.Topology.
func (m *Meta) Servers(ctx context.Context) ([]backend.ServerInfo, error) {
	resp, err := askTopology(ctx, m, pb.TopologyClient.ListServers, &pb.ListServersRequest{})
	if err != nil {
		return nil, err
	}
	return pb.ServerInfos(resp.GetServers())
}

// Copysets implements backend.Topology.
func (m *Meta) Copysets(ctx context.Context) ([]backend.CopysetInfo, error) {
	resp, err := askTopology(ctx, m, pb.TopologyClient.ListCopysets, &pb.ListCopysetsRequest{})
	if err != nil {
		return nil, err
	}
	return resp.Words()
}

// CreateCopysets implements backend.Topology.
func (m *Meta) CreateCopysets(ctx context.Context, n, replicas int) error {
	_, err := askTopology(ctx, m, pb.TopologyClient.CreateCopysets, &pb.CreateCopysetsRequest{Count: int64(n), Replicas: int64(replicas)})
	return err
}

// Retire makes a chunkserver's replicas move to others. Repeating it is no error.
// ErrNotFound.
func (m *Meta) Retire(ctx context.Context, id backend.ServerID) error {
	_, err := askTopology(ctx, m, pb.TopologyClient.RetireServer, &pb.RetireServerRequest{Server: uint32(id)})
	return err
}

// Server says where a chunkserver is. What was answered in the last
// MetaOptions.Fresh is answered again, unless the server is new since, and so is an
// older answer while no MDS can be reached. ErrNotFound.
func (m *Meta) Server(ctx context.Context, id backend.ServerID) (backend.ServerInfo, error) {
	for _, maxAge := range []time.Duration{m.opts.Fresh, 0} {
		book, err := m.servers.get(ctx, struct{}{}, maxAge)
		if err != nil {
			return backend.ServerInfo{}, fmt.Errorf("address of %s: %w", id, err)
		}
		if info, ok := book[id]; ok {
			return info, nil
		}
	}
	return backend.ServerInfo{}, fmt.Errorf("%w: the MDS knows no %s", backend.ErrNotFound, id)
}

func (m *Meta) askServers(ctx context.Context, _ struct{}) (map[backend.ServerID]backend.ServerInfo, error) {
	infos, err := m.Servers(ctx)
	if err != nil {
		return nil, err
	}
	book := make(map[backend.ServerID]backend.ServerInfo, len(infos))
	for _, s := range infos {
		book[s.ID] = s
	}
	return book, nil
}
