package mds

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// volumePurging is a recycled volume whose chunks are being deleted: it can no
// longer be recovered. Users see it as recycled.
const volumePurging backend.VolumeState = "purging"

// volumeRecord is all that is stored about a volume but its segments.
type volumeRecord struct {
	ID       backend.VolumeID    `json:"id"`
	Name     string              `json:"name"`
	Size     int64               `json:"size"`
	Geometry backend.Geometry    `json:"geometry"`
	QoS      backend.QoS         `json:"qos,omitzero"`
	State    backend.VolumeState `json:"state"`
	Epoch    backend.Epoch       `json:"epoch,omitempty"`
	Lease    *leaseRecord        `json:"lease,omitempty"` // nil: nobody has it open
	// Unix time in nanoseconds.
	CreatedAt  int64 `json:"created_at"`
	RecycledAt int64 `json:"recycled_at,omitempty"`
}

// check reports what a record must not say, whoever wrote it.
func (v *volumeRecord) check() error {
	if v.ID == 0 || v.ID > math.MaxInt64 {
		return fmt.Errorf("id %d out of range", uint64(v.ID))
	}
	if name, err := cleanName(v.Name); err != nil || name != v.Name {
		return fmt.Errorf("name %.80q is not valid", v.Name)
	}
	switch v.State {
	case backend.VolumeActive, backend.VolumeRecycled, volumePurging:
	default:
		return fmt.Errorf("state %.80q is unknown", v.State)
	}
	if v.Lease != nil {
		if v.State != backend.VolumeActive {
			return fmt.Errorf("open, although %s", v.State)
		}
		if err := v.Lease.check(); err != nil {
			return err
		}
	}
	if err := v.Geometry.Validate(); err != nil {
		return err
	}
	if err := checkQoS(v.QoS); err != nil {
		return err
	}
	return checkSize(v.Size, v.Geometry)
}

func (v *volumeRecord) info() backend.VolumeInfo {
	i := backend.VolumeInfo{
		ID: v.ID, Name: v.Name, Size: v.Size, Geometry: v.Geometry, QoS: v.QoS,
		State: v.State, Epoch: v.Epoch, CreatedAt: time.Unix(0, v.CreatedAt).UTC(),
	}
	if v.State == volumePurging {
		i.State = backend.VolumeRecycled
	}
	if v.RecycledAt != 0 {
		i.RecycledAt = time.Unix(0, v.RecycledAt).UTC()
	}
	if v.Lease != nil && v.Lease.Mode == leaseExclusive {
		i.Owner = v.Lease.Owners[0]
	}
	return i
}

// segments is how many segments the volume's size spans.
func (v *volumeRecord) segments() int64 {
	return (v.Size + v.Geometry.SegmentSize - 1) / v.Geometry.SegmentSize
}

// checkSize reports, as ErrInvalid, why a volume cannot have a size.
func checkSize(size int64, g backend.Geometry) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: volume size %d: %s", backend.ErrInvalid, size, fmt.Sprintf(format, args...))
	}
	switch {
	case size <= 0:
		return bad("must be above 0")
	case size%g.BlockSize != 0:
		return bad("must be a multiple of the block size %d", g.BlockSize)
	case size > backend.MaxVolumeSize:
		return bad("at most %d", int64(backend.MaxVolumeSize))
	case (size-1)/g.SegmentSize > math.MaxUint32:
		return bad("at most 2^32 segments of %d bytes: choose larger segments", g.SegmentSize)
	}
	return nil
}

func checkQoS(q backend.QoS) error {
	if q.IOPS < 0 || q.IOPSBurst < 0 || q.BPS < 0 || q.BPSBurst < 0 {
		return fmt.Errorf("%w: QoS %+v: limits must not be negative; 0 means no limit", backend.ErrInvalid, q)
	}
	return nil
}

func getVolume(tx Txn, id backend.VolumeID) (*volumeRecord, error) {
	b, err := tx.Get(volumeKey(id))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("%w: no %s", backend.ErrNotFound, id)
	}
	v, err := decodeVolume(b)
	if err == nil && v.ID != id {
		err = fmt.Errorf("%w: record of %s found as %s", errDamaged, v.ID, id)
	}
	return v, err
}

func putVolume(tx Txn, v *volumeRecord) error {
	b, err := v.encode()
	if err != nil {
		return err
	}
	return tx.Put(volumeKey(v.ID), b)
}

// CreateVolume implements backend.Meta.
func (m *MDS) CreateVolume(ctx context.Context, spec backend.VolumeSpec) (backend.VolumeInfo, error) {
	name, err := cleanName(spec.Name)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	geometry := spec.Geometry.WithDefaults()
	for _, err := range []error{geometry.Validate(), checkSize(spec.Size, geometry), checkQoS(spec.QoS)} {
		if err != nil {
			return backend.VolumeInfo{}, fmt.Errorf("create volume %q: %w", name, err)
		}
	}
	var v *volumeRecord
	err = m.store.Update(ctx, func(tx Txn) error {
		done, again, err := m.doneBefore(ctx, tx, requestCreate)
		if err != nil {
			return err
		}
		if again {
			v, err = getVolume(tx, done.volume)
			return err
		}
		id, err := takeIDs(tx, counterVolume, 1)
		if err != nil {
			return err
		}
		v = &volumeRecord{
			ID: backend.VolumeID(id), Name: name, Size: spec.Size, Geometry: geometry, QoS: spec.QoS,
			State: backend.VolumeActive, CreatedAt: m.now().UnixNano(),
		}
		if err := link(tx, name, v.ID); err != nil {
			return err
		}
		if err := putVolume(tx, v); err != nil {
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestCreate, volume: v.ID})
	})
	if err != nil {
		return backend.VolumeInfo{}, fmt.Errorf("create volume %q: %w", name, err)
	}
	return v.info(), nil
}

// Volume implements backend.Meta.
func (m *MDS) Volume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	name, err := cleanName(name)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	var v *volumeRecord
	err = m.store.View(ctx, func(tx Txn) error {
		v, err = lookup(tx, name)
		return err
	})
	if err != nil {
		return backend.VolumeInfo{}, fmt.Errorf("volume %q: %w", name, err)
	}
	return v.info(), nil
}

// Volumes implements backend.Meta. ErrNotFound for a directory that does not
// exist; the root always does.
func (m *MDS) Volumes(ctx context.Context, dir string) ([]backend.VolumeInfo, error) {
	dir, err := cleanDir(dir)
	if err != nil {
		return nil, err
	}
	var infos []backend.VolumeInfo
	err = m.store.View(ctx, func(tx Txn) error {
		infos = nil
		id := uint64(rootDirectory)
		if dir != "" {
			_, e, err := walk(tx, dir)
			if err != nil {
				return err
			}
			if e.kind != entryDirectory {
				return fmt.Errorf("%w: %q is a volume, not a directory", backend.ErrNotFound, dir)
			}
			id = e.id
		}
		return volumesUnder(tx, id, func(id backend.VolumeID) error {
			v, err := getVolume(tx, id)
			if err != nil {
				return err
			}
			infos = append(infos, v.info())
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list volumes under %q: %w", dir, err)
	}
	slices.SortFunc(infos, func(a, b backend.VolumeInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// ResizeVolume implements backend.Meta. The present size is no error.
func (m *MDS) ResizeVolume(ctx context.Context, name string, size int64) (backend.VolumeInfo, error) {
	name, err := cleanName(name)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	var v *volumeRecord
	err = m.store.Update(ctx, func(tx Txn) error {
		if v, err = lookup(tx, name); err != nil {
			return err
		}
		if err := checkSize(size, v.Geometry); err != nil {
			return err
		}
		if size < v.Size {
			return fmt.Errorf("%w: from %d to %d bytes would lose data: a volume only grows", backend.ErrInvalid, v.Size, size)
		}
		if size == v.Size {
			return nil
		}
		v.Size = size
		return putVolume(tx, v)
	})
	if err != nil {
		return backend.VolumeInfo{}, fmt.Errorf("resize volume %q: %w", name, err)
	}
	return v.info(), nil
}
