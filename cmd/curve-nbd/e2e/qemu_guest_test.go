package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// guest is a Linux of scripts/qemu-guest.sh in QEMU, whose root file system is the disk
// under test. It obeys commands by its second serial port; see scripts/qemu/init.
type guest struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.Writer
	stderr bytes.Buffer // to be read once it has exited
	// console is the file of the first serial port, the kernel's.
	console string
	exited  chan struct{}
	// written is the sum of each file as it was last written, for all guests of a disk.
	written map[string]string

	mu       sync.Mutex // guards what follows
	writes   int
	last     map[string]time.Time // a writer wrote
	longest  time.Duration        // between two writes of one writer, since it was asked last
	words    map[string]int
	sums     map[string]string
	log      []string
	failures []string
}

// guestFiles is where scripts/qemu-guest.sh put what a guest boots from.
type guestFiles struct{ dir string }

func (f guestFiles) root() string { return filepath.Join(f.dir, "root.img") }

// boot starts a guest with a disk, which it calls root, and waits until its init says
// that it runs. written is what files the disk has.
func (f guestFiles) boot(t *testing.T, root string, written map[string]string, disk ...string) *guest {
	t.Helper()
	g := &guest{
		t: t, console: filepath.Join(t.TempDir(), "console"), exited: make(chan struct{}),
		written: written, last: map[string]time.Time{}, words: map[string]int{}, sums: map[string]string{},
	}
	g.cmd = exec.Command("qemu-system-x86_64", append([]string{
		"-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(f.dir, "vmlinuz"), "-initrd", filepath.Join(f.dir, "initrd"),
		"-append", "console=ttyS0 rw loglevel=5 panic=-1 no_timer_check root=" + root,
		"-serial", "file:" + g.console, "-serial", "stdio",
	}, disk...)...)
	g.cmd.Stderr = &g.stderr
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.exited)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			g.line(lines.Text())
		}
		_ = g.cmd.Wait() // the code is in ProcessState
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.exited
		if t.Failed() {
			console, _ := os.ReadFile(g.console)
			t.Logf("QEMU said:\n%s\nthe guest's console:\n%s\nits kernel's log:\n%s", g.stderr.String(), console, strings.Join(g.log, "\n"))
		}
	})
	g.await("booted")
	t.Logf("booted after %v", time.Since(begun).Round(time.Second))
	return g
}

// line takes in what the guest says.
func (g *guest) line(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	word, rest, _ := strings.Cut(text, " ")
	fields := strings.Fields(rest)
	switch {
	case word == "wrote" && len(fields) == 2:
		g.written[fields[0]] = fields[1]
		writer, _, _ := strings.Cut(fields[0], "-")
		now := time.Now()
		if last, ok := g.last[writer]; ok {
			g.longest = max(g.longest, now.Sub(last))
		}
		g.last[writer] = now
		g.writes++
	case word == "sum" && len(fields) == 2:
		g.sums[fields[0]] = fields[1]
	case word == "log":
		g.log = append(g.log, rest)
	case strings.HasPrefix(word, "failed"):
		g.failures = append(g.failures, text)
	}
	g.words[word]++
}

// until waits for cond, which is called with the lock held, and ends the test when the
// guest fails before that.
func (g *guest) until(what string, cond func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; time.Sleep(5 * time.Millisecond) {
		g.mu.Lock()
		met, failures := cond(), slices.Clone(g.failures)
		g.mu.Unlock()
		switch {
		case len(failures) > 0:
			g.t.Fatalf("in the guest: %s", strings.Join(failures, "\n"))
		case met:
			return
		case time.Now().After(deadline):
			g.t.Fatalf("the guest: no %s within %v", what, 2*patience)
		}
		select {
		case <-g.exited:
			g.t.Fatalf("the guest ended before it was %s", what)
		default:
		}
	}
}

// await waits until the guest has said a word for the first time.
func (g *guest) await(word string) {
	g.t.Helper()
	g.until(word, func() bool { return g.words[word] > 0 })
}

// do gives a command and waits for the word that answers it.
func (g *guest) do(command, answer string) {
	g.t.Helper()
	g.mu.Lock()
	delete(g.words, answer)
	g.mu.Unlock()
	g.tell(command)
	g.await(answer)
}

func (g *guest) tell(command string) {
	g.t.Helper()
	if _, err := fmt.Fprintln(g.in, command); err != nil {
		g.t.Fatal(err)
	}
}

// progress waits for n more writes than now.
func (g *guest) progress(n int) {
	g.t.Helper()
	g.mu.Lock()
	target := g.writes + n
	g.mu.Unlock()
	g.until(fmt.Sprintf("%d writes", n), func() bool { return g.writes >= target })
}

// pause is the longest time in which a writer has written nothing since it was asked
// last. The guest's clock has no say in it.
func (g *guest) pause() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	longest := g.longest
	g.longest = 0
	return longest.Round(10 * time.Millisecond)
}

// load starts the writers, which do not end before rest.
func (g *guest) load() {
	g.t.Helper()
	g.mu.Lock()
	clear(g.last)
	g.mu.Unlock()
	g.tell("load")
}

func (g *guest) rest() {
	g.t.Helper()
	g.do("rest", "rested")
}

// verify makes the guest read every file from the disk, and compares.
func (g *guest) verify() {
	g.t.Helper()
	g.mu.Lock()
	clear(g.sums)
	g.mu.Unlock()
	g.do("verify", "verified")
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.written) == 0 {
		g.t.Error("nothing was written")
	}
	for name, sum := range g.written {
		if g.sums[name] != sum {
			g.t.Errorf("%s has the sum %q, what was written has %q", name, g.sums[name], sum)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.sums)) {
		if g.written[name] == "" {
			g.t.Errorf("there is %s, which was not written", name)
		}
	}
}

// complaints are what a kernel says when a disk fails or is slow beyond reason.
var complaints = []string{"i/o error", "ext4-fs error", "ext4-fs warning", "ext4-fs (", "remounting", "aborted", "blocked for more", "rejecting i/o", "medium error", "hardware error", "sense key", "call trace", "] bug:"}

// noComplaints reads the kernel's log.
func (g *guest) noComplaints() {
	g.t.Helper()
	g.mu.Lock()
	g.log = nil
	g.mu.Unlock()
	g.do("kernel", "logged")
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.log) == 0 {
		g.t.Error("the kernel's log is empty")
	}
	for _, line := range g.log {
		for _, c := range complaints {
			if strings.Contains(strings.ToLower(line), c) && !strings.Contains(line, "mounted filesystem") {
				g.t.Errorf("the guest's kernel: %s", line)
				break
			}
		}
	}
}

// powerOff ends the guest, and returns what QEMU said in its life.
func (g *guest) powerOff() string {
	g.t.Helper()
	g.tell("poweroff")
	select {
	case <-g.exited:
	case <-time.After(patience):
		g.t.Fatal("the guest does not power off")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 || g.words["off"] == 0 || len(g.failures) > 0 {
		g.t.Fatalf("QEMU ended with exit code %d: %v\n%s", code, g.failures, g.stderr.String())
	}
	return g.stderr.String()
}
