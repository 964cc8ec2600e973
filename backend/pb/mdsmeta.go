package pb

import (
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// VolumeOf is a volume as it goes over the wire.
func VolumeOf(v backend.VolumeInfo) *Volume {
	return &Volume{
		Id: uint64(v.ID), Name: []byte(v.Name), SizeBytes: v.Size,
		Geometry: GeometryOf(v.Geometry), Qos: QosOf(v.QoS),
		State: string(v.State), Epoch: uint64(v.Epoch), Owner: []byte(v.Owner),
		CreatedAtNs: nsOf(v.CreatedAt), RecycledAtNs: nsOf(v.RecycledAt),
	}
}

// Info is the volume in words of package backend. The receiver is checked: what
// comes over a network may be anybody's. ErrIO.
func (m *Volume) Info() (backend.VolumeInfo, error) {
	v := backend.VolumeInfo{
		ID: backend.VolumeID(m.GetId()), Name: string(m.GetName()), Size: m.GetSizeBytes(),
		Geometry: m.GetGeometry().Words(), QoS: m.GetQos().Words(),
		State: backend.VolumeState(m.GetState()), Epoch: backend.Epoch(m.GetEpoch()), Owner: string(m.GetOwner()),
		CreatedAt: timeOf(m.GetCreatedAtNs()), RecycledAt: timeOf(m.GetRecycledAtNs()),
	}
	if v.ID == 0 || v.Name == "" || v.Size <= 0 || v.Size > backend.MaxVolumeSize || v.Geometry.Validate() != nil {
		return backend.VolumeInfo{}, fmt.Errorf("%w: the MDS answered with volume %d, name %.80q, %d bytes, %+v", backend.ErrIO, v.ID, v.Name, v.Size, v.Geometry)
	}
	return v, nil
}

// VolumeInfos is Info of each.
func VolumeInfos(page []*Volume) ([]backend.VolumeInfo, error) {
	infos := make([]backend.VolumeInfo, len(page))
	for i, m := range page {
		var err error
		if infos[i], err = m.Info(); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// GeometryOf is a geometry as it goes over the wire.
func GeometryOf(g backend.Geometry) *Geometry {
	return &Geometry{
		BlockSize: g.BlockSize, ChunkSize: g.ChunkSize, SegmentSize: g.SegmentSize,
		StripeUnit: g.StripeUnit, StripeCount: g.StripeCount,
	}
}

// Words is the geometry in words of package backend, not checked.
func (m *Geometry) Words() backend.Geometry {
	return backend.Geometry{
		BlockSize: m.GetBlockSize(), ChunkSize: m.GetChunkSize(), SegmentSize: m.GetSegmentSize(),
		StripeUnit: m.GetStripeUnit(), StripeCount: m.GetStripeCount(),
	}
}

// QosOf is a QoS as it goes over the wire.
func QosOf(q backend.QoS) *Qos {
	return &Qos{Iops: q.IOPS, IopsBurst: q.IOPSBurst, Bps: q.BPS, BpsBurst: q.BPSBurst}
}

// Words is the QoS in words of package backend, not checked.
func (m *Qos) Words() backend.QoS {
	return backend.QoS{IOPS: m.GetIops(), IOPSBurst: m.GetIopsBurst(), BPS: m.GetBps(), BPSBurst: m.GetBpsBurst()}
}

// openModes are backend's, by the number on the wire.
var openModes = map[OpenMode]backend.OpenMode{
	OpenMode_OPEN_MODE_EXCLUSIVE: backend.OpenExclusive,
	OpenMode_OPEN_MODE_SHARED:    backend.OpenShared,
	OpenMode_OPEN_MODE_TAKE_OVER: backend.OpenTakeOver,
}

// OpenModeOf is a mode as it goes over the wire; unspecified for one that is not
// of this version.
func OpenModeOf(mode backend.OpenMode) OpenMode {
	for wire, m := range openModes {
		if m == mode {
			return wire
		}
	}
	return OpenMode_OPEN_MODE_UNSPECIFIED
}

// Words is the mode in words of package backend. ErrInvalid.
func (m OpenMode) Words() (backend.OpenMode, error) {
	mode, ok := openModes[m]
	if !ok {
		return 0, fmt.Errorf("%w: open mode %d: use exclusive, shared or take-over", backend.ErrInvalid, int32(m))
	}
	return mode, nil
}

// LeaseOf is a lease as it goes over the wire.
func LeaseOf(l backend.Lease) *Lease {
	return &Lease{Volume: VolumeOf(l.Volume), Epoch: uint64(l.Epoch), Mode: OpenModeOf(l.Mode), Session: uint64(l.Session)}
}

// Words is the lease in words of package backend. ErrIO.
func (m *Lease) Words() (backend.Lease, error) {
	v, err := m.GetVolume().Info()
	if err != nil {
		return backend.Lease{}, err
	}
	mode, err := m.GetMode().Words()
	if err != nil || m.GetEpoch() == 0 || m.GetSession() == 0 {
		return backend.Lease{}, fmt.Errorf("%w: the MDS answered with a lease of epoch %d, session %d, mode %d", backend.ErrIO, m.GetEpoch(), m.GetSession(), m.GetMode())
	}
	return backend.Lease{Volume: v, Epoch: backend.Epoch(m.GetEpoch()), Mode: mode, Session: backend.SessionID(m.GetSession())}, nil
}

// SegmentOf is a segment as it goes over the wire.
func SegmentOf(s backend.Segment) *Segment {
	m := &Segment{Index: uint32(s.Index), ChunkIds: make([]uint64, len(s.Chunks)), Copysets: make([]uint32, len(s.Chunks))}
	for i, c := range s.Chunks {
		m.ChunkIds[i], m.Copysets[i], m.ChunkSize = uint64(c.ID), uint32(c.Copyset), c.Size
	}
	return m
}

// Words is the segment in words of package backend. ErrIO.
func (m *Segment) Words() (backend.Segment, error) {
	n := len(m.GetChunkIds())
	if n == 0 || n > backend.MaxChunksPerSegment || len(m.GetCopysets()) != n || !backend.ValidChunkSize(m.GetChunkSize()) {
		return backend.Segment{}, fmt.Errorf("%w: the MDS answered with a segment of %d chunks, %d copysets and chunks of %d bytes", backend.ErrIO, n, len(m.GetCopysets()), m.GetChunkSize())
	}
	s := backend.Segment{Index: backend.SegmentIndex(m.GetIndex()), Chunks: make([]backend.ChunkRef, n)}
	for i, id := range m.GetChunkIds() {
		if id == 0 {
			return backend.Segment{}, fmt.Errorf("%w: the MDS answered with a segment whose chunk %d has id 0", backend.ErrIO, i)
		}
		s.Chunks[i] = backend.ChunkRef{ID: backend.ChunkID(id), Copyset: backend.CopysetID(m.GetCopysets()[i]), Size: m.GetChunkSize()}
	}
	return s, nil
}

func nsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
