package mds

import (
	"context"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// topologyService answers pb's service Topology.
type topologyService struct {
	pb.UnimplementedTopologyServer
	mds *MDS
}

func (s *topologyService) Register(ctx context.Context, r *pb.RegisterRequest) (*pb.Server, error) {
	info, err := s.mds.Register(ctx, backend.ServerInfo{
		UUID: r.GetUuid(), Address: r.GetAddress(), PeerAddress: r.GetPeerAddress(), Zone: r.GetZone(), PID: int(r.GetPid()),
	})
	if err != nil {
		return nil, err
	}
	return pb.ServerOf(info), nil
}

func (s *topologyService) Heartbeat(ctx context.Context, r *pb.HeartbeatRequest) (*pb.HeartbeatReply, error) {
	orders, err := s.mds.Heartbeat(ctx, r.Words())
	if err != nil {
		return nil, err
	}
	return pb.OrdersOf(orders), nil
}

func (s *topologyService) ListServers(ctx context.Context, _ *pb.ListServersRequest) (*pb.ServerList, error) {
	infos, err := s.mds.Servers(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.ServerList{Servers: pb.ServersOf(infos)}, nil
}

func (s *topologyService) ListCopysets(ctx context.Context, _ *pb.ListCopysetsRequest) (*pb.CopysetList, error) {
	infos, err := s.mds.Copysets(ctx)
	if err != nil {
		return nil, err
	}
	return pb.CopysetsOf(infos), nil
}

func (s *topologyService) CreateCopysets(ctx context.Context, r *pb.CreateCopysetsRequest) (*pb.CreateCopysetsReply, error) {
	return &pb.CreateCopysetsReply{}, s.mds.CreateCopysets(ctx, int(r.GetCount()), int(r.GetReplicas()))
}

func (s *topologyService) RetireServer(ctx context.Context, r *pb.RetireServerRequest) (*pb.RetireServerReply, error) {
	return &pb.RetireServerReply{}, s.mds.Retire(ctx, backend.ServerID(r.GetServer()))
}
