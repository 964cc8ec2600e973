package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testPatience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	t.Cleanup(cancel)
	return ctx
}

// sleeper is a child that runs until it is ended.
func sleeper(t *testing.T) *child {
	t.Helper()
	dir := t.TempDir()
	c, err := spawn("/bin/sh", []string{"-c", "echo up; exec sleep 1000"}, dir, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.signal(syscall.SIGKILL); err != nil && !errors.Is(err, errNoProcess) {
			t.Error(err)
		}
		<-c.exited
	})
	return c
}

func TestProcessIsKnownUntilItEnds(t *testing.T) {
	c := sleeper(t)
	if !c.alive() {
		t.Fatalf("process %d runs, and is said not to", c.PID)
	}
	if err := c.signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.awaitExit(testContext(t)); err != nil {
		t.Fatal(err)
	}
	<-c.exited
	if c.code != -1 || c.alive() {
		t.Errorf("exit code %d, want -1 for a signal; alive %t", c.code, c.alive())
	}
	if err := c.signal(syscall.SIGTERM); !errors.Is(err, errNoProcess) {
		t.Errorf("signal to a process that ended: %v", err)
	}
}

// The pid of a server that ended may be anybody's after a while.
func TestReusedPIDIsNeverSignalled(t *testing.T) {
	c := sleeper(t)
	for _, other := range []processID{
		{PID: c.PID, StartTicks: c.StartTicks - 1, BootID: c.BootID},
		{PID: c.PID, StartTicks: c.StartTicks, BootID: "of another boot"},
		{PID: c.PID},
		{},
		{PID: -1}, // to kill(2) that would be everybody
	} {
		if other.alive() {
			t.Errorf("%+v is taken for %+v", other, c.processID)
		}
		if err := other.signal(syscall.SIGKILL); !errors.Is(err, errNoProcess) {
			t.Errorf("%+v: %v", other, err)
		}
	}
	if !c.alive() {
		t.Error("the wrong process was killed")
	}
}

func TestZombieCountsAsEnded(t *testing.T) {
	cmd := exec.Command("/bin/cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	// Nobody has waited for it yet.
	if err := id.awaitExit(testContext(t)); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestProgramNameCannotForgeStartTime(t *testing.T) {
	stat := "77 (a) R 1 2 (b) ) S 1 77 77 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 12 0 4242 1000 200 18446744073709551615"
	found, err := parseStat([]byte(stat))
	if want := (processStat{state: 'S', threads: 12, startTicks: 4242}); err != nil || found != want {
		t.Errorf("found %+v, %v; want %+v", found, err, want)
	}
	for _, bad := range []string{"", "77 (x", "77 (x) S 1 2", "77 (x) S" + strings.Repeat(" x", 30)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// A server that was killed has ports until its last thread is gone.
func TestProcessEndsWithItsLastThread(t *testing.T) {
	for _, c := range []struct {
		state   byte
		threads uint64
		ended   bool
	}{{'S', 8, false}, {'D', 1, false}, {'T', 8, false}, {'Z', 3, false}, {'Z', 1, true}, {'Z', 0, true}, {'X', 1, true}} {
		if s := (processStat{state: c.state, threads: c.threads}); s.ended() != c.ended {
			t.Errorf("state %c, %d threads: ended %t", c.state, c.threads, s.ended())
		}
	}
}

// TestKilledServerIsGoneWithItsFiles: what a stop has waited for can be started
// again at once.
func TestKilledServerIsGoneWithItsFiles(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		logPath := filepath.Join(dir, "log")
		// This binary has many threads, each of which may be the last one.
		c, err := spawn(os.Args[0], []string{"-test.run=^TestHelperHoldsALock$", "-lock=" + filepath.Join(dir, "lock")}, dir, logPath)
		if err != nil {
			t.Fatal(err)
		}
		for ctx := testContext(t); ; {
			if b, err := os.ReadFile(logPath); err == nil && strings.Contains(string(b), "locked") {
				break
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.awaitExit(testContext(t)); err != nil {
			t.Fatal(err)
		}
		lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Errorf("a process that is said to have ended holds its lock: %v", err)
		}
		lock.Close()
		<-c.exited
	}
}

var lockFlag = flag.String("lock", "", "for TestHelperHoldsALock alone: the file to lock")

// TestHelperHoldsALock is the server of TestKilledServerIsGoneWithItsFiles.
func TestHelperHoldsALock(t *testing.T) {
	if *lockFlag == "" {
		return
	}
	lock, err := os.Create(*lockFlag)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for range 32 { // threads that are in the middle of a system call
		go func() {
			file, err := os.CreateTemp(filepath.Dir(*lockFlag), "busy")
			if err != nil {
				return
			}
			block := make([]byte, 1<<20)
			for {
				if _, err := file.WriteAt(block, 0); err != nil || file.Sync() != nil {
					return
				}
			}
		}()
	}
	os.Stdout.WriteString("locked\n")
	select {}
}

func TestSpawnedServerHasASessionAndALogOfItsOwn(t *testing.T) {
	t.Setenv("CURVE_DATA_DIR", "/nonsense")
	t.Setenv("NOTIFY_SOCKET", "/nonsense")
	t.Setenv("KEPT_VARIABLE", "kept")
	dir := t.TempDir()
	logPath := filepath.Join(dir, "log")
	if err := os.WriteFile(logPath, []byte("earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := spawn("/bin/sh", []string{"-c", `cut -d" " -f6 /proc/$$/stat; pwd; env; echo oops >&2; exit 3`}, dir, logPath,
		"GIVEN_VARIABLE=given", "KEPT_VARIABLE=overwritten")
	if err != nil {
		t.Fatal(err)
	}
	<-c.exited
	if c.code != 3 {
		t.Errorf("exit code %d, want 3", c.code)
	}
	log, err := os.Open(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var lines []string
	for s := bufio.NewScanner(log); s.Scan(); {
		lines = append(lines, s.Text())
	}
	realDir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"earlier", pidText(c.PID), realDir}
	if len(lines) < 4 || !slices.Equal(lines[:3], want) {
		t.Errorf("log begins with %q, want %q: old log, session, directory", lines[:min(3, len(lines))], want)
	}
	all := strings.Join(lines, "\n")
	if strings.Contains(all, "nonsense") || !strings.Contains(all, "KEPT_VARIABLE=kept") ||
		!strings.Contains(all, "GIVEN_VARIABLE=given") || strings.Contains(all, "overwritten") || !strings.HasSuffix(all, "oops") {
		t.Errorf("environment or stderr are wrong:\n%s", all)
	}
}

func TestLogThatGrewLargeMovesAside(t *testing.T) {
	dir := t.TempDir()
	logPath := filepath.Join(dir, "log")
	if err := os.WriteFile(logPath, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(logPath, maxLogBytes+1); err != nil {
		t.Fatal(err)
	}
	c, err := spawn("/bin/echo", []string{"new"}, dir, logPath)
	if err != nil {
		t.Fatal(err)
	}
	<-c.exited
	if b, err := os.ReadFile(logPath); err != nil || string(b) != "new\n" {
		t.Errorf("log holds %d bytes, %v", len(b), err)
	}
	if info, err := os.Stat(logPath + ".old"); err != nil || info.Size() != maxLogBytes+1 {
		t.Errorf("the old log is gone: %v", err)
	}
}

func TestStopWakesAStoppedServer(t *testing.T) {
	c := sleeper(t)
	if err := c.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	file := clusterFile{Members: []member{{ID: "cs1", Role: roleChunkserver, Process: c.processID}}}
	var notes strings.Builder
	if err := stopMembers(testContext(t), &notes, &file, syscall.SIGTERM, "cs1"); err != nil || c.alive() {
		t.Errorf("%v; alive %t; %s", err, c.alive(), notes.String())
	}
}

func TestStopThatTakesTooLongSaysWhoIsLeft(t *testing.T) {
	dir := t.TempDir()
	logPath := filepath.Join(dir, "log")
	c, err := spawn("/bin/sh", []string{"-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"}, dir, logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { <-c.exited }()
	defer c.signal(syscall.SIGKILL)
	for ctx := testContext(t); ; {
		if b, err := os.ReadFile(logPath); err != nil {
			t.Fatal(err)
		} else if len(b) > 0 {
			break
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	file := clusterFile{Members: []member{{ID: "cs1", Role: roleChunkserver, Process: c.processID}}}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var notes strings.Builder
	err = stopMembers(ctx, &notes, &file, syscall.SIGTERM)
	if err == nil || !strings.Contains(err.Error(), "cs1") || !strings.Contains(err.Error(), "--kill") {
		t.Errorf("got %v, want one that names cs1 and --kill", err)
	}
}
