package mds

import (
	"context"

	"github.com/opencurve/curve-nbd/backend/pb"
)

func (s *metaService) GetRecord(ctx context.Context, r *pb.GetRecordRequest) (*pb.Record, error) {
	record, err := s.mds.Record(ctx, string(r.GetKey()))
	if err != nil {
		return nil, err
	}
	return pb.RecordOf(record), nil
}

func (s *metaService) ListRecords(ctx context.Context, r *pb.ListRecordsRequest) (*pb.RecordPage, error) {
	p, err := s.mds.recordsAfter(ctx, string(r.GetPrefix()), string(r.GetAfter()), r.GetMark(), recordPageBytes)
	if err != nil {
		return nil, err
	}
	page := &pb.RecordPage{Records: make([]*pb.Record, len(p.records)), More: p.more, Mark: p.mark}
	for i, record := range p.records {
		page.Records[i] = pb.RecordOf(record)
	}
	return page, nil
}

func (s *metaService) PutRecord(ctx context.Context, r *pb.PutRecordRequest) (*pb.PutRecordReply, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	version, err := s.mds.PutRecord(ctx, string(r.GetKey()), r.GetData(), r.GetVersion())
	if err != nil {
		return nil, err
	}
	return &pb.PutRecordReply{Version: version}, nil
}

func (s *metaService) DeleteRecord(ctx context.Context, r *pb.DeleteRecordRequest) (*pb.DeleteRecordReply, error) {
	ctx, err := once(ctx, r.GetRequestId())
	if err != nil {
		return nil, err
	}
	return &pb.DeleteRecordReply{}, s.mds.DeleteRecord(ctx, string(r.GetKey()), r.GetVersion())
}

func (s *metaService) GetClusterID(ctx context.Context, _ *pb.GetClusterIDRequest) (*pb.ClusterID, error) {
	id, err := s.mds.ClusterID(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.ClusterID{Id: id}, nil
}
