package raftlog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend/disk"
)

const segmentSuffix = ".segment"

// pool keeps spare segments: freed ones, and new ones made in advance by a
// goroutine of its own.
type pool struct {
	fs   disk.FS
	dir  string
	opts Options
	// full: a segment for the reserve could not be made.
	full atomic.Bool
	// firstDurable is the oldest segment that a durable header asks for; older
	// files may be removed.
	firstDurable atomic.Uint32

	// making is held while a segment is made: whoever needs one waits for it.
	// It guards number.
	making sync.Mutex
	number uint64 // of the newest file

	mu     sync.Mutex // guards spares
	spares []*segment

	kick    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
}

func newPool(fsys disk.FS, dir string, opts Options) *pool {
	return &pool{
		fs: fsys, dir: dir, opts: opts,
		kick: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
}

func (p *pool) start() {
	go p.run()
	p.wake()
}

func (p *pool) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// run keeps the reserve filled and gives back what is far too much.
func (p *pool) run() {
	defer close(p.stopped)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-p.kick:
		case <-retry.C:
		}
		if !p.fill() {
			retry.Reset(retryReserve)
		}
		p.trim()
	}
}

// fill reports whether the reserve is complete.
func (p *pool) fill() bool {
	for p.count() < p.opts.Reserve {
		select {
		case <-p.stop:
			return true
		default:
		}
		p.making.Lock()
		err := p.add()
		p.making.Unlock()
		if err != nil {
			return false
		}
	}
	if p.full.Swap(false) {
		p.opts.Logger.Info("raft log has its reserve of segments again", "dir", p.dir)
	}
	return true
}

// count is how many spares can be used.
func (p *pool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.spares {
		if s.size == p.opts.SegmentBytes {
			n++
		}
	}
	return n
}

// put takes a segment that nothing needs any more.
func (p *pool) put(s *segment) {
	p.mu.Lock()
	p.spares = append(p.spares, s)
	p.mu.Unlock()
}

func (p *pool) pop() *segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.spares {
		if s.size == p.opts.SegmentBytes {
			p.spares = append(p.spares[:i], p.spares[i+1:]...)
			return s
		}
	}
	return nil
}

// take returns a spare segment. It makes up the reserve first if that has fallen
// behind: then the last one is never taken before full has been said. A reserve
// of 0 makes no more than the one.
func (p *pool) take(reserve int) (*segment, error) {
	defer p.wake()
	if p.count() >= max(1, reserve) {
		return p.pop(), nil // no one else takes any
	}
	p.making.Lock()
	defer p.making.Unlock()
	var err error
	for err == nil && p.count() < max(1, reserve) && !p.full.Load() {
		err = p.add()
	}
	if s := p.pop(); s != nil {
		return s, nil
	}
	if err == nil { // full before, and perhaps no more
		return p.create()
	}
	return nil, err
}

// add makes a spare segment. Caller holds making.
func (p *pool) add() error {
	s, err := p.create()
	if err != nil {
		if !p.full.Swap(true) {
			p.opts.Logger.Error("raft log cannot make a segment for its reserve", "dir", p.dir, "spare", p.count(), "error", err)
		}
		return err
	}
	p.put(s)
	return nil
}

func segmentPath(dir string, number uint64) string {
	return fmt.Sprintf("%s/%08d%s", dir, number, segmentSuffix)
}

func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(digits, 10, 48)
	return number, ok && err == nil && fmt.Sprintf("%08d", number) == digits
}

// create makes a segment file whose space is all there. Caller holds making.
func (p *pool) create() (*segment, error) {
	p.number++
	s := &segment{path: segmentPath(p.dir, p.number), number: p.number, size: p.opts.SegmentBytes}
	f, err := p.fs.Create(s.path)
	if err != nil {
		return nil, diskError("create segment", err)
	}
	if err := zeroFill(f, s.size); err != nil {
		// What was made takes space that others could use; it holds nothing.
		return nil, errors.Join(diskError("fill segment "+s.path, err), f.Close(), p.fs.Remove(s.path))
	}
	if !p.opts.planted.skipDirSync {
		if err := p.fs.SyncDir(p.dir); err != nil {
			return nil, errors.Join(diskError("sync directory", err), f.Close(), p.fs.Remove(s.path))
		}
	}
	s.file = f
	return s, nil
}

// zeroFill gives a file its size and space for good, so that later syncs have
// only data to write.
//
// Synced piece by piece: a sync of the whole would hold up, for its length, the
// syncs of the segment that is being written.
func zeroFill(f disk.File, size int64) error {
	n := min(size, zeroPiece)
	zeros := disk.AlignedBuffer(int(n))[:n]
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteDirect(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
		if err := f.SyncData(); err != nil {
			return err
		}
	}
	return nil
}

const zeroPiece = 1 << 20

// trim removes spares beyond maxSpares, and those of another size.
func (p *pool) trim() {
	for {
		s := p.surplus()
		if s == nil {
			return
		}
		if err := errors.Join(s.close(), p.fs.Remove(s.path)); err != nil {
			p.opts.Logger.Warn("raft log cannot remove a spare segment", "path", s.path, "error", err)
		}
	}
}

func (p *pool) surplus() *segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range p.spares {
		// A file that the newest durable header still asks for must stay, or
		// the log would be taken for damaged after a crash.
		needed := s.seq != 0 && s.seq >= p.firstDurable.Load()
		if !needed && (s.size != p.opts.SegmentBytes || len(p.spares) > max(maxSpares, p.opts.Reserve)) {
			p.spares = append(p.spares[:i], p.spares[i+1:]...)
			return s
		}
	}
	return nil
}

func (p *pool) close() error {
	close(p.stop)
	<-p.stopped
	var err error
	for _, s := range p.spares {
		err = errors.Join(err, s.close())
	}
	return err
}
