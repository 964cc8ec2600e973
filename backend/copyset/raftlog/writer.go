package raftlog

import (
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// writer is the goroutine that writes the log: it takes all that is queued,
// writes it in as few calls as it can, syncs once, and tells who waits.
type writer struct {
	l     *Log
	items []item
	drops []drop
	// taken is the bytes that the queue is relieved of when items are durable.
	taken int64

	head *segment
	// end of the head segment; base is where the batch being built will go.
	end int64
	// buf is the batch being built: room for its header, then count records.
	buf   []byte
	count uint32
	// last is the batch written last in this segment, synced where the log was
	// durable at the last sync.
	last, synced position
	dirty        bool
	nextSeq      uint32

	mark mark
	// marks is the mark file; markBuf what is written to it.
	marks   markFile
	markBuf []byte
	marked  time.Time
}

// run writes until the log is closed or has failed.
func (w *writer) run() {
	defer close(w.l.stopped)
	idle := time.NewTimer(w.l.opts.idle)
	idle.Stop()
	defer idle.Stop()
	for {
		select {
		case <-w.l.wake:
		case <-idle.C:
			if w.report(w.writeMark()) {
				return
			}
			continue
		}
		for {
			wrote, err := w.turn()
			if w.report(err) {
				return
			}
			if !wrote {
				break
			}
		}
		if w.l.ending() {
			w.report(w.writeMark())
			_ = w.marks.file.Close()
			return
		}
		if w.mark.durable != w.synced {
			idle.Reset(w.l.opts.idle)
		}
	}
}

// report fails the log if there was an error.
func (w *writer) report(err error) bool {
	if err == nil {
		return false
	}
	_ = w.marks.file.Close()
	w.l.fail(err)
	return true
}

// ending says that Close was called and the queue is empty.
func (l *Log) ending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closing && len(l.queue) == 0
}

// turn writes one round, false if there was nothing to write.
func (w *writer) turn() (bool, error) {
	if !w.take() {
		return false, nil
	}
	for i := range w.items {
		if err := w.put(&w.items[i]); err != nil {
			return false, err
		}
	}
	if err := w.flush(0); err != nil {
		return false, err
	}
	if w.l.opts.planted.publishEarly {
		w.publish()
		return true, w.sync()
	}
	if err := w.sync(); err != nil {
		return false, err
	}
	w.publish()
	if time.Since(w.marked) >= markBusy {
		return true, w.writeMark()
	}
	return true, nil
}

// take begins a round.
func (w *writer) take() bool {
	l := w.l
	moves := l.fetchMoves()
	l.mu.Lock()
	defer l.mu.Unlock()
	w.items, l.queue = l.queue, w.items[:0]
	w.drops, l.drops = l.drops, w.drops[:0]
	w.taken = l.queued
	w.items = l.relocate(w.items, moves)
	if len(w.items) == 0 {
		w.drops, l.drops = l.drops, w.drops // they wait for their record
		return false
	}
	for i := range w.items {
		g := w.items[i].group
		g.writing = g.last
	}
	l.round++
	l.after, l.writingAfter = l.writingAfter[:0], l.after
	l.done, l.writingDone = nil, l.done
	return true
}

// put adds a record to the batch being built.
func (w *writer) put(it *item) error {
	if err := w.fit(max(it.size, it.together)); err != nil {
		return err
	}
	off := w.end + int64(len(w.buf))
	it.seg, it.off = w.head, uint32(off)
	r := record{kind: it.kind, copyset: it.group.id, num: it.num, index: it.index, appended: never}
	switch {
	case it.kind == recordSet:
		r.head, r.data = []byte(it.value.key), it.value.val
	case it.log != nil:
		r.logType, r.term, r.appended = uint8(it.log.Type), it.log.Term, nanos(it.log.AppendedAt)
		r.head, r.data = it.log.Extensions, it.log.Data
	}
	w.room(it.size)
	w.buf = r.appendTo(w.buf, w.head.salt, at(w.head.seq, off))
	w.count++
	it.group.wnum = it.num
	if it.kind == recordDelete {
		it.group.wnum, it.group.wdamaged = 0, false
	}
	return nil
}

// fit makes sure that n more bytes of records fit the batch, by writing it out or
// by going on in another segment.
func (w *writer) fit(n int64) error {
	with := int64(len(w.buf)) + n
	if w.count > 0 && (with > maxBatch || w.end+roundUp(with) > w.head.size) {
		if err := w.flush(0); err != nil {
			return err
		}
	}
	if w.count == 0 && w.end+roundUp(batchHeadLen+n) > w.head.size {
		return w.roll()
	}
	return nil
}

// flush writes the batch being built.
func (w *writer) flush(flags uint8) error {
	if w.count == 0 {
		return nil
	}
	h := batchHeader{
		flags: flags, salt: w.head.salt, pos: at(w.head.seq, w.end), prev: w.last, durable: w.synced,
		length: int64(len(w.buf)) - batchHeadLen, count: w.count,
	}
	h.encode(w.buf)
	var zeros [sectorBytes]byte
	w.buf = append(w.buf, zeros[:h.bytes()-int64(len(w.buf))]...)
	w.dirty = true
	w.l.busy(true)
	_, err := w.head.file.WriteDirect(w.buf, w.end)
	w.l.busy(false)
	if err != nil {
		return diskError(fmt.Sprintf("write %d bytes at %#x of %s", len(w.buf), w.end, w.head.path), err)
	}
	w.l.meters.batches.Inc()
	w.l.meters.bytes.Add(float64(len(w.buf)))
	w.last = h.pos
	w.end += h.bytes()
	w.reset()
	return nil
}

// room makes sure that a record of n bytes and what rounds the batch up can be
// appended to a buffer that stays fit for WriteDirect.
func (w *writer) room(n int64) {
	need := len(w.buf) + int(n) + sectorBytes
	if need <= cap(w.buf) {
		return
	}
	w.buf = append(disk.AlignedBuffer(max(need, 2*cap(w.buf), minBuffer)), w.buf...)
}

// reset begins a new batch. A buffer that one huge record has blown up goes.
func (w *writer) reset() {
	if cap(w.buf) > 2*maxBatch {
		w.buf = nil
	}
	w.buf = w.buf[:0]
	w.room(batchHeadLen)
	w.buf = append(w.buf, make([]byte, batchHeadLen)...)
	w.count = 0
}

// sync makes durable what was written to the head segment.
func (w *writer) sync() error {
	if !w.dirty {
		return nil
	}
	if !w.l.opts.planted.skipSync {
		start := time.Now()
		w.l.busy(true)
		err := w.head.file.SyncData()
		w.l.busy(false)
		if err != nil {
			return diskError("sync "+w.head.path, err)
		}
		w.l.syncTook(time.Since(start))
	}
	w.dirty = false
	w.synced = at(w.head.seq, w.end)
	return nil
}

// syncTook counts one sync.
func (l *Log) syncTook(d time.Duration) {
	l.meters.syncs.Observe(d.Seconds())
	mean := l.meanSync.Load()
	l.meanSync.Store(mean + (int64(d)-mean)/8)
}

// busy tells Stalled.
func (l *Log) busy(on bool) {
	if on {
		l.busySince.Store(time.Now().UnixNano())
		return
	}
	l.busySince.Store(0)
}
