package chunkstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// errChanged: a chunk was changed while it was being cleaned; it stays dirty.
var errChanged = errors.New("chunk changed meanwhile")

// makeDirty readies c for changes in place: it makes the file of an absent
// chunk, and puts the mark on a clean one, durably. Caller holds sync.
func (s *Store) makeDirty(c *chunk) error {
	if c.gone || c.state == stateDirty {
		return nil
	}
	if p := c.poison.Load(); p != nil {
		return p
	}
	if c.state == stateAbsent {
		return s.create(c)
	}
	if !s.opts.planted.skipDirtyMark {
		if err := s.writeHeader(c, markDirty, 0); err != nil {
			return err
		}
		if err := s.syncFile(c); err != nil {
			return s.poison(c, err)
		}
		s.counters.dirtyMarks.Add(1)
	}
	c.mu.Lock()
	c.state = stateDirty
	c.mu.Unlock()
	return nil
}

// create makes the file, born dirty. Nothing is synced: until the first flush
// the file may vanish in a crash with all that is in it. Table and seal get
// their space now, so that a later flush cannot run out of it.
func (s *Store) create(c *chunk) error {
	f, err := s.fs.Create(c.path)
	if errors.Is(err, fs.ErrExist) {
		// Left by a creation that failed, and whose removal failed too.
		if err = s.fs.Remove(c.path); err == nil {
			f, err = s.fs.Create(c.path)
		}
	}
	if err != nil {
		return disk.Error("create "+c.id.String(), err)
	}
	c.mu.Lock()
	c.file = f
	c.mu.Unlock()
	err = s.writeHeader(c, markDirty, 0)
	if err == nil {
		if _, werr := f.WriteAt(zeros[:c.lay.sealOff+pageSize-tableOff], tableOff); werr != nil {
			err = disk.Error("create "+c.id.String(), werr)
		}
	}
	c.entryDirty = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		s.abandon(c)
		return err
	}
	c.table = make([]uint32, c.lay.blocks)
	c.state = stateDirty
	if s.index.setFile(c.id, true) {
		s.counters.chunks.Add(1)
	}
	return nil
}

// abandon removes the file of a failed creation. Caller holds both locks.
func (s *Store) abandon(c *chunk) {
	if err := errors.Join(s.fs.Remove(c.path), c.file.Close()); err != nil {
		s.log.Warn("removing a chunk file that could not be made", "chunk", c.id, "err", err)
	}
	c.clearAbsent()
}

// erase removes the chunk's file. Caller holds both locks. The removal is
// durable after the directory is synced.
func (s *Store) erase(c *chunk) error {
	if c.file == nil {
		return nil
	}
	if err := s.fs.Remove(c.path); err != nil && !disk.NotExist(err) {
		return disk.Error("remove "+c.id.String(), err)
	}
	if err := c.file.Close(); err != nil {
		s.log.Warn("closing a chunk file", "chunk", c.id, "err", err)
	}
	c.clearAbsent()
	c.entryDirty = true
	if s.index.setFile(c.id, false) {
		s.counters.chunks.Add(-1)
	}
	s.changed(c)
	return nil
}

// clean takes the dirty mark off, or returns errChanged. Caller holds sync.
func (s *Store) clean(c *chunk) error {
	c.mu.RLock()
	c.duePages = c.dirtyPages
	c.mu.RUnlock()
	if err := s.flushChunk(c, false); err != nil {
		return err
	}
	c.mu.Lock()
	if c.gone || c.state != stateDirty {
		c.mu.Unlock()
		return nil
	}
	if c.gen != c.flushedGen || c.dirtyPages != 0 {
		c.mu.Unlock()
		return errChanged
	}
	c.state = stateCleaning
	raw := make([]byte, c.lay.tableBytes)
	encodeTable(raw, c.table)
	c.mu.Unlock()

	err := s.writeSeal(c)
	if err == nil {
		err = s.writeHeader(c, markClean, crc32.Checksum(raw, castagnoli))
	}
	if err == nil {
		if err = s.syncFile(c); err != nil {
			err = s.poison(c, err)
		}
	}
	// Whatever went wrong, the file's header may say clean now or later, and
	// both answers are true of what is there: the next change must set the mark.
	c.mu.Lock()
	c.state = stateClean
	c.mu.Unlock()
	if err == nil {
		s.counters.cleans.Add(1)
	}
	return err
}

// writeHeader writes the header sector. Caller holds sync.
func (s *Store) writeHeader(c *chunk, mark, tableSum uint32) error {
	var sector [sectorSize]byte
	header{mark: mark, chunk: c.id, volume: c.vol.id, size: c.lay.size, tableSum: tableSum}.encode(&sector, headerMagic)
	if _, err := c.file.WriteAt(sector[:], 0); err != nil {
		return disk.Error(fmt.Sprintf("write the header of %v", c.id), err)
	}
	return nil
}

// writeSeal writes the seal once the header is known to be durable. Caller
// holds sync.
func (s *Store) writeSeal(c *chunk) error {
	if c.sealed || !c.synced {
		return nil
	}
	var sector [sectorSize]byte
	header{mark: markNone, chunk: c.id, volume: c.vol.id, size: c.lay.size}.encode(&sector, sealMagic)
	if _, err := c.file.WriteAt(sector[:], c.lay.sealOff); err != nil {
		return disk.Error(fmt.Sprintf("write the seal of %v", c.id), err)
	}
	c.sealed = true
	return nil
}

// syncFile makes the file's content durable. Caller holds sync.
func (s *Store) syncFile(c *chunk) error {
	if s.opts.planted.skipDataSync {
		return nil
	}
	if err := c.file.SyncData(); err != nil {
		return disk.Error(fmt.Sprintf("sync %v", c.id), err)
	}
	return nil
}

// poison records a failed sync and returns the error that flushes now report.
func (s *Store) poison(c *chunk, err error) error {
	p := &poisonError{err: err}
	if c.poison.CompareAndSwap(nil, p) {
		s.counters.poisoned.Add(1)
		s.log.Error("chunk poisoned: changes and flushes of it fail from now on", "chunk", c.id, "volume", c.vol.id, "err", err)
	}
	c.mu.Lock()
	if !c.queued && !c.gone {
		c.queued = true
		c.vol.push(c)
	}
	c.mu.Unlock()
	return fmt.Errorf("%w: %w", backend.ErrIO, err)
}
