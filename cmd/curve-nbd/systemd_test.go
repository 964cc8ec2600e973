package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A ping follows a check that passed, and nothing else.
func TestWatchdogHearsOnlyOfPassedChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	on, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	script := []error{nil, errors.New("stuck"), errors.New("stuck"), nil, errors.New("stuck"), nil}
	passed := 0
	s := &server{log: slog.New(slog.DiscardHandler)}
	s.beat(ctx, func(checking context.Context) error {
		if _, bounded := checking.Deadline(); !bounded {
			t.Error("a check may hang for ever")
		}
		if len(script) == 0 {
			cancel()
			return nil
		}
		err := script[0]
		script = script[1:]
		if err == nil {
			passed++
		}
		return err
	})
	var heard []string
	b := make([]byte, 100)
	for {
		on.SetReadDeadline(time.Now().Add(time.Millisecond)) // all has been sent by now
		n, err := on.Read(b)
		if err != nil {
			break
		}
		heard = append(heard, string(b[:n]))
	}
	if want := slices.Repeat([]string{"WATCHDOG=1"}, passed); passed != 3 || !slices.Equal(heard, want) {
		t.Errorf("systemd heard %q after %d checks that passed", heard, passed)
	}
}

func TestNoWatchdogNoChecks(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	s := &server{log: slog.New(slog.DiscardHandler)}
	s.beat(t.Context(), func(context.Context) error {
		t.Error("checked for nobody")
		return nil
	})
}

func TestBackgroundFlagIsTakenOut(t *testing.T) {
	for _, c := range []struct {
		name       string
		given, got []string
	}{
		{"as it is written", []string{"serve", "--replace", "--background"}, []string{"serve", "--replace"}},
		{"with one dash", []string{"serve", "-background", "--memory"}, []string{"serve", "--memory"}},
		{"with a value", []string{"serve", "--background=true"}, []string{"serve"}},
		{"what only looks like it", []string{"serve", "--data-dir", "background", "--backgrounds"}, []string{"serve", "--data-dir", "background", "--backgrounds"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := withoutBackground(c.given); !slices.Equal(got, c.got) {
				t.Errorf("%q, want %q", got, c.got)
			}
		})
	}
}

func TestChildIsWatchedAsItsPredecessorWas(t *testing.T) {
	watched := exec.Command("sleep", "1000")
	watched.Env = []string{"WATCHDOG_USEC=7000000", "WATCHDOG_PID=1"}
	if err := watched.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { watched.Process.Kill(); watched.Wait() }()
	main := fmt.Sprintf("MAINPID=%d", watched.Process.Pid)
	for { // it has an environment only some time after its start
		if theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", watched.Process.Pid)); err != nil {
			t.Fatal(err)
		} else if len(theirs) > 0 {
			break
		}
	}
	for _, c := range []struct {
		name       string
		given, got []string
	}{
		{"no service", []string{"A=b"}, []string{"A=b"}},
		{"another's watchdog", []string{"WATCHDOG_PID=12", "WATCHDOG_USEC=5"}, []string{"WATCHDOG_USEC=5"}},
		{"the main process's", []string{"A=b", main}, []string{"A=b", main, "WATCHDOG_USEC=7000000"}},
		{"a main process that is gone", []string{"MAINPID=999999999"}, []string{"MAINPID=999999999"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := childEnv(c.given); !slices.Equal(got, c.got) {
				t.Errorf("%q, want %q", got, c.got)
			}
		})
	}
}
