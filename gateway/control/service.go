package control

import (
	"context"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

// service translates each call into one of the gateway, and its answer back.
type service struct {
	controlpb.UnimplementedControlServer
	gw      Gateway
	devices Devices // nil for none
	targets Targets // nil for none
}

func (s *service) CreateVolume(ctx context.Context, req *controlpb.CreateVolumeRequest) (*controlpb.Volume, error) {
	return oneVolume(s.gw.CreateVolume(ctx, backend.VolumeSpec{
		Name:     req.GetName(),
		Size:     req.GetSizeBytes(),
		Geometry: geometryOf(req.GetGeometry()),
		QoS:      qosOf(req.GetQos()),
	}))
}

func (s *service) ListVolumes(ctx context.Context, req *controlpb.ListVolumesRequest) (*controlpb.VolumeList, error) {
	return manyVolumes(s.gw.Volumes(ctx, req.GetDirectory()))
}

func (s *service) GetVolume(ctx context.Context, req *controlpb.GetVolumeRequest) (*controlpb.Volume, error) {
	return oneVolume(s.gw.Volume(ctx, req.GetName()))
}

func (s *service) ResizeVolume(ctx context.Context, req *controlpb.ResizeVolumeRequest) (*controlpb.Volume, error) {
	v, err := s.gw.ResizeVolume(ctx, req.GetName(), req.GetSizeBytes())
	if err == nil && s.devices != nil {
		if err = s.devices.Resized(v.Name); err != nil {
			err = fmt.Errorf("resized, but its device is not yet: %w", err)
		}
	}
	return oneVolume(v, err)
}

func (s *service) RemoveVolume(ctx context.Context, req *controlpb.RemoveVolumeRequest) (*controlpb.Volume, error) {
	return oneVolume(s.gw.RemoveVolume(ctx, req.GetName(), req.GetPurge()))
}

func (s *service) ListRecycled(ctx context.Context, _ *controlpb.ListRecycledRequest) (*controlpb.VolumeList, error) {
	return manyVolumes(s.gw.Recycled(ctx))
}

func (s *service) RecoverVolume(ctx context.Context, req *controlpb.RecoverVolumeRequest) (*controlpb.Volume, error) {
	return oneVolume(s.gw.RecoverVolume(ctx, req.GetIdOrName(), req.GetNewName()))
}

func (s *service) GetUsage(ctx context.Context, req *controlpb.GetUsageRequest) (*controlpb.Usage, error) {
	allocated, err := s.gw.Usage(ctx, req.GetName())
	if err != nil {
		return nil, toStatus(err)
	}
	return &controlpb.Usage{AllocatedBytes: allocated}, nil
}

func (s *service) GetStatus(_ context.Context, _ *controlpb.GetStatusRequest) (*controlpb.Status, error) {
	return statusMessage(s.gw.Status()), nil
}

func oneVolume(v backend.VolumeInfo, err error) (*controlpb.Volume, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return volumeMessage(v), nil
}

func manyVolumes(vs []backend.VolumeInfo, err error) (*controlpb.VolumeList, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	list := &controlpb.VolumeList{Volumes: make([]*controlpb.Volume, len(vs))}
	for i, v := range vs {
		list.Volumes[i] = volumeMessage(v)
	}
	return list, nil
}
