package control

import (
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control/controlpb"
)

func volumeMessage(v backend.VolumeInfo) *controlpb.Volume {
	return &controlpb.Volume{
		Id:           uint64(v.ID),
		Name:         v.Name,
		SizeBytes:    v.Size,
		Geometry:     geometryMessage(v.Geometry),
		Qos:          qosMessage(v.QoS),
		State:        string(v.State),
		Epoch:        uint64(v.Epoch),
		Owner:        v.Owner,
		CreatedAtNs:  timeToNs(v.CreatedAt),
		RecycledAtNs: timeToNs(v.RecycledAt),
	}
}

func volumeOf(m *controlpb.Volume) backend.VolumeInfo {
	return backend.VolumeInfo{
		ID:         backend.VolumeID(m.GetId()),
		Name:       m.GetName(),
		Size:       m.GetSizeBytes(),
		Geometry:   geometryOf(m.GetGeometry()),
		QoS:        qosOf(m.GetQos()),
		State:      backend.VolumeState(m.GetState()),
		Epoch:      backend.Epoch(m.GetEpoch()),
		Owner:      m.GetOwner(),
		CreatedAt:  nsToTime(m.GetCreatedAtNs()),
		RecycledAt: nsToTime(m.GetRecycledAtNs()),
	}
}

func volumesOf(list *controlpb.VolumeList) []backend.VolumeInfo {
	vs := make([]backend.VolumeInfo, len(list.GetVolumes()))
	for i, m := range list.GetVolumes() {
		vs[i] = volumeOf(m)
	}
	return vs
}

func geometryMessage(g backend.Geometry) *controlpb.Geometry {
	return &controlpb.Geometry{
		BlockSize:   g.BlockSize,
		ChunkSize:   g.ChunkSize,
		SegmentSize: g.SegmentSize,
		StripeUnit:  g.StripeUnit,
		StripeCount: g.StripeCount,
	}
}

func geometryOf(m *controlpb.Geometry) backend.Geometry {
	return backend.Geometry{
		BlockSize:   m.GetBlockSize(),
		ChunkSize:   m.GetChunkSize(),
		SegmentSize: m.GetSegmentSize(),
		StripeUnit:  m.GetStripeUnit(),
		StripeCount: m.GetStripeCount(),
	}
}

func qosMessage(q backend.QoS) *controlpb.Qos {
	return &controlpb.Qos{Iops: q.IOPS, IopsBurst: q.IOPSBurst, Bps: q.BPS, BpsBurst: q.BPSBurst}
}

func qosOf(m *controlpb.Qos) backend.QoS {
	return backend.QoS{IOPS: m.GetIops(), IOPSBurst: m.GetIopsBurst(), BPS: m.GetBps(), BPSBurst: m.GetBpsBurst()}
}

func timeToNs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func nsToTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
