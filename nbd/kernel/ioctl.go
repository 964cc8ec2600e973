package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// Ioctl drives the nbd driver by ioctl, for kernels whose driver has no generic
// netlink and for network namespaces that do not see it. Such a device has a thread
// of this process in the kernel for as long as it is connected, and goes with it:
// broken sockets are not replaced, and no other process can take it over.
//
// Config.Backend counts for nothing, nor does Config.Timeout, as there is no other
// socket to send a request again on. Safe for concurrent use; the zero value is ready.
type Ioctl struct {
	system System

	mu   sync.Mutex
	held map[int]*holding
}

// holding is a device with its thread.
type holding struct {
	blockSize int64
	// ended is closed when the kernel has let go of the sockets, and err set before.
	ended chan struct{}
	err   error

	mu sync.Mutex // guards that what is below is open
	fd int
	// sockets are references of the kernel's ends.
	sockets []int
	closed  bool
}

const (
	// connectPoll is how often the kernel is asked whether the thread is in there.
	connectPoll = 2 * time.Millisecond
	// ioctlTimeoutMost is in the range of the driver's 32-bit clock.
	ioctlTimeoutMost = 30 * 24 * time.Hour
)

// Connect makes a device of c and returns its index. backend.ErrBusy when the device
// is connected already, or all are.
func (d *Ioctl) Connect(c Config) (index int, err error) {
	candidates := []int{c.Index}
	if c.Index == AnyDevice {
		if candidates, err = d.system.Devices(); err != nil {
			return 0, err
		}
	}
	for _, index := range candidates {
		h, err := d.hold(index, c)
		if errors.Is(err, backend.ErrBusy) && c.Index == AnyDevice {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("connect %s by ioctl: %w", DevicePath(index), err)
		}
		d.mu.Lock()
		if d.held == nil {
			d.held = make(map[int]*holding)
		}
		d.held[index] = h
		d.mu.Unlock()
		return index, nil
	}
	return 0, fmt.Errorf("%w: all %d nbd devices are connected: load the module with a larger nbds_max", backend.ErrBusy, len(candidates))
}

// hold connects one device, and returns once the kernel shows it.
func (d *Ioctl) hold(index int, c Config) (*holding, error) {
	if st, err := d.system.State(index); err != nil || st.Connected {
		return nil, errors.Join(err, fmt.Errorf("%w: it is connected already", backend.ErrBusy))
	}
	fd, err := unix.Open(d.system.path(DevicePath(index)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	h := &holding{fd: fd, blockSize: c.BlockSize, ended: make(chan struct{})}
	for _, socket := range c.Sockets {
		duplicate, err := unix.FcntlInt(socket.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			h.close()
			return nil, os.NewSyscallError("dup", err)
		}
		h.sockets = append(h.sockets, duplicate)
	}
	go h.run(c)
	for {
		select {
		case <-h.ended:
			if h.err == nil {
				h.err = errors.New("its sockets broke at once")
			}
			return nil, h.err
		case <-time.After(connectPoll):
			if st, err := d.system.State(index); err == nil && st.Connected {
				return h, nil
			}
		}
	}
}

// run is the life of the device's thread. The driver takes the sockets of one thread
// only, which then waits in the kernel for their end; a signal would end the wait.
func (h *holding) run(c Config) {
	runtime.LockOSThread() // and the thread ends with this function, signal mask and all
	defer close(h.ended)
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if h.err = unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); h.err == nil {
		h.err = h.serve(c)
	}
	h.close()
}

func (h *holding) serve(c Config) error {
	steps := make([]ioctlStep, 0, len(h.sockets)+5)
	for _, socket := range h.sockets {
		steps = append(steps, ioctlStep{"NBD_SET_SOCK", ioctlSetSocket, socket})
	}
	steps = append(steps,
		ioctlStep{"NBD_SET_BLKSIZE", ioctlSetBlockSize, int(c.BlockSize)},
		ioctlStep{"NBD_SET_SIZE_BLOCKS", ioctlSetBlocks, int(c.Size / c.BlockSize)},
		ioctlStep{"NBD_SET_TIMEOUT", ioctlSetTimeout, int(seconds(min(c.DeadTimeout, ioctlTimeoutMost)))},
		ioctlStep{"NBD_SET_FLAGS", ioctlSetFlags, int(serverFlags(c))},
		ioctlStep{"NBD_DO_IT", ioctlDoIt, 0},
	)
	for i, s := range steps {
		err := s.do(h.fd)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("%w: another process has it: %w", backend.ErrBusy, err)
		}
		if i > 0 { // the device is ours
			err = errors.Join(err, ioctlStep{"NBD_CLEAR_SOCK", ioctlClearSocket, 0}.do(h.fd))
		}
		return err
	}
	// What was under way fails, and the size becomes 0.
	return ioctlStep{"NBD_CLEAR_SOCK", ioctlClearSocket, 0}.do(h.fd)
}

// ioctlStep is one ioctl, by its name in linux/nbd.h.
type ioctlStep struct {
	name    string
	request uint
	value   int
}

func (s ioctlStep) do(fd int) error {
	return os.NewSyscallError(s.name, unix.IoctlSetInt(fd, s.request, s.value))
}

// close gives up what the device is held by; the driver lets go of it with the last
// who has it open.
func (h *holding) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, socket := range h.sockets {
		_ = unix.Close(socket)
	}
	_ = unix.Close(h.fd)
}

// Reconfigure is more than ioctls can. backend.ErrNotSupported.
func (d *Ioctl) Reconfigure(c Config) error {
	return fmt.Errorf("%w: %s is attached by ioctl, and cannot get fresh sockets", backend.ErrNotSupported, DevicePath(c.Index))
}

// Resize sets the size of a connected device.
func (d *Ioctl) Resize(index int, _ string, size int64) error {
	d.mu.Lock()
	h := d.held[index]
	d.mu.Unlock()
	if h == nil {
		return fmt.Errorf("%w: %s is not connected by this process", backend.ErrNotFound, DevicePath(index))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("%w: %s is not connected any more", backend.ErrNotFound, DevicePath(index))
	}
	if err := (ioctlStep{"NBD_SET_SIZE_BLOCKS", ioctlSetBlocks, int(size / h.blockSize)}).do(h.fd); err != nil {
		return fmt.Errorf("resize %s to %d bytes: %w", DevicePath(index), size, err)
	}
	return nil
}

// Disconnect takes the device down; what waits for it fails. No error when it is
// not connected. It does not ask the kernel, which would wait for a socket that is
// full, but breaks the sockets.
func (d *Ioctl) Disconnect(index int) error {
	d.mu.Lock()
	h := d.held[index]
	delete(d.held, index)
	d.mu.Unlock()
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	var errs []error
	for _, socket := range h.sockets {
		if err := unix.Shutdown(socket, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			errs = append(errs, os.NewSyscallError("shutdown", err))
		}
	}
	return errors.Join(errs...)
}
