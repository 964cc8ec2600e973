package nbd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// requireToolsEnv, when 1, makes a missing tool a failure: a run that skipped
// the real clients must not look like one that passed.
const requireToolsEnv = "CURVE_REQUIRE_TOOLS"

// toolTimeout bounds one run of a foreign program.
const toolTimeout = 2 * time.Minute

// needTools skips the test, or fails it, when a program is not installed.
func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv(requireToolsEnv) == "1" {
			t.Fatalf("%s is not installed and %s=1", name, requireToolsEnv)
		}
		t.Skipf("SKIPPED, NOT TESTED: %s is not installed; install it, or set %s=1 to make this a failure", name, requireToolsEnv)
	}
}

// tool runs a program and returns what it wrote to stdout.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, errs, err := tryTool(t, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs)
	}
	return out
}

func tryTool(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolTimeout)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// overBoth runs an interop test over unix and TCP, on memory and on disk.
func overBoth(t *testing.T, test func(t *testing.T, tg *target)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network+" memory", func(t *testing.T) { test(t, serve(t, setup{network: network})) })
		t.Run(network+" disk", func(t *testing.T) { test(t, serve(t, setup{network: network, dir: t.TempDir()})) })
	}
}

// sparseFile makes a file of the test volume's size with some data in it.
func sparseFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sparse.img")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(testSize))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 40 {
		data := make([]byte, 512*(1+random.IntN(512)))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		at := random.Int64N(testSize-int64(len(data))) &^ 511
		_, err := f.WriteAt(data, at)
		must(t, err)
	}
	return path
}

func sha256Of(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(t, err)
	return hex.EncodeToString(h.Sum(nil))
}
