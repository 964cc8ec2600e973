package remote

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

var errMetaClosed = fmt.Errorf("connection to the MDS: %w", backend.ErrClosed)

// metaCall is one unary method of the generated client, not yet bound to one.
type metaCall[Req, Resp any] func(pb.MetaClient, context.Context, Req, ...grpc.CallOption) (Resp, error)

// ask makes a call of service Meta.
func ask[Req, Resp any](ctx context.Context, m *Meta, method metaCall[Req, Resp], req Req) (resp Resp, err error) {
	err = m.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = method(pb.NewMetaClient(conn), ctx, req)
		return err
	})
	return resp, err
}

// askVolume is ask for calls that answer with a volume.
func askVolume[Req any](ctx context.Context, m *Meta, method metaCall[Req, *pb.Volume], req Req) (backend.VolumeInfo, error) {
	resp, err := ask(ctx, m, method, req)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	return resp.Info()
}

// CreateVolume implements backend.Meta.
func (m *Meta) CreateVolume(ctx context.Context, spec backend.VolumeSpec) (backend.VolumeInfo, error) {
	return askVolume(ctx, m, pb.MetaClient.CreateVolume, &pb.CreateVolumeRequest{
		RequestId: newRequestID(), Name: []byte(spec.Name), SizeBytes: spec.Size,
		Geometry: pb.GeometryOf(spec.Geometry), Qos: pb.QosOf(spec.QoS),
	})
}

// Volume implements backend.Meta.
func (m *Meta) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	return askVolume(ctx, m, pb.MetaClient.GetVolume, &pb.GetVolumeRequest{Name: []byte(name)})
}

// Volumes implements backend.Meta, in pages: volumes that come or go meanwhile are
// seen or not.
func (m *Meta) Volumes(ctx context.Context, dir string) ([]backend.VolumeInfo, error) {
	var infos []backend.VolumeInfo
	req := &pb.ListVolumesRequest{Dir: []byte(dir)}
	for {
		page, err := ask(ctx, m, pb.MetaClient.ListVolumes, req)
		if err != nil {
			return nil, err
		}
		found, err := pb.VolumeInfos(page.GetVolumes())
		if err != nil {
			return nil, err
		}
		infos = append(infos, found...)
		if !page.GetMore() || len(found) == 0 {
			return infos, nil
		}
		req.After = []byte(found[len(found)-1].Name)
	}
}

// ResizeVolume implements backend.Meta.
func (m *Meta) ResizeVolume(ctx context.Context, name string, size int64) (backend.VolumeInfo, error) {
	return askVolume(ctx, m, pb.MetaClient.ResizeVolume, &pb.ResizeVolumeRequest{Name: []byte(name), SizeBytes: size})
}

// RemoveVolume implements backend.Meta.
func (m *Meta) RemoveVolume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	return askVolume(ctx, m, pb.MetaClient.RemoveVolume, &pb.RemoveVolumeRequest{RequestId: newRequestID(), Name: []byte(name)})
}

// Recycled implements backend.Meta, in pages.
func (m *Meta) Recycled(ctx context.Context) ([]backend.VolumeInfo, error) {
	var infos []backend.VolumeInfo
	req := new(pb.ListRecycledRequest)
	for {
		page, err := ask(ctx, m, pb.MetaClient.ListRecycled, req)
		if err != nil {
			return nil, err
		}
		found, err := pb.VolumeInfos(page.GetVolumes())
		if err != nil {
			return nil, err
		}
		infos = append(infos, found...)
		if !page.GetMore() || len(found) == 0 {
			return infos, nil
		}
		last := page.GetVolumes()[len(found)-1]
		req.AfterNs, req.AfterVolume = last.GetRecycledAtNs(), last.GetId()
	}
}

// RecoverVolume implements backend.Meta.
func (m *Meta) RecoverVolume(ctx context.Context, id backend.VolumeID, newName string) (backend.VolumeInfo, error) {
	return askVolume(ctx, m, pb.MetaClient.RecoverVolume, &pb.RecoverVolumeRequest{
		RequestId: newRequestID(), Volume: uint64(id), NewName: []byte(newName),
	})
}

// PurgeVolume implements backend.Meta.
func (m *Meta) PurgeVolume(ctx context.Context, id backend.VolumeID) ([]backend.Segment, error) {
	if _, err := ask(ctx, m, pb.MetaClient.PurgeVolume, &pb.PurgeVolumeRequest{Volume: uint64(id)}); err != nil {
		return nil, err
	}
	return m.Segments(ctx, id)
}

// PurgeDone implements backend.Meta.
func (m *Meta) PurgeDone(ctx context.Context, id backend.VolumeID) error {
	_, err := ask(ctx, m, pb.MetaClient.PurgeDone, &pb.PurgeDoneRequest{Volume: uint64(id)})
	return err
}

// OpenVolume implements backend.Meta.
func (m *Meta) OpenVolume(ctx context.Context, name, owner string, mode backend.OpenMode) (backend.Lease, error) {
	resp, err := ask(ctx, m, pb.MetaClient.OpenVolume, &pb.OpenVolumeRequest{
		RequestId: newRequestID(), Name: []byte(name), Owner: []byte(owner), Mode: pb.OpenModeOf(mode),
	})
	if err != nil {
		return backend.Lease{}, err
	}
	return resp.Words()
}

// KeepAlive implements backend.Meta.
func (m *Meta) KeepAlive(ctx context.Context, owner string) error {
	_, err := ask(ctx, m, pb.MetaClient.KeepAlive, &pb.KeepAliveRequest{Owner: []byte(owner)})
	return err
}

// CloseVolume implements backend.Meta.
func (m *Meta) CloseVolume(ctx context.Context, id backend.VolumeID, epoch backend.Epoch) error {
	_, err := ask(ctx, m, pb.MetaClient.CloseVolume, &pb.CloseVolumeRequest{RequestId: newRequestID(), Volume: uint64(id), Epoch: uint64(epoch)})
	return err
}

// Segment implements backend.Meta.
func (m *Meta) Segment(ctx context.Context, id backend.VolumeID, index backend.SegmentIndex) (backend.Segment, error) {
	return checkedSegment(index)(ask(ctx, m, pb.MetaClient.GetSegment, &pb.GetSegmentRequest{Volume: uint64(id), Index: uint32(index)}))
}

// AllocateSegment implements backend.Meta.
func (m *Meta) AllocateSegment(ctx context.Context, id backend.VolumeID, epoch backend.Epoch, index backend.SegmentIndex) (backend.Segment, error) {
	return checkedSegment(index)(ask(ctx, m, pb.MetaClient.AllocateSegment, &pb.AllocateSegmentRequest{Volume: uint64(id), Epoch: uint64(epoch), Index: uint32(index)}))
}

// checkedSegment takes an answer for a segment that was asked for by its index.
func checkedSegment(want backend.SegmentIndex) func(*pb.Segment, error) (backend.Segment, error) {
	return func(resp *pb.Segment, err error) (backend.Segment, error) {
		if err != nil {
			return backend.Segment{}, err
		}
		s, err := resp.Words()
		if err == nil && s.Index != want {
			err = fmt.Errorf("%w: the MDS answered with segment %d, asked for %d", backend.ErrIO, s.Index, want)
		}
		if err != nil {
			return backend.Segment{}, err
		}
		return s, nil
	}
}

// Segments implements backend.Meta, in pages.
func (m *Meta) Segments(ctx context.Context, id backend.VolumeID) ([]backend.Segment, error) {
	var segments []backend.Segment
	req := &pb.ListSegmentsRequest{Volume: uint64(id)}
	for {
		page, err := ask(ctx, m, pb.MetaClient.ListSegments, req)
		if err != nil {
			return nil, err
		}
		for _, s := range page.GetSegments() {
			found, err := s.Words()
			if err == nil && uint32(found.Index) < req.From {
				err = fmt.Errorf("%w: the MDS answered with segment %d, asked for those from %d on", backend.ErrIO, found.Index, req.From)
			}
			if err != nil {
				return nil, err
			}
			segments = append(segments, found)
			req.From = uint32(found.Index) + 1
		}
		if !page.GetMore() || len(page.GetSegments()) == 0 || req.From == 0 {
			return segments, nil
		}
	}
}

// Copyset implements backend.Meta. What was answered in the last MetaOptions.Fresh
// is answered again, and so is an older answer while no MDS can be reached.
func (m *Meta) Copyset(ctx context.Context, id backend.CopysetID) (backend.Copyset, error) {
	return m.copysets.get(ctx, id, m.opts.Fresh)
}

func (m *Meta) askCopyset(ctx context.Context, id backend.CopysetID) (backend.Copyset, error) {
	resp, err := ask(ctx, m, pb.MetaClient.GetCopyset, &pb.GetCopysetRequest{Copyset: uint32(id)})
	if err != nil {
		return backend.Copyset{}, err
	}
	return resp.Words()
}
