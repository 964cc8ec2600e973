package mds

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

const (
	// volumePage is how many volumes one answer lists: with the longest names and
	// owners, below 6 MiB.
	volumePage = 8192
	// segmentPageChunks is about how many chunks one answer lists, below 2 MiB.
	segmentPageChunks = 64 << 10
	// recordPageBytes is about how many bytes of records one answer lists.
	recordPageBytes = 2 << 20
)

// metaService answers pb's service Meta. What a request says is checked by the
// methods of MDS, as for any caller.
type metaService struct {
	pb.UnimplementedMetaServer
	mds    *MDS
	purger *Purger // may be nil
}

// once puts a request's id into its context.
func once(ctx context.Context, id []byte) (context.Context, error) {
	if len(id) == 0 {
		return ctx, nil
	}
	if len(id) != RequestIDSize {
		return nil, fmt.Errorf("%w: request id of %d bytes: want %d, or none", backend.ErrInvalid, len(id), RequestIDSize)
	}
	return WithRequest(ctx, RequestID(id)), nil
}

func (s *metaService) CreateVolume(ctx context.Context, r *pb.CreateVolumeRequest) (*pb.Volume, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	return volumeReply(s.mds.CreateVolume(ctx, backend.VolumeSpec{
		Name: string(r.GetName()), Size: r.GetSizeBytes(), Geometry: r.GetGeometry().Words(), QoS: r.GetQos().Words(),
	}))
}

func volumeReply(v backend.VolumeInfo, err error) (*pb.Volume, error) {
	if err != nil {
		return nil, err
	}
	return pb.VolumeOf(v), nil
}

func (s *metaService) GetVolume(ctx context.Context, r *pb.GetVolumeRequest) (*pb.Volume, error) {
	return volumeReply(s.mds.Volume(ctx, string(r.GetName())))
}

func (s *metaService) ListVolumes(ctx context.Context, r *pb.ListVolumesRequest) (*pb.VolumePage, error) {
	infos, err := s.mds.Volumes(ctx, string(r.GetDir()))
	if err != nil {
		return nil, err
	}
	return pageAfter(infos, func(v backend.VolumeInfo) bool { return v.Name > string(r.GetAfter()) }), nil
}

// pageAfter returns a page from the first volume on that is behind the last one
// of the page before.
func pageAfter(infos []backend.VolumeInfo, behind func(backend.VolumeInfo) bool) *pb.VolumePage {
	first := slices.IndexFunc(infos, behind)
	if first < 0 {
		return &pb.VolumePage{}
	}
	infos = infos[first:]
	page := &pb.VolumePage{More: len(infos) > volumePage}
	for _, v := range infos[:min(len(infos), volumePage)] {
		page.Volumes = append(page.Volumes, pb.VolumeOf(v))
	}
	return page
}

func (s *metaService) ResizeVolume(ctx context.Context, r *pb.ResizeVolumeRequest) (*pb.Volume, error) {
	return volumeReply(s.mds.ResizeVolume(ctx, string(r.GetName()), r.GetSizeBytes()))
}

func (s *metaService) RemoveVolume(ctx context.Context, r *pb.RemoveVolumeRequest) (*pb.Volume, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	v, err := s.mds.RemoveVolume(ctx, string(r.GetName()))
	if err == nil && s.purger != nil {
		s.purger.Wake()
	}
	return volumeReply(v, err)
}

func (s *metaService) ListRecycled(ctx context.Context, r *pb.ListRecycledRequest) (*pb.VolumePage, error) {
	infos, err := s.mds.Recycled(ctx)
	if err != nil {
		return nil, err
	}
	after := time.Unix(0, r.GetAfterNs())
	return pageAfter(infos, func(v backend.VolumeInfo) bool {
		return v.RecycledAt.After(after) || (v.RecycledAt.Equal(after) && uint64(v.ID) > r.GetAfterVolume())
	}), nil
}

func (s *metaService) RecoverVolume(ctx context.Context, r *pb.RecoverVolumeRequest) (*pb.Volume, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	return volumeReply(s.mds.RecoverVolume(ctx, backend.VolumeID(r.GetVolume()), string(r.GetNewName())))
}

func (s *metaService) PurgeVolume(ctx context.Context, r *pb.PurgeVolumeRequest) (*pb.PurgeVolumeReply, error) {
	return &pb.PurgeVolumeReply{}, s.mds.markPurging(ctx, backend.VolumeID(r.GetVolume()), anyTime)
}

func (s *metaService) PurgeDone(ctx context.Context, r *pb.PurgeDoneRequest) (*pb.PurgeDoneReply, error) {
	return &pb.PurgeDoneReply{}, s.mds.PurgeDone(ctx, backend.VolumeID(r.GetVolume()))
}

func (s *metaService) OpenVolume(ctx context.Context, r *pb.OpenVolumeRequest) (*pb.Lease, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	mode, err := r.GetMode().Words()
	if err != nil {
		return nil, err
	}
	lease, err := s.mds.OpenVolume(ctx, string(r.GetName()), string(r.GetOwner()), mode)
	if err != nil {
		return nil, err
	}
	return pb.LeaseOf(lease), nil
}

func (s *metaService) KeepAlive(ctx context.Context, r *pb.KeepAliveRequest) (*pb.KeepAliveReply, error) {
	return &pb.KeepAliveReply{}, s.mds.KeepAlive(ctx, string(r.GetOwner()))
}

func (s *metaService) CloseVolume(ctx context.Context, r *pb.CloseVolumeRequest) (*pb.CloseVolumeReply, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &pb.CloseVolumeReply{}, s.mds.CloseVolume(ctx, backend.VolumeID(r.GetVolume()), backend.Epoch(r.GetEpoch()))
}

func (s *metaService) GetSegment(ctx context.Context, r *pb.GetSegmentRequest) (*pb.Segment, error) {
	return segmentReply(s.mds.Segment(ctx, backend.VolumeID(r.GetVolume()), backend.SegmentIndex(r.GetIndex())))
}

func segmentReply(seg backend.Segment, err error) (*pb.Segment, error) {
	if err != nil {
		return nil, err
	}
	return pb.SegmentOf(seg), nil
}

func (s *metaService) AllocateSegment(ctx context.Context, r *pb.AllocateSegmentRequest) (*pb.Segment, error) {
	return segmentReply(s.mds.AllocateSegment(ctx, backend.VolumeID(r.GetVolume()), backend.Epoch(r.GetEpoch()), backend.SegmentIndex(r.GetIndex())))
}

func (s *metaService) ListSegments(ctx context.Context, r *pb.ListSegmentsRequest) (*pb.SegmentPage, error) {
	segments, more, err := s.mds.segmentsFrom(ctx, backend.VolumeID(r.GetVolume()), backend.SegmentIndex(r.GetFrom()), segmentPageChunks)
	if err != nil {
		return nil, err
	}
	page := &pb.SegmentPage{Segments: make([]*pb.Segment, len(segments)), More: more}
	for i, seg := range segments {
		page.Segments[i] = pb.SegmentOf(seg)
	}
	return page, nil
}

func (s *metaService) GetCopyset(ctx context.Context, r *pb.GetCopysetRequest) (*pb.Copyset, error) {
	c, err := s.mds.Copyset(ctx, backend.CopysetID(r.GetCopyset()))
	if err != nil {
		return nil, err
	}
	return pb.CopysetOf(c), nil
}
