package copyset

import (
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
)

// A raft snapshot file; integers are little endian:
//
//	 0  magic                8 bytes "CurveRSn"
//	 8  version              u32  1
//	12  copyset              u32
//	16  index                u64
//	24  term                 u64
//	32  configuration index  u64
//	40  configuration bytes  u32
//	44  state bytes          u32
//	48  configuration, as raft encodes it
//	..  state, see state.append
//	..  sum                  u32  crc32c of all before
//
// The chunk files are not in it: they are synced before it is written. A file named
// snapshot-N counts; one named installing-N came from a leader, and until it is
// replaced by a snapshot-N+1 says that the chunks it lists were being pulled.
const (
	snapshotMagic      = "CurveRSn"
	snapshotVersion    = 1
	snapshotHeaderSize = 48
	maxConfigBytes     = 1 << 20

	snapshotPrefix   = "snapshot-"
	installingPrefix = "installing-"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeSnapshot(id backend.CopysetID, meta *raft.SnapshotMeta, data []byte) []byte {
	conf := raft.EncodeConfiguration(meta.Configuration)
	raw := make([]byte, snapshotHeaderSize, snapshotHeaderSize+len(conf)+len(data)+4)
	copy(raw, snapshotMagic)
	le.PutUint32(raw[8:], snapshotVersion)
	le.PutUint32(raw[12:], uint32(id))
	le.PutUint64(raw[16:], meta.Index)
	le.PutUint64(raw[24:], meta.Term)
	le.PutUint64(raw[32:], meta.ConfigurationIndex)
	le.PutUint32(raw[40:], uint32(len(conf)))
	le.PutUint32(raw[44:], uint32(len(data)))
	raw = append(append(raw, conf...), data...)
	return le.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
}

// snapshotRest checks a header and says how many bytes follow it.
func snapshotRest(header []byte) (int, error) {
	bad := func(format string, args ...any) (int, error) {
		return 0, fmt.Errorf("%w: raft snapshot: %s", backend.ErrChecksum, fmt.Sprintf(format, args...))
	}
	if len(header) < snapshotHeaderSize {
		return bad("%d bytes, a header takes %d", len(header), snapshotHeaderSize)
	}
	conf, data := le.Uint32(header[40:]), le.Uint32(header[44:])
	switch {
	case string(header[:8]) != snapshotMagic:
		return bad("magic %q, expected %q", header[:8], snapshotMagic)
	case le.Uint32(header[8:]) != snapshotVersion:
		return bad("version %d, this server knows %d", le.Uint32(header[8:]), snapshotVersion)
	case conf > maxConfigBytes || data > maxStateBytes:
		return bad("configuration of %d bytes and state of %d, at most %d and %d", conf, data, maxConfigBytes, maxStateBytes)
	}
	return int(conf) + int(data) + 4, nil
}

func decodeSnapshot(raw []byte) (backend.CopysetID, *raft.SnapshotMeta, []byte, error) {
	rest, err := snapshotRest(raw)
	if err != nil {
		return 0, nil, nil, err
	}
	if len(raw) != snapshotHeaderSize+rest {
		return 0, nil, nil, fmt.Errorf("%w: raft snapshot of %d bytes, its header says %d", backend.ErrChecksum, len(raw), snapshotHeaderSize+rest)
	}
	body := raw[:len(raw)-4]
	if sum, want := crc32.Checksum(body, castagnoli), le.Uint32(raw[len(raw)-4:]); sum != want {
		return 0, nil, nil, fmt.Errorf("%w: raft snapshot has sum %#x, expected %#x", backend.ErrChecksum, sum, want)
	}
	confEnd := snapshotHeaderSize + int(le.Uint32(raw[40:]))
	conf, err := decodeConfiguration(raw[snapshotHeaderSize:confEnd])
	if err != nil {
		return 0, nil, nil, err
	}
	return backend.CopysetID(le.Uint32(raw[12:])), &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax,
		Index:   le.Uint64(raw[16:]), Term: le.Uint64(raw[24:]), ConfigurationIndex: le.Uint64(raw[32:]),
		Configuration: conf, Size: int64(len(body) - confEnd),
	}, body[confEnd:], nil
}

// decodeConfiguration is raft's, which panics on what it cannot read.
func decodeConfiguration(raw []byte) (conf raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: raft snapshot: configuration: %v", backend.ErrChecksum, p)
		}
	}()
	return raft.DecodeConfiguration(raw), nil
}
