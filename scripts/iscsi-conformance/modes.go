package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/scripts/iscsitarget"
	"github.com/opencurve/curve-nbd/scripts/testcu"
)

// alone runs each test in a process of its own. After one that did not pass the next
// ones get a fresh target: the unit may be in the middle of anything.
func (j *judged) alone(ctx context.Context, c config, names []string) ([]testcu.Result, error) {
	var target *iscsitarget.Target
	defer func() {
		if target != nil {
			target.Stop()
		}
	}()
	var results []testcu.Result
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if target == nil {
			var err error
			if target, err = j.start(); err != nil {
				return nil, err
			}
		}
		run := testcu.Run{Test: name, URL: target.URLs[0], Second: target.URLs[0], Limit: c.limit, Alive: target.Alive}
		switch (testcu.Result{Name: name}).Family() {
		case "Sanitize":
			run.Limit = max(c.limit, c.sanitize)
		case "ReadOnly":
			run.URL, run.Second = target.ReadOnlyURL, target.ReadOnlyURL
		case "iSCSITMF":
			// LUNResetSimpleAsync looks at a flag before it has read a reply, so it fails
			// against every target unless the other test of the family went before.
			run.Test = "iSCSITMF"
		}
		got, said, err := run.Do(ctx)
		if err != nil {
			return nil, err
		}
		r := got[len(got)-1]
		if i := slices.IndexFunc(got, func(r testcu.Result) bool { return r.Name == name }); i >= 0 {
			r = got[i]
		}
		r.Name = name
		results = append(results, r)
		if err := keep(c, j.name+"-"+name, said); err != nil {
			return nil, err
		}
		if r.Outcome != testcu.Passed && r.Outcome != testcu.Skipped {
			if err := keep(c, j.name+"-"+name+"-target", target.Log()); err != nil {
				return nil, err
			}
			target.Kill()
			target.Stop()
			target = nil
		}
	}
	return results, nil
}

// whole runs all tests in one process, but for testcu.Apart; parallel, in two on units of their own, while
// a third unit is read and written.
func (j *judged) whole(ctx context.Context, c config, mode string, tests int) error {
	target, err := j.start()
	if err != nil {
		return err
	}
	defer target.Stop()
	modes := []string{mode}
	loaded := func() error { return nil }
	if mode == "parallel" {
		modes = []string{mode + " 1", mode + " 2"}
		loaded = startLoad(ctx, target.URLs[2])
	}
	results, failed := make([][]testcu.Result, len(modes)), make([]error, len(modes))
	var running sync.WaitGroup
	for i, name := range modes {
		running.Go(func() {
			run := testcu.Run{URL: target.URLs[i], Second: target.URLs[i], Limit: c.suite, Alive: target.Alive}
			if len(modes) > 1 {
				run.Initiator = fmt.Sprintf("suite%d", i+1)
			}
			var said string
			if results[i], said, failed[i] = run.All(ctx); failed[i] == nil {
				failed[i] = keep(c, j.name+"-"+name, said)
			}
		})
	}
	running.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := loaded(); err != nil {
		// It is one more test of this mode.
		results[0] = append(results[0], testcu.Result{Name: "Load.beside", Outcome: testcu.Failed, Reason: err.Error()})
	}
	for i, name := range modes {
		if n := len(results[i]); n < tests {
			results[i] = append(results[i], testcu.Result{Name: "None.unfinished", Outcome: testcu.Failed, Reason: fmt.Sprintf("%d of %d tests began", n, tests)})
		}
		j.note(name, results[i])
	}
	return keep(c, j.name+"-"+mode+"-target", target.Log())
}

// startLoad reads and writes a unit until the function that it returns is called,
// which says what went wrong.
func startLoad(ctx context.Context, url string) func() error {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	for _, write := range []bool{true, false} {
		args := []string{"bench", "-f", "raw", "-t", "none", "-c", "20000", "-d", "16", "-s", "16384", "-S", fmt.Sprint(104729 * 4096)}
		if write {
			args = append(args, "-w")
		}
		go func() {
			for {
				out, err := exec.CommandContext(ctx, "qemu-img", append(args, url)...).CombinedOutput()
				switch {
				case ctx.Err() != nil:
					ended <- nil
				case err != nil:
					ended <- fmt.Errorf("qemu-img bench: %w: %s", err, out)
				default:
					continue
				}
				return
			}
		}()
	}
	return func() error {
		stop()
		return errors.Join(<-ended, <-ended)
	}
}

// keep writes what was said into the directory for that, if there is one.
func keep(c config, name, said string) error {
	if c.raw == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(c.raw, name+".txt"), []byte(said), 0o644)
}
