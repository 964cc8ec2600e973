package chunkserver

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// spaceEvery is how often the free space is looked at, usageEvery how often the
	// chunks' own use is summed up, which reads every chunk's inode.
	spaceEvery = time.Second
	usageEvery = 30 * time.Second

	minReserve = 1 << 30
	// reserveShare is the part of the disk that is kept free: one fiftieth, 2 %.
	reserveShare = 50
	// Having been full, the server takes changes again when a quarter more than the
	// reserve is free, so that it does not go back and forth.
	hysteresis = 4
)

// spaceGuard stops changes before the disk is so full that the log cannot be written,
// and lets them in again by itself.
type spaceGuard struct {
	full       atomic.Bool
	used, free atomic.Int64
}

func (g *spaceGuard) figures() (used, free int64) { return g.used.Load(), g.free.Load() }

// diskSpace asks the file system that holds the data directory.
func (s *Server) diskSpace() (free, total int64, err error) {
	if s.opts.Space != nil {
		return s.opts.Space()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir.path, &st); err != nil {
		return 0, 0, fmt.Errorf("%w: statfs %s: %w", backend.ErrIO, s.dir.path, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// reserve is the free space below which the disk counts as full.
func (s *Server) reserve(total int64) int64 {
	if s.opts.Reserve > 0 {
		return s.opts.Reserve
	}
	return max(minReserve, total/reserveShare)
}

// runSpaceGuard is the guard's loop.
func (s *Server) runSpaceGuard() {
	ticker := time.NewTicker(spaceEvery)
	defer ticker.Stop()
	var nextUsage time.Time
	for {
		s.checkSpace()
		if now := time.Now(); now.After(nextUsage) {
			s.sumUsage()
			nextUsage = now.Add(usageEvery)
		}
		select {
		case <-s.life.Done():
			return
		case <-ticker.C:
		}
	}
}

// checkSpace looks once.
func (s *Server) checkSpace() {
	free, total, err := s.diskSpace()
	if err != nil {
		s.log.Warn("free space of the disk", "err", err)
		return
	}
	s.space.free.Store(free)
	was, limit := s.space.full.Load(), s.reserve(total)
	if was {
		limit += limit / hysteresis
	}
	full := free < limit || s.raftLog.Full()
	what := ""
	if full {
		what = fmt.Sprintf("disk full: %s free, %s are kept in reserve; no changes are taken until there is more",
			units.BytesSize(float64(free)), units.BytesSize(float64(s.reserve(total))))
	}
	s.trouble.set("space", what)
	s.space.full.Store(full)
	for _, id := range s.replicas.ids() {
		// Again each time: one may have been opened meanwhile.
		if r := s.replicas.get(id); r != nil {
			r.Full(full)
		}
	}
}

// sumUsage adds up what this server's chunks and log take.
func (s *Server) sumUsage() {
	ids, err := s.store.ChunkIDs(s.life)
	var used int64
	if err == nil {
		used, err = s.store.Usage(s.life, chunkRefs(0, ids))
	}
	if err != nil {
		if s.life.Err() == nil {
			s.log.Warn("space that the chunks take", "err", err)
		}
		return
	}
	s.space.used.Store(used + s.raftLog.Bytes())
}
