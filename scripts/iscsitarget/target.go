package iscsitarget

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a target may take to start or to stop.
const patience = 20 * time.Second

// Options say what to start.
type Options struct {
	// Program is curve-nbd, for Ours.
	Program string
	// Serve are the flags of serve that name the backend.
	Serve []string
	// Dir is where sockets and files go; Store, if set, where files with the data of
	// a unit go.
	Dir, Store string
	// Units is how many targets there are, each with one unit of its own: resets of
	// one do not disturb the others.
	Units      int
	MiB        int
	BlockBytes int
	// Removable and PhysicalBytes are what the units say of themselves, as far as the
	// target can be told; 0 leaves the latter to it.
	Removable     bool
	PhysicalBytes int
	// ReadOnly makes one unit more, which nobody may write.
	ReadOnly bool
}

// Target is a target that runs.
type Target struct {
	Name string
	// URLs are its units, as libiscsi writes them.
	URLs []string
	// ReadOnlyURL is the unit that nobody may write, if there is one.
	ReadOnlyURL string

	cmd    *exec.Cmd
	exited chan struct{}
	deaf   bool   // to SIGTERM
	down   func() // what is to do besides

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// Write notes what the process says.
func (t *Target) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log.Write(p)
}

// Log is what the process has said.
func (t *Target) Log() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log.String()
}

// PID is its process.
func (t *Target) PID() int { return t.cmd.Process.Pid }

// Alive is false once the process is gone.
func (t *Target) Alive() bool {
	select {
	case <-t.exited:
		return false
	default:
		return true
	}
}

// offers notes a unit: those that were asked for, then the one that is read-only.
func (t *Target) offers(o Options, i int, url string) {
	if i == o.Units {
		t.ReadOnlyURL = url
		return
	}
	t.URLs = append(t.URLs, url)
}

// Stop ends it, by force if it does not end when asked.
func (t *Target) Stop() {
	if t.cmd == nil {
		return
	}
	wait := patience
	if _ = t.cmd.Process.Signal(syscall.SIGTERM); t.deaf {
		wait = 0
	}
	select {
	case <-t.exited:
	case <-time.After(wait):
		t.Kill()
	}
	if t.down != nil {
		t.down()
	}
}

// Kill ends it at once.
func (t *Target) Kill() {
	_ = t.cmd.Process.Kill()
	<-t.exited
}

// launch starts a process that dies with this one.
func (t *Target) launch(argv ...string) error {
	t.cmd = exec.Command(argv[0], argv[1:]...)
	t.cmd.Stdout, t.cmd.Stderr = t, t
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := t.cmd.Start(); err != nil {
		return err
	}
	t.exited = make(chan struct{})
	go func() {
		defer close(t.exited)
		_ = t.cmd.Wait()
	}()
	return nil
}

// await asks until the answer is yes, or the process is gone.
func (t *Target) await(what string, yes func() bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if yes() {
			return nil
		}
		if !t.Alive() {
			return fmt.Errorf("%s has ended before %s: %s", t.Name, what, t.Log())
		}
	}
	return fmt.Errorf("%s: not within %v: %s: %s", t.Name, patience, what, t.Log())
}

// freePort is one that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func iqn(unit int) string { return "iqn.2026-11.io.curve:unit" + strconv.Itoa(unit) }

// run runs a command that must succeed.
func run(argv ...string) error {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// stopOn stops a target that could not be set up, and passes the reason on.
func (t *Target) stopOn(err error) (*Target, error) {
	if err == nil {
		return t, nil
	}
	if t.cmd != nil && t.cmd.Process != nil {
		t.Kill()
	}
	if t.down != nil {
		t.down()
	}
	return nil, err
}
