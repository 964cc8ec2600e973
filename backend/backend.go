package backend

import (
	"context"
	"time"
)

// Chunks reads and changes chunks. All methods may be called concurrently.
//
// Order: changes (write, zero, trim) of one chunk take effect in the order in
// which they were submitted by one goroutine. A read sees every change that was
// complete before the read was submitted; among operations in flight together,
// each block of 512 bytes shows one of the candidates. Different chunks are
// independent. A chunk exists from its first write and needs no creation.
type Chunks interface {
	// Try runs op to its end on the calling goroutine if that will not wait for
	// a disk, a network or a lock held across either, and reports whether it
	// did. On true the op is complete: op.Err holds the outcome and Done is not
	// called. On false nothing happened (Data may have been scribbled on by a
	// read) and the caller may Submit it. It never overtakes a submitted change
	// of the same chunk.
	Try(op *Op) bool

	// Submit starts op; its outcome arrives at op.Done, possibly before Submit
	// returns. It waits only while the backend's queue is full.
	Submit(op *Op)

	// Extents appends to dst the allocation of [off, off+length) of a chunk.
	// The runs cover the range exactly. A chunk that does not exist is a hole.
	Extents(ctx context.Context, vol VolumeID, chunk ChunkRef, off, length int64, dst []Extent) ([]Extent, error)

	// Usage returns the bytes of disk that the chunks take, metadata included.
	Usage(ctx context.Context, chunks []ChunkRef) (int64, error)

	// Delete frees chunks of a volume that is gone; those that do not exist
	// are skipped. Durable when it returns.
	Delete(ctx context.Context, vol VolumeID, chunks []ChunkRef) error

	// Close waits for what is in flight, makes everything durable and releases
	// the store. Operations that come later fail with ErrClosed.
	Close() error
}

// QoS bounds a volume's load. Zero means no bound. A burst is what may be done
// at once after idling; where it is zero, one second's worth.
type QoS struct {
	IOPS      int64 `json:"iops,omitempty"`
	IOPSBurst int64 `json:"iops_burst,omitempty"`
	// BPS and BPSBurst are bytes per second and bytes.
	BPS      int64 `json:"bps,omitempty"`
	BPSBurst int64 `json:"bps_burst,omitempty"`
}

// VolumeState is where a volume is in its life.
type VolumeState string

const (
	// VolumeActive volumes can be opened.
	VolumeActive VolumeState = "active"
	// VolumeRecycled volumes are in the recycle bin: their data is kept until
	// they are purged, their name is free.
	VolumeRecycled VolumeState = "recycled"
)

// VolumeSpec is what a user asks of a new volume.
type VolumeSpec struct {
	Name string
	// Size in bytes, a positive multiple of the block size.
	Size     int64
	Geometry Geometry
	QoS      QoS
}

// VolumeInfo describes a volume.
type VolumeInfo struct {
	ID       VolumeID
	Name     string
	Size     int64
	Geometry Geometry
	QoS      QoS
	State    VolumeState
	// Epoch of the last open; 0 before the first.
	Epoch Epoch
	// Owner is who has it open exclusively, "" for nobody.
	Owner     string
	CreatedAt time.Time
	// RecycledAt is when it went to the recycle bin.
	RecycledAt time.Time
}

// OpenMode says who else may have the volume open.
type OpenMode uint8

const (
	// OpenExclusive: the opener is the only writer.
	OpenExclusive OpenMode = iota
	// OpenShared: other shared openers may write too; keeping them consistent
	// is the openers' business (multipath gateways).
	OpenShared
	// OpenTakeOver is OpenExclusive that does not ask who has the volume open:
	// whoever it was is fenced.
	OpenTakeOver
)

// Lease is the right to use a volume under an epoch.
type Lease struct {
	Volume VolumeInfo
	Epoch  Epoch
	Mode   OpenMode
	// Session is this open's own number.
	Session SessionID
}

// Meta is the namespace, the allocation map and who owns what, and the records of
// front ends. All methods may
// be called concurrently. Every change is durable when it returns.
//
// Names are paths: elements of letters, digits, '_', '-' and '.', joined by
// '/', 255 bytes in all, none of them "." or "..". A leading '/' is dropped.
// Directories come with the first volume in them and go with the last.
type Meta interface {
	// CreateVolume makes an empty volume. ErrExists, ErrInvalid.
	CreateVolume(ctx context.Context, spec VolumeSpec) (VolumeInfo, error)
	// Volume looks an active volume up. ErrNotFound.
	Volume(ctx context.Context, name string) (VolumeInfo, error)
	// Volumes lists the active volumes under dir ("" for all), by name.
	Volumes(ctx context.Context, dir string) ([]VolumeInfo, error)
	// ResizeVolume sets the size. Growing is always allowed; shrinking is
	// refused with ErrInvalid.
	ResizeVolume(ctx context.Context, name string, size int64) (VolumeInfo, error)
	// RemoveVolume moves a volume to the recycle bin. ErrBusy while it is open.
	RemoveVolume(ctx context.Context, name string) (VolumeInfo, error)

	// Recycled lists the recycle bin, oldest first.
	Recycled(ctx context.Context) ([]VolumeInfo, error)
	// RecoverVolume brings a recycled volume back under newName, or under its
	// old name when newName is "". ErrExists when that is taken.
	RecoverVolume(ctx context.Context, id VolumeID, newName string) (VolumeInfo, error)
	// PurgeVolume forgets a recycled volume for good and returns the segments
	// whose chunks the caller must delete. It is forgotten only by the
	// following PurgeDone, so that a crash between the two leaks nothing.
	PurgeVolume(ctx context.Context, id VolumeID) ([]Segment, error)
	PurgeDone(ctx context.Context, id VolumeID) error

	// OpenVolume gives owner the volume under a new epoch; one more sharer joins
	// the epoch of those that have it open, so that they do not fence each
	// other. ErrBusy, naming the holder, when it is open in a mode that excludes
	// this one; the same owner may open again, which fences its earlier epoch
	// (a gateway that crashed).
	OpenVolume(ctx context.Context, name, owner string, mode OpenMode) (Lease, error)
	// KeepAlive says that owner lives. Where gateways are on other machines than
	// the metadata, the leases of an owner that was not heard of for a while are
	// free for others to take; its epochs are fenced by those who take them. IO
	// never depends on it.
	KeepAlive(ctx context.Context, owner string) error
	// CloseVolume gives the lease back. ErrStaleEpoch when it was lost before.
	CloseVolume(ctx context.Context, id VolumeID, epoch Epoch) error

	// Segment returns an allocated segment, or ErrNotFound.
	Segment(ctx context.Context, id VolumeID, index SegmentIndex) (Segment, error)
	// AllocateSegment returns the segment, making it first if need be.
	// Idempotent. ErrStaleEpoch, ErrInvalid past the volume's end.
	AllocateSegment(ctx context.Context, id VolumeID, epoch Epoch, index SegmentIndex) (Segment, error)
	// Segments lists the allocated segments of a volume, in order.
	Segments(ctx context.Context, id VolumeID) ([]Segment, error)

	// Copyset says which chunkservers hold a copyset. ErrNotFound; the embedded
	// backend has none to tell of.
	Copyset(ctx context.Context, id CopysetID) (Copyset, error)

	// Record returns the record of a key. ErrNotFound.
	Record(ctx context.Context, key string) (Record, error)
	// Records lists those whose keys begin with prefix ("" for all), by key. Each
	// is whole; they need not be of one moment.
	Records(ctx context.Context, prefix string) ([]Record, error)
	// RecordChanges lists those of Records that were put since mark was returned, 0
	// for all, and returns the mark to go on from: the same one until a record, of
	// whatever key, is put or deleted. What was deleted is not listed. The mark is
	// always 0 where the metadata are those of a program that knows of none.
	RecordChanges(ctx context.Context, prefix string, mark uint64) ([]Record, uint64, error)
	// PutRecord stores data under key and returns its version. Version 0 makes a
	// record that must not exist, any other replaces the one of that version.
	// ErrConflict where it is not as the caller takes it to be; ErrInvalid where a
	// bound would be broken.
	PutRecord(ctx context.Context, key string, data []byte, version uint64) (uint64, error)
	// DeleteRecord deletes the record if it has that version. ErrConflict.
	DeleteRecord(ctx context.Context, key string, version uint64) error

	// ClusterID names the cluster whose metadata these are, for its whole life and
	// through all its gateways; no other has it. See ValidClusterID.
	ClusterID(ctx context.Context) (string, error)

	// Close releases the store. Operations that come later fail with ErrClosed.
	Close() error
}
