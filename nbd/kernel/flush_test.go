package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// claimArg makes the test binary a process that claims a device.
const claimArg = "-claim-device"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == claimArg {
		if err := Claim(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func claimTree(t *testing.T, claimer ...string) System {
	s := tree(t, map[string]string{"dev/nbd0": "data"})
	s.Claimer = claimer
	return s
}

func TestFlushClaimsUntilItIsReleased(t *testing.T) {
	s := claimTree(t, os.Args[0], claimArg)
	release, err := s.Flush(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	holds := func() bool {
		links, _ := os.ReadDir("/proc")
		for _, l := range links {
			line, _ := os.ReadFile("/proc/" + l.Name() + "/cmdline")
			if strings.Contains(string(line), s.path("dev/nbd0")) {
				return true
			}
		}
		return false
	}
	if !holds() {
		t.Error("nobody holds the device")
	}
	release()
	for end := time.Now().Add(30 * time.Second); holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the device is held after its release")
		}
	}
}

func TestFlushSaysWhatWentWrong(t *testing.T) {
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, c := range []struct {
		name, says string
		ctx        context.Context
		index      int
		claimer    []string
	}{
		{"no device", "no such file", t.Context(), 1, []string{os.Args[0], claimArg}},
		{"no answer", "does not answer", short, 0, []string{"/bin/sh", "-c", "exec sleep 1000"}},
		{"claimer dies", "EOF", t.Context(), 0, []string{"/bin/false"}},
		{"no claimer", "no such file", t.Context(), 0, []string{"/nowhere"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := claimTree(t, c.claimer...).Flush(c.ctx, c.index)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if c.ctx == short && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v is no deadline", err)
			}
		})
	}
}
