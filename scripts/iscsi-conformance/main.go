// Command iscsi-conformance runs the tests of libiscsi against our iSCSI target and
// against tgt: each test alone, then all in one process, then all twice at once beside
// a load. It prints what each target did of each family of tests, and why tests were
// skipped. Units are removable and, for ReadOnly.ReadOnlySBC alone, read-only, so that
// what is about such units is tested too. Run it through scripts/iscsi-conformance.sh.
//
// In one process, the tests of libiscsi 1.19 do an injustice to targets that have no
// COMPARE AND WRITE, as tgt: the one with too much data leaves a hook behind when it is
// skipped, which from then on spoils the length in every command of 16 bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencurve/curve-nbd/scripts/iscsitarget"
	"github.com/opencurve/curve-nbd/scripts/testcu"
)

type config struct {
	bin      string
	targets  string
	modes    string
	test     string
	limit    time.Duration
	suite    time.Duration
	maxSkips int
	sizeMiB  int
	block    int
	physical int
	sanitize time.Duration
	raw      string
}

func main() {
	var c config
	flag.StringVar(&c.bin, "bin", "bin/curve-nbd", "the curve-nbd to judge")
	flag.StringVar(&c.targets, "targets", "ours,tgt", "whom to test: ours, tgt")
	flag.StringVar(&c.modes, "modes", "alone,whole,parallel", "how: alone (each test in a process), whole (all but one in one), parallel (twice at once, under load)")
	flag.StringVar(&c.test, "test", "", "only tests whose names begin with this, each alone")
	flag.DurationVar(&c.limit, "timeout", 15*time.Second, "a test that takes longer hangs")
	flag.DurationVar(&c.sanitize, "sanitize-timeout", 2*time.Minute, "the same, for tests that overwrite the unit; one of them sleeps for a minute")
	flag.DurationVar(&c.suite, "suite-timeout", 5*time.Minute, "all tests in one process hang when they take longer")
	flag.IntVar(&c.maxSkips, "max-skips", 20, "fail when ours skips more tests")
	flag.IntVar(&c.sizeMiB, "size", 1024, "size of a unit, MiB; it is thin")
	flag.IntVar(&c.block, "block-size", 512, "logical block of a unit, bytes")
	flag.IntVar(&c.physical, "physical-block", 512, "physical block of a unit, bytes: libiscsi's test of GET LBA STATUS goes wrong where it is larger than the logical one")
	flag.StringVar(&c.raw, "raw", "", "write what the tests said into this directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, c)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "iscsi-conformance:", err)
		os.Exit(1)
	}
}

// judged is one target with what it did in each mode.
type judged struct {
	name  string
	start func() (*iscsitarget.Target, error)
	modes map[string][]testcu.Result
	done  []string // the modes, in order
}

func (j *judged) note(mode string, results []testcu.Result) {
	j.modes[mode] = results
	j.done = append(j.done, mode)
}

func run(ctx context.Context, c config) error {
	names, err := testcu.List()
	if err != nil {
		return err
	}
	if c.test != "" {
		c.modes = "alone"
		if names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, c.test) }); len(names) == 0 {
			return fmt.Errorf("no test begins with %q", c.test)
		}
	}
	if c.raw != "" {
		if err := os.MkdirAll(c.raw, 0o755); err != nil {
			return err
		}
	}
	var all []*judged
	for _, name := range strings.Split(c.targets, ",") {
		dir, err := os.MkdirTemp("/dev/shm", "iscsi-conformance-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o := iscsitarget.Options{
			Program: c.bin, Serve: []string{"--memory"}, Dir: dir, Units: 3, MiB: c.sizeMiB, BlockBytes: c.block,
			Removable: true, PhysicalBytes: c.physical, ReadOnly: true,
		}
		j := &judged{name: name, modes: map[string][]testcu.Result{}}
		switch name {
		case "ours":
			j.start = func() (*iscsitarget.Target, error) { return iscsitarget.Ours(o) }
		case "tgt":
			j.start = func() (*iscsitarget.Target, error) { return iscsitarget.Tgt(o) }
		default:
			return fmt.Errorf("no target %q: choose ours or tgt", name)
		}
		all = append(all, j)
	}
	for _, mode := range strings.Split(c.modes, ",") {
		for _, j := range all {
			if err := j.run(ctx, c, mode, names); err != nil {
				return fmt.Errorf("%s, %s: %w", j.name, mode, err)
			}
		}
	}
	report(os.Stdout, all, names)
	return verdict(c, all)
}

// run goes through the tests in one mode.
func (j *judged) run(ctx context.Context, c config, mode string, names []string) error {
	began := time.Now()
	switch mode {
	case "alone":
		results, err := j.alone(ctx, c, names)
		if err != nil {
			return err
		}
		j.note(mode, results)
	case "whole", "parallel":
		if err := j.whole(ctx, c, mode, len(names)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no mode %q: choose alone, whole or parallel", mode)
	}
	fmt.Fprintf(os.Stderr, "%s, %s: done in %v\n", j.name, mode, time.Since(began).Round(100*time.Millisecond))
	return ctx.Err()
}

// verdict fails when ours does in any mode.
func verdict(c config, all []*judged) error {
	var wrong []error
	for _, j := range all {
		if j.name != "ours" {
			continue
		}
		for _, mode := range j.done {
			n := count(j.modes[mode])
			bad := n[testcu.Failed] + n[testcu.Crashed] + n[testcu.Hung]
			if bad > 0 || n[testcu.Skipped] > c.maxSkips {
				wrong = append(wrong, fmt.Errorf("ours, %s: %s", mode, tally(n)))
			}
		}
	}
	return errors.Join(wrong...)
}
