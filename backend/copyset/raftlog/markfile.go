package raftlog

import (
	"errors"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// markFile is the open file of marks.
type markFile struct{ file disk.File }

// openMarks opens or makes the mark file and returns the newest mark in it, a
// zero one if there is none that can be read.
func openMarks(fsys disk.FS, dir string) (markFile, mark, error) {
	path := dir + "/" + markName
	f, err := fsys.Open(path)
	if disk.NotExist(err) {
		f, err = fsys.Create(path)
		if err == nil {
			if err = errors.Join(zeroFill(f, 2*markSlot), fsys.SyncDir(dir)); err != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}
	if err != nil {
		return markFile{}, mark{}, diskError("open "+path, err)
	}
	var newest mark
	buf := make([]byte, markSlot)
	for i := range int64(2) {
		n, _ := f.ReadAt(buf, i*markSlot) // what cannot be read is no mark
		m, err := decodeMark(buf[:n])
		if errors.Is(err, backend.ErrNotSupported) {
			return markFile{}, mark{}, errors.Join(err, f.Close())
		}
		if err == nil && m.count > newest.count {
			newest = m
		}
	}
	return markFile{f}, newest, nil
}

// writeMark says how far the log is durable.
func (w *writer) writeMark() error {
	w.mark = mark{count: w.mark.count + 1, head: w.head.seq, durable: w.synced, roster: w.roster()}
	w.markBuf = w.mark.encode(w.markBuf)
	w.l.busy(true)
	defer w.l.busy(false)
	if _, err := w.marks.file.WriteAt(w.markBuf, int64(w.mark.count%2)*markSlot); err != nil {
		return diskError("write mark", err)
	}
	if err := w.marks.file.SyncData(); err != nil {
		return diskError("sync mark", err)
	}
	w.marked = time.Now()
	return nil
}

func (m markFile) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}
