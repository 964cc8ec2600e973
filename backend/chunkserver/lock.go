package chunkserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/disk"
)

// lockTextSize is the size of the lock file, in bytes. It is always written whole, in
// place: that takes no space on a full disk.
const lockTextSize = 128

// lockDir makes the directory at path, if need be, and locks it. backend.ErrBusy,
// naming the holder, when another process has it. The kernel frees the lock with its
// process; the file stays.
func lockDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, disk.Error("make the data directory", err)
	}
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, disk.Error("open the lock of data directory "+path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: %w: in use by %s", path, backend.ErrBusy, lockHolder(f))
		}
		return nil, disk.Error("lock data directory "+path, err)
	}
	if err := writeLockText(f, fmt.Sprintf("pid %d (chunkserver)", os.Getpid())); err != nil {
		f.Close()
		return nil, disk.Error("write the lock of data directory "+path, err)
	}
	return f, nil
}

func unlockDir(f *os.File) error {
	if f == nil {
		return nil
	}
	return errors.Join(writeLockText(f, ""), f.Close())
}

func writeLockText(f *os.File, text string) error {
	text = text[:min(len(text), lockTextSize-1)]
	_, err := f.WriteAt([]byte(text+strings.Repeat(" ", lockTextSize-1-len(text))+"\n"), 0)
	return err
}

// lockHolder reads what writeLockText wrote, and trusts none of it.
func lockHolder(f *os.File) string {
	b := make([]byte, lockTextSize)
	n, _ := f.ReadAt(b, 0)
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(string(b[:n])))
	if text == "" {
		return "another process"
	}
	return text
}
