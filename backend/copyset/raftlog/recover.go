package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// Open opens or makes the log in dir, whose parent exists. What a power cut left
// half-written at the end is cut off; see Damaged for anything worse.
func Open(fsys disk.FS, dir string, opts Options) (*Log, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fsys.MkdirAll(dir), fsys.SyncDir(path.Dir(dir))); err != nil {
		return nil, diskError("make "+dir, err)
	}
	l := &Log{
		fs: fsys, dir: dir, opts: opts, pool: newPool(fsys, dir, opts), meters: newMeters(),
		groups: make(map[backend.CopysetID]*Group), cache: cache{limit: opts.CacheBytes}, round: 1,
		wake: make(chan struct{}, 1), dead: make(chan struct{}), stopped: make(chan struct{}),
	}
	l.room = sync.NewCond(&l.mu)
	r := &recovery{l: l, fresh: true}
	w := &writer{l: l}
	err = r.run(w)
	if err != nil {
		return nil, errors.Join(err, r.close(), w.marks.close())
	}
	l.pool.start()
	go w.run()
	return l, nil
}

// recovery reads a log directory.
type recovery struct {
	l    *Log
	mark mark
	// files are all segment files; used those that hold the log, in order.
	files []segmentFile
	used  []segmentFile
	// durable: damage before this position cannot be a torn write.
	durable position
	maxSeq  uint32

	tracks map[backend.CopysetID]*track
	// fresh: nothing has been read yet, the first roster says where numbers begin.
	fresh bool
	// lenient: the first roster was destroyed, and nothing else, so a group's
	// numbers may begin anywhere.
	lenient bool
	// markPassed: the mark's roster has had its turn.
	markPassed bool
	// lost is the end of the last loss that may have hit any group.
	lost position
	// records were read of the segment that is being read.
	records int
}

// track is what is known of a group's numbering.
type track struct {
	group *Group
	// proven is up to where it is known that nothing is missing.
	proven position
	seen   bool
}

// segmentFile is a file and what its header says; seq 0 for nothing.
type segmentFile struct {
	*segment
	head segmentHeader
}

// run reads everything and makes the log ready to be written by w.
func (r *recovery) run(w *writer) error {
	var err error
	if w.marks, r.mark, err = openMarks(r.l.fs, r.l.dir); err != nil {
		return err
	}
	if err := r.list(); err != nil {
		return err
	}
	r.tracks = make(map[backend.CopysetID]*track)
	r.chain()
	end, err := r.readAll()
	if err != nil {
		return err
	}
	r.conclude()
	return r.begin(w, end)
}

// list opens the segment files.
func (r *recovery) list() error {
	names, err := r.l.fs.ReadDir(r.l.dir)
	if err != nil {
		return diskError("list "+r.l.dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		number, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		s := &segment{path: segmentPath(r.l.dir, number), number: number, size: r.l.opts.SegmentBytes}
		if s.file, err = r.l.fs.Open(s.path); err != nil {
			return diskError("open "+s.path, err)
		}
		f := segmentFile{segment: s}
		r.files = append(r.files, f)
		if f.head, err = readHeader(s); err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
		if f.head.seq != 0 {
			s.seq, s.salt, s.size = f.head.seq, f.head.salt, f.head.size
		}
		r.files[len(r.files)-1] = f
		r.l.pool.number = max(r.l.pool.number, number)
		r.maxSeq = max(r.maxSeq, f.head.seq)
	}
	return nil
}

// readHeader returns the newer one of a file's two headers, a zero one when
// neither is sound.
func readHeader(s *segment) (segmentHeader, error) {
	var newest segmentHeader
	var buf [sectorBytes]byte
	for off := int64(0); off < dataStart; off += blockBytes {
		if n, err := s.file.ReadAt(buf[:], off); n < len(buf) {
			if !errors.Is(err, io.EOF) {
				return newest, diskError("read header", err)
			}
			continue
		}
		h, err := decodeSegmentHeader(buf[:])
		if errors.Is(err, backend.ErrNotSupported) {
			return newest, err
		}
		if err == nil && h.seq > newest.seq {
			newest = h
		}
	}
	return newest, nil
}

// chain finds the segments that hold the log, following their headers back from
// the newest, and what is known to be durable. Segments that no header leads to
// were put to use and left again before anything was written to them.
func (r *recovery) chain() {
	r.durable = r.mark.durable
	all := slices.Clone(r.files)
	slices.SortFunc(all, func(a, b segmentFile) int { return cmp.Compare(b.seq, a.seq) }) // newest first
	var oldest segmentHeader
	first := uint32(0)
	for i, f := range all {
		switch {
		case f.seq == 0 || i > 0 && (f.seq < first || f.seq > oldest.prev.seq()):
			continue
		case i == 0:
			first = f.head.first
			r.durable = max(r.durable, f.head.prev)
		case f.seq < oldest.prev.seq():
			r.lose(at(oldest.seq, 0), fmt.Sprintf("segment %d is missing", oldest.prev.seq()))
		}
		r.used = append(r.used, f)
		oldest = f.head
	}
	slices.Reverse(r.used)
	if oldest.seq != first {
		r.lose(at(oldest.seq, 0), fmt.Sprintf("segment %d is missing", first))
	}
	if r.l.opts.planted.ignoreDurable {
		r.durable, r.mark = 0, mark{}
	}
}

// readAll replays the segments and returns where the log ends.
func (r *recovery) readAll() (position, error) {
	var end position
	var buf []byte
	for i, f := range r.used {
		if int64(cap(buf)) < f.size {
			buf = make([]byte, f.size)
		}
		buf = buf[:f.size]
		n, err := f.file.ReadAt(buf, 0)
		if n < len(buf) && !errors.Is(err, io.EOF) {
			return 0, diskError("read "+f.path, err)
		}
		clear(buf[n:])
		r.records = 0
		r.l.segs = append(r.l.segs, f.segment)
		if i < len(r.used)-1 {
			stop := f.size
			if next := r.used[i+1].head.prev; next.seq() == f.seq {
				stop = min(stop, next.off())
			}
			r.segment(f.segment, buf[:stop], false)
			continue
		}
		for off := int64(dataStart); off < f.size; off += sectorBytes {
			if h, ok := decodeBatchHeader(buf, off, f.head); ok && !r.l.opts.planted.ignoreDurable {
				r.durable = max(r.durable, h.durable)
			}
		}
		off := r.segment(f.segment, buf, true)
		end = at(f.seq, off)
		if err := r.rewriteTail(f.segment, buf, off); err != nil {
			return 0, err
		}
	}
	if tail := r.mark.head; tail > r.maxSeq {
		r.lose(max(r.mark.durable, at(tail, 0)), fmt.Sprintf("segment %d is missing", tail))
	}
	r.passMark(^position(0))
	return end, nil
}

// rewriteTail makes durable what was found at the end and may only be in a
// cache, even in one that believes it to be clean.
func (r *recovery) rewriteTail(s *segment, buf []byte, end int64) error {
	from := int64(dataStart)
	if r.durable.seq() == s.seq {
		from = max(from, r.durable.off())
	}
	if r.durable.seq() > s.seq || from >= end || r.l.opts.planted.skipTailSync {
		return nil
	}
	if _, err := s.file.WriteAt(buf[from:end], from); err != nil {
		return diskError("write end of "+s.path, err)
	}
	if err := s.file.SyncData(); err != nil {
		return diskError("sync end of "+s.path, err)
	}
	return nil
}

// conclude turns what was found of damage into Damaged.
func (r *recovery) conclude() {
	for id, t := range r.tracks {
		g := t.group
		if g.damage == nil && t.proven < r.lost {
			g.damage = fmt.Errorf("%w: raft log of %v: records were destroyed before %v, possibly of this group", backend.ErrChecksum, id, r.lost)
		}
		if g.damage != nil {
			r.l.opts.Logger.Error("raft log is damaged: this replica must be rebuilt", "copyset", id, "error", g.damage)
			g.clear()
			r.applyDrops()
		}
		g.wnum, g.wdamaged = g.num, g.damage != nil
		if g.num > 0 {
			r.l.members++
		}
		g.cached = g.last + 1
		g.writing = g.last
		g.durable.Store(g.last)
	}
	if r.lost > r.mark.durable {
		r.l.lost = fmt.Errorf("%w: raft log: records before %v were destroyed and it is not known whose", backend.ErrChecksum, r.lost)
	}
}

// begin puts a segment to use that follows what was read, and sorts out the
// other files.
func (r *recovery) begin(w *writer, end position) error {
	l := r.l
	if n := len(r.used); n > 0 && r.records == 0 && r.lost == 0 && len(l.Damaged()) == 0 {
		// Nothing was written to the newest: it can be used again right away.
		end = r.used[n-1].head.prev
		l.segs = l.segs[:n-1]
	}
	inUse := make(map[*segment]bool)
	for _, s := range l.segs {
		inUse[s] = true
	}
	l.pool.firstDurable.Store(^uint32(0)) // all that is not used here is not needed
	for _, f := range r.files {
		if inUse[f.segment] {
			continue
		}
		if complete(l.fs, f.segment) {
			l.pool.put(f.segment)
			continue
		}
		if err := errors.Join(f.close(), l.fs.Remove(f.path)); err != nil {
			return diskError("remove half-made "+f.path, err)
		}
	}
	// The names of files made before a crash may not be durable yet.
	if err := l.fs.SyncDir(l.dir); err != nil {
		return diskError("sync "+l.dir, err)
	}
	w.nextSeq = max(r.maxSeq, r.mark.head) + 1
	w.mark = r.mark
	next, err := l.pool.take(0)
	if err != nil {
		return err
	}
	if err := w.enter(next, end); err != nil {
		return errors.Join(err, next.close())
	}
	if err := w.sync(); err != nil {
		return err
	}
	l.free()
	return nil
}

// complete says whether a file has its whole size, with space behind it.
func complete(fsys disk.FS, s *segment) bool {
	var end [sectorBytes]byte
	n, err := s.file.ReadAt(end[:], s.size-sectorBytes)
	if n < len(end) || err != nil {
		return false
	}
	space, err := fsys.Allocated(s.path)
	return err == nil && space >= s.size
}

func (r *recovery) close() error {
	var err error
	for _, f := range r.files {
		err = errors.Join(err, f.close())
	}
	return err
}
