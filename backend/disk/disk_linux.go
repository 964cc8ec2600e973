package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// OS is the file system of the machine.
func OS() FS { return &osFS{} }

type osFS struct {
	// noNowait is set once preadv2 has said that it cannot read without
	// waiting, so that it is not asked before every read.
	noNowait atomic.Bool
}

func (*osFS) MkdirAll(path string) error { return os.MkdirAll(path, 0o700) }

func (*osFS) ReadDir(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (o *osFS) Open(path string) (File, error) { return o.open(path, 0) }

func (o *osFS) Create(path string) (File, error) { return o.open(path, unix.O_CREAT|unix.O_EXCL) }

func (o *osFS) open(path string, flags int) (File, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return &osFile{fd: fd, fs: o}, nil
	}
}

func (*osFS) Remove(path string) error {
	if err := unix.Unlink(path); err != nil {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	return nil
}

func (*osFS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (*osFS) SyncAll(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

func (*osFS) Allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Blocks * 512, nil // st_blocks counts units of 512 whatever the disk
}

// osFile works on a raw descriptor: no poller, no per-call lock. The store
// never closes one that is in use.
type osFile struct {
	fd     int
	fs     *osFS
	direct direct
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (f *osFile) TryReadAt(p []byte, off int64) (int, error) {
	if f.fs.noNowait.Load() {
		return 0, ErrWouldBlock
	}
	iov := [1][]byte{p}
	n, err := unix.Preadv2(f.fd, iov[:], off, unix.RWF_NOWAIT)
	switch {
	case err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.EINVAL:
		f.fs.noNowait.Store(true)
		return 0, ErrWouldBlock
	case err != nil || n < len(p):
		// A short read is one that met a page outside the cache, or the end of
		// the file, or a bad sector: the slow path finds out which.
		return 0, ErrWouldBlock
	}
	return n, nil
}

// writeUnit bounds one write to the page cache. The kernel makes folios as large
// as the write that brought them in, and later small writes into a large folio walk
// all of its blocks: 13 % of a cluster's CPU time at 4k random writes into files
// that were filled with 1 MiB writes.
const writeUnit = 32 << 10

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:min(len(p), done+writeUnit)], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

func (f *osFile) PunchHole(off, length int64) error {
	for {
		err := unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err != unix.EINTR {
			return err
		}
	}
}

// SyncData is not repeated after EINTR: whether the error was consumed is
// unknown, and a second call might hide it.
func (f *osFile) SyncData() error { return unix.Fdatasync(f.fd) }

func (f *osFile) Close() error { return errors.Join(f.direct.close(), unix.Close(f.fd)) }
