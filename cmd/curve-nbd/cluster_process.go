package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processID names a process for ever: the kernel gives a pid to others later,
// but not with the same start time in the same boot. The zero value names none.
type processID struct {
	PID int `json:"pid"`
	// StartTicks is when it started, in the kernel's clock ticks since boot.
	StartTicks uint64 `json:"start_ticks"`
	// BootID is the kernel's random number of that boot.
	BootID string `json:"boot_id"`
}

// errNoProcess: the process has ended, or its pid is another's now.
var errNoProcess = errors.New("the process has ended")

// exitPoll is how often awaitExit looks; it bounds what a stop takes longer than
// it must.
const exitPoll = 5 * time.Millisecond

// identify returns the identity of the process that has pid now, which the caller
// knows to be alive. errNoProcess for one that has ended, zombies included: what
// nobody waits for is as dead as the rest.
func identify(pid int) (processID, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return processID{}, errNoProcess
	case err != nil:
		return processID{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	found, err := parseStat(stat)
	if err != nil {
		return processID{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	if found.ended() {
		return processID{}, errNoProcess
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return processID{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return processID{PID: pid, StartTicks: found.startTicks, BootID: strings.TrimSpace(string(boot))}, nil
}

// processStat is what is of interest in /proc/PID/stat.
type processStat struct {
	state      byte
	threads    uint64
	startTicks uint64
}

// ended says whether nothing of the process is left but its entry. Its first
// thread, for which the state is, may be a zombie while others still hold its files
// and ports.
func (s processStat) ended() bool {
	return s.state == 'X' || s.state == 'Z' && s.threads <= 1
}

// parseStat reads fields 3, 20 and 22 of proc(5). Field 2 is the program's name in
// parentheses, and may hold spaces and parentheses itself.
func parseStat(stat []byte) (s processStat, err error) {
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 || len(fields[0]) != 1 {
		return s, fmt.Errorf("its stat is not what proc(5) says: %q", stat)
	}
	s.state = fields[0][0]
	var threadsErr error
	s.threads, threadsErr = strconv.ParseUint(fields[17], 10, 64)
	s.startTicks, err = strconv.ParseUint(fields[19], 10, 64)
	return s, errors.Join(threadsErr, err)
}

// alive says whether the process still runs.
func (p processID) alive() bool {
	now, err := identify(p.PID)
	return p.PID > 0 && err == nil && now == p
}

// signal sends a signal to that process and to no other, however soon its pid is
// used again. errNoProcess when it has ended.
func (p processID) signal(sig syscall.Signal) error {
	if p.PID <= 0 {
		return errNoProcess
	}
	// The handle is the kernel's own: looked at after it was taken, it stays with
	// the process that was looked at.
	handle, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return errNoProcess
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(handle)
	if !p.alive() {
		return errNoProcess
	}
	err = unix.PidfdSendSignal(handle, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errNoProcess
	}
	if err != nil {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// awaitExit waits until the process has ended.
func (p processID) awaitExit(ctx context.Context) error {
	tick := time.NewTicker(exitPoll)
	defer tick.Stop()
	for p.alive() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// maxLogBytes is when a server's log moves aside at its next start; one older
// log is kept.
const maxLogBytes = 64 << 20

// child is a server that this process has started.
type child struct {
	processID
	exited chan struct{} // closed once code is set
	code   int           // -1 for one that a signal ended
}

// spawn starts a program that outlives this one: in a session of its own, so that
// neither Ctrl-C nor the end of the terminal reaches it, with its output appended
// to logPath, and without this program's settings. Variables in env are for the
// program unless this one's environment has them already.
func spawn(program string, args []string, dir, logPath string, env ...string) (*child, error) {
	if info, err := os.Stat(logPath); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(logPath, logPath+".old"); err != nil {
			return nil, err
		}
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(env, serverEnv(os.Environ())...) // the last of a name counts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{exited: make(chan struct{})}
	// Until somebody waits for it, its pid is its own, even if it has ended.
	c.processID, err = identify(cmd.Process.Pid)
	if err != nil && !errors.Is(err, errNoProcess) {
		err = errors.Join(err, cmd.Process.Kill())
	} else {
		err = nil
	}
	// The goroutine ends with the child, or with this program.
	go func() {
		defer close(c.exited)
		_ = cmd.Wait() // the code is in ProcessState
		c.code = cmd.ProcessState.ExitCode()
	}()
	return c, err
}

// serverEnv drops what is meant for this program: settings, which the servers get
// as flags, and the service manager's socket.
func serverEnv(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, "CURVE_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			kept = append(kept, v)
		}
	}
	return kept
}
