package raftlog

import (
	"fmt"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// segment is a segment file, in use or spare.
type segment struct {
	path string
	// number is in the file's name, and stays.
	number uint64
	size   int64
	// seq and salt are those of the present use, 0 while spare. Written before
	// the segment is put in use, under fileMu.
	seq  uint32
	salt uint64
	// live is the bytes of records that are needed. Guarded by Log.mu.
	live int64

	// fileMu is held for reading by readers that are not the writer, so that the
	// file is not closed, nor put to another use, under them.
	fileMu sync.RWMutex
	file   disk.File
	closed bool
}

// read returns the record at off, which is size long.
func (s *segment) read(off, size uint32, unchecked bool) (record, error) {
	buf := make([]byte, size)
	s.fileMu.RLock()
	defer s.fileMu.RUnlock()
	if s.closed {
		return record{}, fmt.Errorf("%w: raft log segment", backend.ErrClosed)
	}
	if n, err := s.file.ReadAt(buf, int64(off)); n < len(buf) {
		return record{}, diskError(fmt.Sprintf("read %d bytes at %#x of %s", size, off, s.path), err)
	}
	r, headOK, ok := decodeRecord(buf, s.salt, at(s.seq, int64(off)))
	if (!ok && !(unchecked && headOK)) || r.size != int64(size) {
		return record{}, fmt.Errorf("%w: raft log record of %d bytes at %#x of %s", backend.ErrChecksum, size, off, s.path)
	}
	return r, nil
}

// header is what the file's header says in this use.
func (s *segment) header() segmentHeader {
	return segmentHeader{seq: s.seq, salt: s.salt, size: s.size}
}

func (s *segment) close() error {
	s.fileMu.Lock()
	defer s.fileMu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.Close()
}
