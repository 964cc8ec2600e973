package kernel

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// Flush claims a device, so that nobody can mount it or build on it until release,
// and writes the kernel's cache of it back. backend.ErrBusy when somebody has
// claimed it. When ctx ends first, the device is let go once the flush is over.
func (s System) Flush(ctx context.Context, index int) (release func(), err error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		fd, err := unix.Open(s.path(DevicePath(index)), unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			fd, err = unix.Open(s.path(DevicePath(index)), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			if err = unix.Fsync(fd); err != nil {
				_ = unix.Close(fd)
			}
		}
		done <- result{fd, err}
	}()
	select {
	case r := <-done:
		switch {
		case errors.Is(r.err, unix.EBUSY):
			return nil, fmt.Errorf("%w: %s", backend.ErrBusy, DevicePath(index))
		case r.err != nil:
			return nil, fmt.Errorf("flush %s: %w", DevicePath(index), r.err)
		}
		return func() { _ = unix.Close(r.fd) }, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = unix.Close(r.fd)
			}
		}()
		return nil, fmt.Errorf("%s does not answer: %w: the volume may be stalled; --force gives what is unwritten up", DevicePath(index), ctx.Err())
	}
}
