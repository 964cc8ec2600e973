package remote

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// Record implements backend.Meta.
func (m *Meta) Record(ctx context.Context, key string) (backend.Record, error) {
	resp, err := ask(ctx, m, pb.MetaClient.GetRecord, &pb.GetRecordRequest{Key: []byte(key)})
	if err != nil {
		return backend.Record{}, err
	}
	r, err := resp.Words()
	if err == nil && r.Key != key {
		err = fmt.Errorf("%w: the MDS answered with record %.80q, asked for %q", backend.ErrIO, r.Key, key)
	}
	if err != nil {
		return backend.Record{}, err
	}
	return r, nil
}

// Records implements backend.Meta, in pages.
func (m *Meta) Records(ctx context.Context, prefix string) ([]backend.Record, error) {
	records, _, err := m.RecordChanges(ctx, prefix, 0)
	return records, err
}

// RecordChanges implements backend.Meta, in pages. The mark is that of the first: what
// is put while the others are asked for is listed the next time as well.
func (m *Meta) RecordChanges(ctx context.Context, prefix string, mark uint64) (records []backend.Record, next uint64, err error) {
	req := &pb.ListRecordsRequest{Prefix: []byte(prefix), Mark: mark}
	for size := 0; ; {
		page, err := ask(ctx, m, pb.MetaClient.ListRecords, req)
		if err != nil {
			return nil, 0, err
		}
		last := string(req.After)
		if last == "" {
			next = page.GetMark()
		}
		for _, p := range page.GetRecords() {
			r, err := p.Words()
			if err == nil && (r.Key <= last || !strings.HasPrefix(r.Key, prefix)) {
				err = fmt.Errorf("%w: the MDS answered with record %.80q, asked for those of %q after %q", backend.ErrIO, r.Key, prefix, last)
			}
			if err != nil {
				return nil, 0, err
			}
			records, last = append(records, r), r.Key
			size += len(r.Key) + len(r.Data)
		}
		switch {
		case !page.GetMore() || len(page.GetRecords()) == 0:
			return records, next, nil
		case size > 2*backend.MaxRecordBytes || len(records) > 2*backend.MaxRecords: // some may have come meanwhile
			return nil, 0, fmt.Errorf("%w: the MDS answered with %d records of %d bytes and has more", backend.ErrIO, len(records), size)
		}
		req.After = []byte(last)
	}
}

// PutRecord implements backend.Meta.
func (m *Meta) PutRecord(ctx context.Context, key string, data []byte, version uint64) (uint64, error) {
	// Here too: what is far too large would only be cut off on its way.
	if len(data) > backend.MaxRecordData {
		return 0, fmt.Errorf("%w: record %.80q of %d bytes: at most %d", backend.ErrInvalid, key, len(data), backend.MaxRecordData)
	}
	resp, err := ask(ctx, m, pb.MetaClient.PutRecord, &pb.PutRecordRequest{RequestId: newRequestID(), Key: []byte(key), Data: data, Version: version})
	switch {
	case err != nil:
		return 0, err
	case resp.GetVersion() == 0:
		return 0, fmt.Errorf("%w: the MDS answered with version 0 of record %.80q", backend.ErrIO, key)
	}
	return resp.GetVersion(), nil
}

// DeleteRecord implements backend.Meta.
func (m *Meta) DeleteRecord(ctx context.Context, key string, version uint64) error {
	_, err := ask(ctx, m, pb.MetaClient.DeleteRecord, &pb.DeleteRecordRequest{RequestId: newRequestID(), Key: []byte(key), Version: version})
	return err
}

// ClusterID implements backend.Meta.
func (m *Meta) ClusterID(ctx context.Context) (string, error) {
	resp, err := ask(ctx, m, pb.MetaClient.GetClusterID, &pb.GetClusterIDRequest{})
	if err != nil {
		return "", err
	}
	return resp.Words()
}
