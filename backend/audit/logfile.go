package audit

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/opencurve/curve-nbd/backend"
)

// A log file is a header and records, little-endian, in the order of events.
//
//	header:  0 8 magic "CrvAuLog"   8 2 version, 1   10 2 flags: 1 shared, 2 cached
//	        12 4 zero  16 8 volume  24 8 blocks  32 8 seed  40 20 zero
//	        60 4 CRC-32C of bytes 0 to 59
//
//	record:  0 4 CRC-32C of bytes 4 to 31   4 1 kind   5 1 flags: 1 zero, 2 durable
//	         6 2 zero  8 8 event or version  16 8 block  24 4 count  28 4 writer
const (
	fileMagic   = "CrvAuLog"
	fileLayout  = 1
	fileHeader  = 64
	recordBytes = 32

	fileShared, fileCached    = 1, 2
	recordZero, recordDurable = 1, 2
)

const (
	recordSubmit uint8 = iota + 1
	recordAcknowledge
	recordRefuse
	recordFlush
	recordRecover
	recordObserve
)

type record struct {
	kind          uint8
	zero, durable bool
	// event is the change's, for a flush the barrier; for recover and observe it
	// is the version that was found.
	event  uint64
	block  int64
	count  uint32
	writer uint32
}

func (r record) encode(b *[recordBytes]byte) {
	le := binary.LittleEndian
	*b = [recordBytes]byte{4: r.kind}
	if r.zero {
		b[5] |= recordZero
	}
	if r.durable {
		b[5] |= recordDurable
	}
	le.PutUint64(b[8:], r.event)
	le.PutUint64(b[16:], uint64(r.block))
	le.PutUint32(b[24:], r.count)
	le.PutUint32(b[28:], r.writer)
	le.PutUint32(b[:], crc32.Checksum(b[4:], castagnoli))
}

func decodeRecord(b *[recordBytes]byte) (r record, ok bool) {
	le := binary.LittleEndian
	if le.Uint32(b[:]) != crc32.Checksum(b[4:], castagnoli) || b[5]&^(recordZero|recordDurable) != 0 || le.Uint16(b[6:]) != 0 {
		return record{}, false
	}
	r = record{
		kind: b[4], zero: b[5]&recordZero != 0, durable: b[5]&recordDurable != 0,
		event: le.Uint64(b[8:]), block: int64(le.Uint64(b[16:])), count: le.Uint32(b[24:]), writer: le.Uint32(b[28:]),
	}
	return r, r.kind >= recordSubmit && r.kind <= recordObserve
}

// logFile appends. A nil *logFile keeps nothing.
type logFile struct {
	f   *os.File
	w   *bufio.Writer
	err error // the first; the log is of no use after it
}

func (f *logFile) note(r record) error {
	if f == nil {
		return nil
	}
	if f.err != nil {
		return f.err
	}
	var b [recordBytes]byte
	r.encode(&b)
	_, err := f.w.Write(b[:])
	return f.fail(err)
}

// flush hands what was noted to the operating system, so that it survives the end
// of this process.
func (f *logFile) flush() error {
	if f == nil {
		return nil
	}
	return f.fail(f.w.Flush())
}

func (f *logFile) fail(err error) error {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("block log: %w", err)
	}
	return f.err
}

// CreateLog is NewLog kept in a new file, which survives a kill of this process:
// a change is in it before Write or Zero returns. Against a power cut of this
// machine, Sync.
func CreateLog(path string, o LogOptions) (*Log, error) {
	l, err := NewLog(o)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create block log: %w", err)
	}
	if _, err := f.Write(encodeHeader(o)); err != nil {
		f.Close()
		return nil, fmt.Errorf("create block log %s: %w", path, err)
	}
	l.file = &logFile{f: f, w: bufio.NewWriter(f)}
	return l, nil
}

// OpenLog goes on with the Log in a file. Changes that were in flight when its
// process ended have an unknown outcome. A last record that is not whole is cut
// off; damage before it is ErrChecksum.
func OpenLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open block log: %w", err)
	}
	l, end, err := replay(bufio.NewReaderSize(f, 1<<16))
	if err == nil {
		if err = f.Truncate(end); err == nil {
			_, err = f.Seek(end, io.SeekStart)
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open block log %s: %w", path, err)
	}
	l.file = &logFile{f: f, w: bufio.NewWriter(f)}
	return l, nil
}

// Sync makes the file durable.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	if err := l.file.flush(); err != nil {
		return err
	}
	return l.file.fail(l.file.f.Sync())
}

// Close writes the rest of the file, if there is one, and closes it.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := errors.Join(l.file.flush(), l.file.f.Close())
	l.file.err = fmt.Errorf("block log: %w", backend.ErrClosed)
	return err
}

func encodeHeader(o LogOptions) []byte {
	b := make([]byte, fileHeader)
	le := binary.LittleEndian
	copy(b, fileMagic)
	le.PutUint16(b[8:], fileLayout)
	var flags uint16
	if o.Shared {
		flags |= fileShared
	}
	if o.Cached {
		flags |= fileCached
	}
	le.PutUint16(b[10:], flags)
	le.PutUint64(b[16:], uint64(o.Volume))
	le.PutUint64(b[24:], uint64(o.Blocks))
	le.PutUint64(b[32:], o.Seed)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeHeader(b []byte) (LogOptions, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != fileMagic:
		return LogOptions{}, fmt.Errorf("%w: not a block log: it begins with %x", backend.ErrInvalid, b[:8])
	case le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli):
		return LogOptions{}, fmt.Errorf("%w: header of the block log", backend.ErrChecksum)
	case le.Uint16(b[8:]) != fileLayout:
		return LogOptions{}, fmt.Errorf("%w: block log of version %d, this program knows %d", backend.ErrNotSupported, le.Uint16(b[8:]), fileLayout)
	}
	flags := le.Uint16(b[10:])
	if flags&^(fileShared|fileCached) != 0 || !allZero(b[12:16]) || !allZero(b[40:60]) {
		return LogOptions{}, fmt.Errorf("%w: reserved bytes of the block log's header are set", backend.ErrInvalid)
	}
	return LogOptions{
		Volume: backend.VolumeID(le.Uint64(b[16:])), Blocks: int64(le.Uint64(b[24:])), Seed: le.Uint64(b[32:]),
		Shared: flags&fileShared != 0, Cached: flags&fileCached != 0,
	}, nil
}

// replay makes a Log of what r holds; end is where its last whole record ends.
func replay(r io.Reader) (l *Log, end int64, err error) {
	header := make([]byte, fileHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, 0, fmt.Errorf("%w: header of the block log: %v", backend.ErrInvalid, err)
	}
	o, err := decodeHeader(header)
	if err != nil {
		return nil, 0, err
	}
	if l, err = NewLog(o); err != nil {
		return nil, 0, err
	}
	end = fileHeader
	bad := int64(-1) // where the first record is that is not whole
	for at := end; ; at += recordBytes {
		var b [recordBytes]byte
		if _, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return l, end, nil
		} else if err != nil {
			return nil, 0, err
		}
		rec, ok := decodeRecord(&b)
		switch {
		case !ok && bad < 0:
			bad = at
		case !ok:
		case bad >= 0:
			return nil, 0, fmt.Errorf("%w: record at byte %d of the block log, with a good one at %d behind it", backend.ErrChecksum, bad, at)
		default:
			if err := l.apply(rec); err != nil {
				return nil, 0, fmt.Errorf("record at byte %d: %w", at, err)
			}
			end = at + recordBytes
		}
	}
}

func (l *Log) apply(r record) error {
	if r.kind != recordFlush {
		if err := l.checkRange(r.block, int(r.count)); err != nil {
			return err
		}
	}
	c := Change{Writer: r.writer, Block: r.block, Blocks: int(r.count), id: r.event}
	if r.kind == recordAcknowledge || r.kind == recordRefuse {
		if err := l.checkChange(c); err != nil {
			return err
		}
	}
	switch r.kind {
	case recordSubmit:
		if r.event != l.seq+1 {
			return fmt.Errorf("%w: change %d follows event %d", backend.ErrInvalid, r.event, l.seq)
		}
		l.addVersions(c, r.zero)
	case recordAcknowledge:
		l.acknowledge(c, r.durable)
	case recordRefuse:
		l.each(c, func(v *version) { v.refused = true })
	case recordFlush:
		l.flushed = max(l.flushed, min(r.event, l.seq))
	case recordRecover:
		l.collapse(r.block, r.event)
	case recordObserve:
		l.seq++
		h := l.history(r.block)
		if at := h.find(r.event); at >= 0 {
			h.versions[at].acked = min(h.versions[at].acked, l.seq)
		}
	}
	return nil
}
