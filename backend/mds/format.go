package mds

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"

	"github.com/opencurve/curve-nbd/backend"
)

// Key layout. Integers are big-endian, so that keys sort as their numbers do.
//
//	n <parent directory id:8> <element>      name: directory or volume (entry)
//	v <volume id:8>                          volume (volumeRecord)
//	s <volume id:8> <segment index:4>        segment
//	r <recycled at, unix ns:8> <volume id:8> recycle bin, oldest first; no value
//	q <request id:16>                        outcome of a request (requestRecord)
//	d <chunkserver id:4>                     chunkserver (serverRecord)
//	k <copyset id:4>                         copyset (copysetRecord)
//	u <copyset id:4>                         chunks on the copyset:8
//	f <key>                                  record of a front end
//	c <counter name>                         last id given out:8
//	m format | m store                       version of this layout:1, store id
//	m cluster                                cluster id, where the store id is empty
//	m records                                number:8 and bytes:8 of all records
//
// The root directory is 0; other directories have no record but their name.
// Checksums are the Store's business.
const (
	keyName    = 'n'
	keyVolume  = 'v'
	keySegment = 's'
	keyRecycle = 'r'
	keyRequest = 'q'
	keyServer  = 'd'
	keyCopyset = 'k'
	keyUse     = 'u'
	keyRecord  = 'f'
)

const (
	counterVolume    = "cvolume"
	counterDirectory = "cdirectory"
	counterChunk     = "cchunk"
	counterSession   = "csession"
	counterServer    = "cserver"
	counterCopyset   = "ccopyset"
	counterRecord    = "crecord"
	// counterSkipped is the last chunk id that MDS.SkipChunkIDs passed over.
	counterSkipped = "cskipped"

	keyFormat    = "mformat"
	keyStoreID   = "mstore"
	keyClusterID = "mcluster"
	keyRecordUse = "mrecords"
)

const (
	// layoutVersion is that of a store without chunkservers; layoutCluster, from
	// the first chunkserver on, keeps programs out that would allocate chunks
	// without looking at the copysets.
	layoutVersion = 1
	layoutCluster = 2

	entryVersion   = 1
	volumeVersion  = 1
	segmentVersion = 1

	entrySize         = 10 // version:1 kind:1 id:8
	maxVolumeRecord   = 64 << 10
	segmentHeaderSize = 4  // version:1 log2(chunk size):1 chunks:2
	segmentChunkSize  = 12 // chunk id:8 copyset id:4
)

// rootDirectory is the parent of names without a '/'.
const rootDirectory = 0

// errDamaged: a record passed the store's checksum and still makes no sense.
var errDamaged = fmt.Errorf("%w: damaged metadata record", backend.ErrIO)

func nameKey(parent uint64, element string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{keyName}, parent), element...)
}

func volumeKey(id backend.VolumeID) []byte {
	return binary.BigEndian.AppendUint64([]byte{keyVolume}, uint64(id))
}

func segmentPrefix(id backend.VolumeID) []byte {
	return binary.BigEndian.AppendUint64([]byte{keySegment}, uint64(id))
}

func segmentKey(id backend.VolumeID, index backend.SegmentIndex) []byte {
	return binary.BigEndian.AppendUint32(segmentPrefix(id), uint32(index))
}

// parseSegmentKey takes apart what segmentKey made.
func parseSegmentKey(key []byte) (backend.VolumeID, backend.SegmentIndex, error) {
	if len(key) != 13 || key[0] != keySegment {
		return 0, 0, fmt.Errorf("%w: segment key % x: want 's' and 12 bytes", errDamaged, key)
	}
	return backend.VolumeID(binary.BigEndian.Uint64(key[1:])), backend.SegmentIndex(binary.BigEndian.Uint32(key[9:])), nil
}

func recycleKey(recycledAt int64, id backend.VolumeID) []byte {
	key := binary.BigEndian.AppendUint64([]byte{keyRecycle}, uint64(recycledAt))
	return binary.BigEndian.AppendUint64(key, uint64(id))
}

func parseRecycleKey(key []byte) (backend.VolumeID, error) {
	if len(key) != 17 || key[0] != keyRecycle {
		return 0, fmt.Errorf("%w: recycle bin key % x: want 'r' and 16 bytes", errDamaged, key)
	}
	return backend.VolumeID(binary.BigEndian.Uint64(key[9:])), nil
}

type entryKind uint8

const (
	entryDirectory entryKind = iota + 1
	entryVolume
)

func (k entryKind) String() string {
	if k == entryDirectory {
		return "directory"
	}
	return "volume"
}

// entry is what a name stands for.
type entry struct {
	kind entryKind
	id   uint64 // of the directory or volume
}

func (e entry) encode() []byte {
	return binary.BigEndian.AppendUint64([]byte{entryVersion, byte(e.kind)}, e.id)
}

func decodeEntry(b []byte) (entry, error) {
	if len(b) != entrySize {
		return entry{}, fmt.Errorf("%w: name entry of %d bytes: want %d", errDamaged, len(b), entrySize)
	}
	e := entry{kind: entryKind(b[1]), id: binary.BigEndian.Uint64(b[2:])}
	if b[0] != entryVersion {
		return entry{}, fmt.Errorf("%w: name entry of version %d: this program knows %d", errDamaged, b[0], entryVersion)
	}
	if (e.kind != entryDirectory && e.kind != entryVolume) || e.id == 0 {
		return entry{}, fmt.Errorf("%w: name entry of kind %d with id %d", errDamaged, b[1], e.id)
	}
	return e, nil
}

func (v *volumeRecord) encode() ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", v.ID, err)
	}
	if len(body) >= maxVolumeRecord {
		return nil, fmt.Errorf("%w: record of %s takes %d bytes: at most %d", backend.ErrInvalid, v.ID, len(body), maxVolumeRecord)
	}
	return append([]byte{volumeVersion}, body...), nil
}

func decodeVolume(b []byte) (*volumeRecord, error) {
	switch {
	case len(b) < 2 || len(b) > maxVolumeRecord:
		return nil, fmt.Errorf("%w: volume record of %d bytes: want 2 to %d", errDamaged, len(b), maxVolumeRecord)
	case b[0] != volumeVersion:
		return nil, fmt.Errorf("%w: volume record of version %d: this program knows %d", errDamaged, b[0], volumeVersion)
	}
	v := new(volumeRecord)
	if err := decodeStrictly(b[1:], v); err != nil {
		return nil, fmt.Errorf("%w: volume record: %w", errDamaged, err)
	}
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("%w: record of %s: %s", errDamaged, v.ID, err)
	}
	return v, nil
}

// encodeSegment expects chunks of one size, which a volume's chunks have.
func encodeSegment(chunks []backend.ChunkRef) []byte {
	b := make([]byte, 0, segmentHeaderSize+len(chunks)*segmentChunkSize)
	b = append(b, segmentVersion, byte(bits.TrailingZeros64(uint64(chunks[0].Size))))
	b = binary.BigEndian.AppendUint16(b, uint16(len(chunks)))
	for _, c := range chunks {
		b = binary.BigEndian.AppendUint64(b, uint64(c.ID))
		b = binary.BigEndian.AppendUint32(b, uint32(c.Copyset))
	}
	return b
}

func decodeSegment(b []byte) ([]backend.ChunkRef, error) {
	if len(b) < segmentHeaderSize {
		return nil, fmt.Errorf("%w: segment of %d bytes: want at least %d", errDamaged, len(b), segmentHeaderSize)
	}
	if b[0] != segmentVersion {
		return nil, fmt.Errorf("%w: segment of version %d: this program knows %d", errDamaged, b[0], segmentVersion)
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n == 0 || n > backend.MaxChunksPerSegment {
		return nil, fmt.Errorf("%w: segment of %d chunks: want 1 to %d", errDamaged, n, backend.MaxChunksPerSegment)
	}
	if want := segmentHeaderSize + n*segmentChunkSize; len(b) != want {
		return nil, fmt.Errorf("%w: segment of %d chunks in %d bytes: want %d", errDamaged, n, len(b), want)
	}
	size := int64(1) << (b[1] & 63)
	if b[1] > 63 || size < backend.MinChunkSize || size > backend.MaxChunkSize {
		return nil, fmt.Errorf("%w: segment with chunks of 2^%d bytes", errDamaged, b[1])
	}
	chunks := make([]backend.ChunkRef, n)
	for i := range chunks {
		c := b[segmentHeaderSize+i*segmentChunkSize:]
		chunks[i] = backend.ChunkRef{
			ID:      backend.ChunkID(binary.BigEndian.Uint64(c)),
			Copyset: backend.CopysetID(binary.BigEndian.Uint32(c[8:])),
			Size:    size,
		}
		if chunks[i].ID == 0 {
			return nil, fmt.Errorf("%w: segment whose chunk %d has id 0", errDamaged, i)
		}
	}
	return chunks, nil
}
