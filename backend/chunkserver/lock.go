package chunkserver

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencurve/curve-nbd/backend/disk"
)

// lockDir makes the directory at path, if need be, and locks it. backend.ErrBusy,
// naming the holder, when another process has it.
func lockDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, disk.Error("make the data directory", err)
	}
	f, err := disk.TakeLock(filepath.Join(path, lockName), "chunkserver")
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	}
	return f, nil
}

func unlockDir(f *os.File) error {
	if f == nil {
		return nil
	}
	return disk.ReleaseLock(f)
}
