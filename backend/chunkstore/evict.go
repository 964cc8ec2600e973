package chunkstore

import "errors"

// makeRoom puts chunks out of memory until the limit is kept, or every chunk
// is in use. It is the clock algorithm: the hand goes round the shards, a chunk
// used since the last round gets a second chance, and clean ones go first,
// since they cost no sync.
func (s *Store) makeRoom() {
	const cleanOnly, anyIdle, anyAtAll = 0, 1, 2
	for pass := cleanOnly; pass <= anyAtAll; pass++ {
		for range s.index.shards {
			if s.counters.open.Load() <= int64(s.opts.MaxOpenChunks) {
				return
			}
			shard := int(s.clockHand.Add(1) % indexShards)
			s.evictFrom(shard, pass == cleanOnly, pass == anyAtAll)
		}
	}
}

// evictFrom evicts at most one chunk of a shard.
func (s *Store) evictFrom(shard int, cleanOnly, evenUsed bool) {
	var few [32]*chunk
	for _, c := range s.index.appendOpen(few[:0], shard) {
		if !evenUsed && c.used.Swap(false) {
			continue
		}
		if s.evict(c, cleanOnly) {
			return
		}
	}
}

// evict puts c out of memory unless it is in use, or poisoned: a poisoned
// chunk's later flushes must go on failing.
func (s *Store) evict(c *chunk, cleanOnly bool) bool {
	if !c.sync.TryLock() {
		return false
	}
	defer c.sync.Unlock()
	if c.gone || c.poison.Load() != nil {
		return false
	}
	if c.state == stateDirty || c.entryDirty {
		if cleanOnly {
			return false
		}
		if err := s.clean(c); err != nil {
			if !errors.Is(err, errChanged) {
				s.log.Error("cannot put a chunk out of memory", "chunk", c.id, "err", err)
			}
			return false
		}
	}
	if !c.mu.TryLock() {
		return false
	}
	defer c.mu.Unlock()
	if c.state == stateDirty || c.entryDirty || c.poison.Load() != nil {
		return false
	}
	s.forget(c)
	s.counters.evictions.Add(1)
	return true
}

// cleanTicks is how many ticks of the cleaner make up Options.CleanAfter.
const cleanTicks = 4

// cleaner takes the dirty mark off idle chunks.
func (s *Store) cleaner() {
	defer s.cleanDone.Done()
	for {
		select {
		case <-s.stopClean:
			return
		case <-s.cleanTicker.C:
			s.tick.Add(1)
			s.cleanIdle(cleanTicks)
		}
	}
}

// cleanIdle cleans the dirty chunks that were not changed for so many ticks.
func (s *Store) cleanIdle(ticks uint32) {
	var batch []*chunk
	for i := range s.index.shards {
		batch = s.index.appendOpen(batch[:0], i)
		for _, c := range batch {
			select {
			case <-s.stopClean:
				return
			default:
			}
			if s.tick.Load()-c.touched.Load() >= ticks {
				s.cleanIfIdle(c)
			}
		}
		clear(batch)
	}
}

func (s *Store) cleanIfIdle(c *chunk) {
	c.sync.Lock()
	defer c.sync.Unlock()
	if c.gone || c.state != stateDirty || c.poison.Load() != nil {
		return
	}
	if err := s.clean(c); err != nil && !errors.Is(err, errChanged) {
		s.log.Error("cannot clean an idle chunk", "chunk", c.id, "err", err)
	}
}
