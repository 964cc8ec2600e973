// Package disk is the file system under the stores, as an interface so small that
// crashfs can stand in for it and cut the power.
package disk

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// FS is what the stores need of a file system. It is small so that crashfs can
// stand in for it and cut the power. Errors are those of the system calls.
// Paths are the directory of a store and what lies below it.
type FS interface {
	// MkdirAll makes a directory and its parents; those that exist are fine.
	MkdirAll(path string) error
	// ReadDir returns the names in a directory, in any order.
	ReadDir(path string) ([]string, error)
	// Open opens a file for reading and writing; fs.ErrNotExist.
	Open(path string) (File, error)
	// Create makes a file that must not exist; fs.ErrExist.
	Create(path string) (File, error)
	// Remove unlinks a file; fs.ErrNotExist.
	Remove(path string) error
	// SyncDir makes the creations and removals in a directory durable.
	SyncDir(path string) error
	// SyncAll makes durable everything on the file system that holds path, by
	// whichever process it was written.
	SyncAll(path string) error
	// Allocated is the space on disk that a file takes; fs.ErrNotExist.
	Allocated(path string) (int64, error)
}

// File is an open file. ReadAt and WriteAt go through a cache; nothing is
// durable before SyncData, and any of it may be.
type File interface {
	// ReadAt is io.ReaderAt's: fewer bytes than asked for come with an error,
	// io.EOF at the end of the file.
	ReadAt(p []byte, off int64) (int, error)
	// TryReadAt is ReadAt for bytes that are in the cache; ErrWouldBlock when
	// some are not, with p scribbled on.
	TryReadAt(p []byte, off int64) (int, error)
	// WriteAt is io.WriterAt's: it returns how much was written before an error.
	WriteAt(p []byte, off int64) (int, error)
	// WriteDirect is WriteAt for bytes that nobody will read soon: past the cache
	// if place and length are multiples of 512 and p is of AlignedBuffer's making,
	// and if the file system can. It syncs nothing.
	WriteDirect(p []byte, off int64) (int, error)
	// PunchHole frees the range, which then reads as zeros, and leaves the
	// file's size alone. errors.ErrUnsupported where it cannot.
	PunchHole(off, length int64) error
	// SyncData makes content and size durable, but not the file's name.
	SyncData() error
	Close() error
}

// ErrWouldBlock: the bytes are not in the cache, or the file system cannot tell.
var ErrWouldBlock = errors.New("read would wait for the disk")

// Error wraps an error of FS or File with the sentinel that stands for it.
func Error(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %s: %w", backend.ErrNoSpace, what, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %s: %w", backend.ErrReadOnly, what, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: %s: %w: raise the limit of open files, or lower MaxOpenChunks", backend.ErrIO, what, err)
	}
	return fmt.Errorf("%w: %s: %w", backend.ErrIO, what, err)
}

func NotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
