package chunkstore

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// A flush, in the order it goes:
//
//	Submit ── volume.waiting ──► flush worker: takeRun, hand each dirty chunk to
//	a sync worker, wait, complete the run's operations, again while some wait.
//
// The volume is in the flush workers' queue at most once (volume.flushing).

// tableBuf holds the dirty pages of a table on their way to the file.
type tableBuf [maxTablePages * pageSize]byte

var tableBufs = sync.Pool{New: func() any { return new(tableBuf) }}

// syncJob asks a sync worker to flush one chunk of a run.
type syncJob struct {
	vol *volume
	c   *chunk
}

func (s *Store) enqueueFlush(op *backend.Op) {
	s.counters.flushOps.Add(1)
	s.flushSlots <- struct{}{}
	vol := s.volumes.get(op.Volume)
	vol.mu.Lock()
	vol.waiting = append(vol.waiting, op)
	start := !vol.flushing
	vol.flushing = true
	vol.mu.Unlock()
	if start {
		s.flushers <- vol
	}
}

func (s *Store) flushWorker() {
	defer s.flushDone.Done()
	for vol := range s.flushers {
		for vol.takeRun() {
			s.runFlush(vol)
		}
	}
}

// runFlush flushes the chunks of the run and completes its operations.
func (s *Store) runFlush(vol *volume) {
	s.counters.flushRuns.Add(1)
	for i, c := range vol.runList {
		if i == len(vol.runList)-1 {
			s.flushForRun(vol, c) // the last one here: a lone chunk needs no hop
			break
		}
		vol.run.Add(1)
		s.syncers <- syncJob{vol: vol, c: c}
	}
	vol.run.Wait()
	var err error
	if p := vol.runError.Load(); p != nil {
		err = *p
	}
	clear(vol.runList)
	for i, op := range vol.runOps {
		vol.runOps[i] = nil
		<-s.flushSlots
		opErr := vol.admit(op.Epoch)
		if opErr == nil {
			opErr = err
		}
		s.finish(op, opErr)
	}
}

func (s *Store) syncWorker() {
	defer s.syncDone.Done()
	for job := range s.syncers {
		s.flushForRun(job.vol, job.c)
		job.vol.run.Done()
	}
}

func (s *Store) flushForRun(vol *volume, c *chunk) {
	c.sync.Lock()
	defer c.sync.Unlock()
	err := s.flushChunk(c, true)
	if err == nil {
		return
	}
	failed := err // a copy, so that only failures allocate
	vol.runError.CompareAndSwap(nil, &failed)
	// The next flush must find the chunk again: to try anew, or to fail too.
	c.mu.RLock()
	if !c.gone && !c.queued {
		c.queued = true
		vol.push(c)
	}
	c.mu.RUnlock()
}

// flushChunk makes durable what has changed in c: data, the table pages that are
// due, the file's name. With forRun, c has been taken off its volume's list. Caller
// holds sync.
func (s *Store) flushChunk(c *chunk, forRun bool) error {
	buf := tableBufs.Get().(*tableBuf)
	defer tableBufs.Put(buf)
	c.mu.RLock()
	if c.gone {
		c.mu.RUnlock()
		return nil // it was flushed before it was put out of memory
	}
	if forRun {
		c.queued = false
	}
	gen, pages := c.gen, c.duePages
	for left, i := pages, 0; left != 0; left &= left - 1 {
		encodeTable(buf[i*pageSize:(i+1)*pageSize], c.tablePage(bits.TrailingZeros32(left)))
		i++
	}
	c.dirtyPages &^= pages
	c.duePages = 0
	c.mu.RUnlock()
	if p := c.poison.Load(); p != nil {
		return p
	}
	if c.file != nil && (gen != c.flushedGen || pages != 0 || !c.synced) {
		if err := s.flushFile(c, pages, buf); err != nil {
			return err
		}
	}
	if err := s.flushEntry(c); err != nil {
		return err
	}
	c.flushedGen = gen
	return nil
}

// tablePage returns the entries of page i; a small chunk's table is shorter
// than a page.
func (c *chunk) tablePage(i int) []uint32 {
	return c.table[i*entriesPerPage : min((i+1)*entriesPerPage, len(c.table))]
}

// flushFile writes table pages, which buf holds one after the other, and syncs.
func (s *Store) flushFile(c *chunk, pages uint32, buf *tableBuf) error {
	length := min(pageSize, int(c.lay.tableBytes))
	for left, i := pages, 0; left != 0 && !s.opts.planted.skipTableWrite; left &= left - 1 {
		off := int64(tableOff + bits.TrailingZeros32(left)*pageSize)
		if _, err := c.file.WriteAt(buf[i*pageSize:i*pageSize+length], off); err != nil {
			c.mu.RLock()
			c.dirtyPages |= pages
			c.duePages |= pages
			c.mu.RUnlock()
			return disk.Error(fmt.Sprintf("write the table of %v", c.id), err)
		}
		i++
	}
	if err := s.syncFile(c); err != nil {
		return s.poison(c, err)
	}
	c.synced = true
	s.counters.fileSyncs.Add(1)
	// Not worth a sync of its own, nor an error: it goes with the next one.
	if err := s.writeSeal(c); err != nil {
		s.log.Warn("sealing a chunk", "chunk", c.id, "err", err)
	}
	return nil
}

// flushEntry makes the file's creation or removal durable.
func (s *Store) flushEntry(c *chunk) error {
	if !c.entryDirty || s.opts.planted.skipDirSync {
		return nil
	}
	if err := s.syncDir(c.id); err != nil {
		return s.poison(c, err)
	}
	c.entryDirty = false
	return nil
}

// syncDir makes durable which files the directory of id has. A failure counts
// for all chunks in it from then on: any of their names may be what was dropped.
func (s *Store) syncDir(id backend.ChunkID) error {
	failed := &s.dirFailed[uint8(id)]
	if p := failed.Load(); p != nil {
		return p
	}
	dir, _ := chunkName(id)
	if err := s.fs.SyncDir(s.dir + "/" + dir); err != nil {
		err = disk.Error("sync the chunk directory "+dir, err)
		failed.Store(&poisonError{err: err})
		return err
	}
	s.counters.dirSyncs.Add(1)
	return nil
}

// flushNow is FUA: c is durable when it returns.
func (s *Store) flushNow(c *chunk) error {
	c.sync.Lock()
	defer c.sync.Unlock()
	return s.flushChunk(c, false)
}

// cleanNow cleans c, again if it is changed meanwhile.
func (s *Store) cleanNow(c *chunk) error {
	c.sync.Lock()
	defer c.sync.Unlock()
	for {
		if err := s.clean(c); !errors.Is(err, errChanged) {
			return err
		}
	}
}
