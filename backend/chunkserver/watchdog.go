package chunkserver

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

const (
	// watchEvery is how often the watchdog looks.
	watchEvery = 100 * time.Millisecond
	// watchLate between two looks means that this process did not run.
	watchLate = 5 * watchEvery
	// probeEvery is the time between two writes of the probe.
	probeEvery = time.Second
	probeBytes = 512
)

// watchdog keeps a server whose disk hangs or fails from leading: raft alone would
// never notice, because heartbeats need no disk.
//
//	well → unwell   a write or sync of the log, or of the probe, takes longer than
//	                Options.StallLimit, or the probe fails
//	unwell → well   nothing of that for Options.WellFor
//
// While unwell, every leadership that this server has or gets is handed over, those
// that come back less and less often.
type watchdog struct {
	// probing is since when the probe's write is under way, in Unix nanoseconds, 0
	// for not.
	probing atomic.Int64
	// probeFailed is the last probe's error.
	probeFailed atomic.Pointer[error]
	// look has a token when the watchdog should not wait for its next turn.
	look chan struct{}
	// unwell is set while the server should not lead.
	unwell atomic.Bool
}

func (w *watchdog) init() { w.look = make(chan struct{}, 1) }

func (w *watchdog) poke() {
	select {
	case w.look <- struct{}{}:
	default:
	}
}

// probeStalled is how long the probe's write now under way has been running.
func (w *watchdog) probeStalled() time.Duration {
	since := w.probing.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// runProbe writes a file of its own now and then, as a chunk is written.
func (s *Server) runProbe() {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	var n byte
	for {
		n++
		s.watch.probing.Store(time.Now().UnixNano())
		err := s.probe(n)
		s.watch.probing.Store(0)
		if errors.Is(err, backend.ErrNoSpace) {
			err = nil // the space guard's to say; it does not keep the log from working
		}
		if err != nil {
			s.watch.probeFailed.Store(&err)
		} else {
			s.watch.probeFailed.Store(nil)
		}
		select {
		case <-s.life.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Server) probe(n byte) error {
	path := s.dir.probeFile()
	f, err := s.fs.Open(path)
	if disk.NotExist(err) {
		f, err = s.fs.Create(path)
	}
	if err != nil {
		return disk.Error("open "+path, err)
	}
	var b [probeBytes]byte
	for i := range b {
		b[i] = n
	}
	_, err = f.WriteAt(b[:], 0)
	if err == nil {
		err = f.SyncData()
	}
	return disk.Error("write "+path, errors.Join(err, f.Close()))
}

// wakefulness is since when the watchdog has been looking regularly. A process that
// was stopped, or whose machine was, finds writes that began before that and must not
// blame the disk: two servers that woke up one after the other would hand every
// leadership back and forth.
type wakefulness struct{ since, last time.Time }

// look notes a look at the disk.
func (a *wakefulness) look(now time.Time) {
	if now.Sub(a.last) > watchLate {
		a.since = now
	}
	a.last = now
}

// ran is how much of a stall this process has been awake for.
func (a *wakefulness) ran(stall time.Duration) time.Duration { return min(stall, a.last.Sub(a.since)) }

// ailment is what is wrong with the disk now, "" for nothing.
func (s *Server) ailment(awake *wakefulness) string {
	limit := s.opts.StallLimit
	if t := awake.ran(s.raftLog.Stalled()); t > limit {
		return fmt.Sprintf("a write to the raft log hangs for %v", t.Round(100*time.Millisecond))
	}
	if t := awake.ran(s.watch.probeStalled()); t > limit {
		return fmt.Sprintf("a write to the disk hangs for %v", t.Round(100*time.Millisecond))
	}
	if err := s.watch.probeFailed.Load(); err != nil {
		return fmt.Sprintf("writes to the disk fail: %v", *err)
	}
	return ""
}

// runWatchdog is the watchdog's loop.
func (s *Server) runWatchdog() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	w := &s.watch
	var handing handOver
	handing.init()
	defer handing.tasks.Wait()
	var lastIll time.Time
	var awake wakefulness
	for {
		select {
		case <-s.life.Done():
			return
		case <-ticker.C:
		case <-w.look:
		}
		now := time.Now()
		awake.look(now)
		ill := s.ailment(&awake)
		switch {
		case ill != "":
			lastIll = now
			w.unwell.Store(true)
			s.trouble.set("disk", ill)
		case w.unwell.Load() && now.Sub(lastIll) >= s.opts.WellFor:
			w.unwell.Store(false)
			handing.well()
			s.trouble.set("disk", "")
		}
		if w.unwell.Load() {
			for _, led := range s.news.led(s.ID()) {
				handing.start(s, led.id, led.term)
			}
		}
	}
}
