package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
)

// What a process that claims a device says first, on a line: claimed, busy, or what
// went wrong.
const (
	saysClaimed = "claimed"
	saysBusy    = "busy"
)

// Flush claims a device, so that nobody can mount it or build on it until release,
// and writes the kernel's cache of it back. backend.ErrBusy when somebody has
// claimed it. When ctx ends first, the device is let go once the flush is over.
//
// Another process does it, System.Claimer: who waits for a device in the kernel cannot
// be killed. Were that the process which serves the device, nobody else could ever.
func (s System) Flush(ctx context.Context, index int) (release func(), err error) {
	cmd := exec.Command(s.Claimer[0], append(s.Claimer[1:len(s.Claimer):len(s.Claimer)], s.path(DevicePath(index)))...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("flush %s: %w", DevicePath(index), err)
	}
	release = func() {
		_ = in.Close()                 // it ends
		go func() { _ = cmd.Wait() }() // whenever that is
	}
	says := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			line = "the process that claims it: " + err.Error()
		}
		says <- strings.TrimSpace(line)
	}()
	select {
	case line := <-says:
		switch line {
		case saysClaimed:
			return release, nil
		case saysBusy:
			err = fmt.Errorf("%w: %s", backend.ErrBusy, DevicePath(index))
		default:
			err = fmt.Errorf("flush %s: %s", DevicePath(index), line)
		}
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		err = fmt.Errorf("%s does not answer: %w: the volume may be stalled; --force gives what is unwritten up", DevicePath(index), ctx.Err())
	}
	release()
	return nil, err
}

// Claim is what System.Claimer does: it claims and flushes a device, says so, and keeps
// it until in ends.
func Claim(device string, in io.Reader, out io.Writer) error {
	_ = os.WriteFile("/proc/self/comm", []byte("curve-nbd"), 0) // for whom it is in the way
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		fd, err = unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		defer unix.Close(fd)
		err = os.NewSyscallError("fsync", unix.Fsync(fd))
	}
	line := saysClaimed
	switch {
	case errors.Is(err, unix.EBUSY):
		line = saysBusy
	case err != nil:
		line = err.Error()
	}
	if _, err := fmt.Fprintln(out, line); err != nil {
		return err // nobody wants to know any more
	}
	_, err = io.Copy(io.Discard, in)
	return err
}
