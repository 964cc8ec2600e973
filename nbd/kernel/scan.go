package kernel

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Scan has the kernel look which partitions a device has, if it has come or gone: the
// first who opens it after that makes it look, and does so here rather than whenever.
// When ctx ends first, the kernel goes on looking.
func (s System) Scan(ctx context.Context, index int) error {
	done := make(chan error, 1)
	go func() {
		fd, err := unix.Open(s.path(DevicePath(index)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		done <- os.NewSyscallError("open", err)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s does not answer: %w", DevicePath(index), ctx.Err())
	}
}
