package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process of this machine. It cannot be mistaken for a later one
// with the same number.
type Process struct {
	Pid int
	fd  int // pidfd
}

// confirmWithin bounds the wait for a signal to have its effect.
const confirmWithin = 10 * time.Second

// FindProcess takes hold of a running process. Close gives it back.
func FindProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &Process{Pid: pid, fd: fd}, nil
}

// Close lets go of the process, and leaves it as it is.
func (p *Process) Close() error { return unix.Close(p.fd) }

// Stop is SIGSTOP; when it returns the process has stopped.
func (p *Process) Stop() error { return p.signal(unix.SIGSTOP, func(s byte) bool { return s == 'T' }) }

// Continue is SIGCONT; when it returns the process is not stopped.
func (p *Process) Continue() error {
	return p.signal(unix.SIGCONT, func(s byte) bool { return s != 'T' })
}

func (p *Process) signal(s unix.Signal, confirmed func(state byte) bool) error {
	if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil {
		return fmt.Errorf("%v to process %d: %w", s, p.Pid, err)
	}
	deadline := time.Now().Add(confirmWithin)
	for {
		state, err := p.state()
		switch {
		case err != nil:
			return fmt.Errorf("%v to process %d: %w", s, p.Pid, err)
		case confirmed(state):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%v to process %d: it is in state %c after %v", s, p.Pid, state, confirmWithin)
		}
		time.Sleep(time.Millisecond / 2) // the kernel tells of a stop only to the parent
	}
}

// state is the letter of /proc/PID/stat, behind the name in parentheses.
func (p *Process) state() (byte, error) {
	if p.Exited() {
		return 'X', nil
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/stat")
	if err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || len(stat) < i+3 {
		return 0, fmt.Errorf("/proc/%d/stat reads %q", p.Pid, stat)
	}
	return stat[i+2], nil
}

// Kill is SIGKILL; when it returns the process has ended, with all its
// connections and files closed. Whoever started it must still reap it.
func (p *Process) Kill() error {
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	if !p.ended(confirmWithin) {
		return fmt.Errorf("kill process %d: it is still there after %v", p.Pid, confirmWithin)
	}
	return nil
}

// Exited says whether the process has ended.
func (p *Process) Exited() bool { return p.ended(0) }

func (p *Process) ended(within time.Duration) bool {
	deadline := time.Now().Add(within)
	for {
		poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline)).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}
