package crashfs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// inode is a file: its size and its units, by index.
type inode struct {
	size  sizes
	units map[int64]*unit
}

// sizes are a file's size now and on the disk, and what it was since the sync.
type sizes struct {
	cached, durable int64
	dirty           bool
	pending         []int64
}

// unit is the disk's atomic unit. Contents are never changed in place, so that
// machines started from a crash can share them. nil content has no space.
type unit struct {
	cached, durable []byte
	// dirty: the next sync writes cached. A failed sync clears it.
	dirty bool
	// pending are the contents since the last sync; any may be on the disk.
	pending [][]byte
}

func newInode() *inode { return &inode{units: make(map[int64]*unit)} }

func (d *platter) allocated(ino *inode) int64 {
	var n int64
	for _, u := range ino.units {
		if u.cached != nil {
			n += int64(d.opts.Unit)
		}
	}
	return n
}

func (ino *inode) setSize(n int64) {
	ino.size.cached, ino.size.dirty = n, true
	ino.size.pending = append(ino.size.pending, n)
}

func (ino *inode) sync() {
	for i, u := range ino.units {
		if u.dirty {
			u.durable, u.dirty, u.pending = u.cached, false, nil
		}
		if u.durable == nil && u.cached == nil && u.pending == nil {
			delete(ino.units, i)
		}
	}
	if ino.size.dirty {
		ino.size = sizes{cached: ino.size.cached, durable: ino.size.cached}
	}
}

// syncFailed forgets that anything needs writing, as a kernel does.
func (ino *inode) syncFailed() {
	for _, u := range ino.units {
		u.dirty = false
	}
	ino.size.dirty = false
}

// put gives unit i new content. Caller holds disk.mu.
func (d *platter) put(ino *inode, i int64, content []byte) error {
	u := ino.units[i]
	if u == nil {
		if content == nil {
			return nil
		}
		u = &unit{}
	}
	switch size := int64(d.opts.Unit); {
	case u.cached == nil && content != nil:
		if d.opts.Capacity > 0 && d.used+size > d.opts.Capacity {
			return unix.ENOSPC
		}
		d.used += size
	case u.cached != nil && content == nil:
		d.used -= size
	}
	ino.units[i] = u
	u.cached, u.dirty = content, true
	u.pending = append(u.pending, content)
	return nil
}

// file is an open inode.
type file struct {
	fs   *FS
	ino  *inode
	path string
}

var _ disk.File = (*file)(nil)

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.before(Call{Op: OpRead, Path: f.path, Off: off, Len: len(p)}); err != nil {
		return 0, err
	}
	return f.read(p, off)
}

func (f *file) read(p []byte, off int64) (int, error) {
	d := f.fs.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	size := int64(d.opts.Unit)
	n := 0
	for n < len(p) && off < f.ino.size.cached {
		in := off % size
		part := min(size-in, int64(len(p)-n), f.ino.size.cached-off)
		if u := f.ino.units[off/size]; u != nil && u.cached != nil {
			copy(p[n:n+int(part)], u.cached[in:])
		} else {
			clear(p[n : n+int(part)])
		}
		n, off = n+int(part), off+part
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) TryReadAt(p []byte, off int64) (int, error) {
	if every := f.fs.disk.opts.MissEvery; every > 0 && f.fs.tries.Add(1)%int64(every) == 0 {
		return 0, disk.ErrWouldBlock
	}
	if f.fs.dead.Load() {
		return 0, ErrDead
	}
	n, err := f.read(p, off)
	if err != nil {
		return n, disk.ErrWouldBlock
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	var partial *PartialError
	err := f.fs.before(Call{Op: OpWrite, Path: f.path, Off: off, Len: len(p)})
	if err != nil && !errors.As(err, &partial) {
		return 0, err
	}
	if partial != nil {
		n, werr := f.write(p[:min(partial.N, len(p))], off)
		return n, errors.Join(partial.Err, werr)
	}
	return f.write(p, off)
}

// WriteDirect promises no more than WriteAt: what the disk's own cache holds is
// lost in a power cut like what the machine's holds.
func (f *file) WriteDirect(p []byte, off int64) (int, error) { return f.WriteAt(p, off) }

func (f *file) write(p []byte, off int64) (int, error) {
	d := f.fs.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	size := int64(d.opts.Unit)
	done := 0
	for done < len(p) {
		in := off % size
		n := min(int(size-in), len(p)-done)
		content := make([]byte, size)
		if u := f.ino.units[off/size]; u != nil && u.cached != nil {
			copy(content, u.cached)
		}
		copy(content[in:], p[done:done+n])
		if err := d.put(f.ino, off/size, content); err != nil {
			return done, err
		}
		done, off = done+n, off+int64(n)
		if off > f.ino.size.cached {
			f.ino.setSize(off)
		}
	}
	return done, nil
}

func (f *file) PunchHole(off, length int64) error {
	var partial *PartialError
	err := f.fs.before(Call{Op: OpPunch, Path: f.path, Off: off, Len: int(length)})
	if errors.As(err, &partial) {
		length = min(length, int64(partial.N))
	} else if err != nil {
		return err
	}
	d := f.fs.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	size := int64(d.opts.Unit)
	if off%size != 0 || length%size != 0 {
		return unix.EINVAL // the store frees whole blocks only
	}
	for i := off / size; i < (off+length)/size; i++ {
		if err := d.put(f.ino, i, nil); err != nil {
			return err
		}
	}
	if partial != nil {
		return partial.Err
	}
	return nil
}

func (f *file) SyncData() error {
	err := f.fs.before(Call{Op: OpSyncData, Path: f.path})
	d := f.fs.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		if !errors.Is(err, ErrDead) {
			f.ino.syncFailed()
		}
		return err
	}
	f.ino.sync()
	return nil
}

func (f *file) Close() error { return nil }
