package disk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// lockTextSize is the size of the lock file, in bytes. It is always written
// whole, in place: that takes no space on a full disk.
const lockTextSize = 128

// TakeLock locks the file at path, making it if need be, and writes into it who
// holds it. backend.ErrBusy, naming the holder, when somebody else does. The
// kernel frees the lock with its process; the file stays.
func TakeLock(path, owner string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, Error("open the lock "+path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: in use by %s", backend.ErrBusy, lockHolder(f))
		}
		return nil, Error("lock "+path, err)
	}
	if err := writeLockText(f, fmt.Sprintf("pid %d (%s)", os.Getpid(), owner)); err != nil {
		f.Close()
		return nil, Error("write the lock "+path, err)
	}
	return f, nil
}

// ReleaseLock says in the file that nobody holds it any more, and closes it.
func ReleaseLock(f *os.File) error { return errors.Join(writeLockText(f, ""), f.Close()) }

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
