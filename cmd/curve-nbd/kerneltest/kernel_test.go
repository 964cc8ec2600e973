package kerneltest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// rigBroken is the exit code of the script when there could be no guest.
const rigBroken = 125

// long is set for the long form, of `make test-kernel`.
var long = os.Getenv("CURVE_KERNEL_LONG") == "1"

func inForm[T any](short, whole T) T {
	if long {
		return whole
	}
	return short
}

// TestKernel boots a guest for itself, and is the tests within it.
func TestKernel(t *testing.T) {
	if os.Getenv("CURVE_IN_KERNEL") == "" {
		t.Parallel()
		inGuest(t)
		return
	}
	loadModule(t)
	type part struct {
		name string
		test func(*testing.T)
	}
	parts := []part{
		{"life of an ext4", testExt4},
		{"xfs", testXFS},
		{"clear refusals", testRefusals},
		{"defects", testDefects},
		{"blktests", testBlktests},
		{"map starts a gateway", testMapStartsAGateway},
		{"table of what boots", testBootTable},
		{"read-only", testReadOnly},
		{"gateway killed", testGatewayKilled},
		{"gateway restarted", testGatewayRestarted},
		{"gateway replaced", testGatewayReplaced},
		{"several connections", testSeveralConnections},
		{"force under load", testForceUnderLoad},
		{"gateway that never comes back", testNoGateway},
		{"gateway killed during unmap", testKilledWhileUnmapping},
		{"attached by ioctl", testIoctl},
		{"cycles leak nothing", testCycles},
	}
	if long { // a cluster is slow on one processor
		parts = append(parts, part{"life of an ext4 on a cluster, D6", testExt4OnCluster}, part{"leader chunkserver killed", testLeaderKilled}, part{"MDS down", testNoMDS})
	}
	for _, c := range parts {
		t.Run(c.name, c.test)
	}
}

// inGuest runs the tests in a guest, with flags of the script, and says so loudly where
// there can be none. It returns what the guest has printed.
func inGuest(t *testing.T, flags ...string) string {
	cmd := exec.Command("scripts/e2e-kernel.sh", append(flags, "-t", "2100")...)
	cmd.Dir = "../../.."
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == rigBroken {
		t.Skipf("NOT RUN: no test with a real kernel, as no guest can be booted here:\n%s", out)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if err != nil || strings.Contains(line, "--- ") || strings.Contains(line, "slowest") {
			t.Log(line)
		}
	}
	if err != nil {
		t.Fatalf("in the guest: %v", err)
	}
	return string(out)
}
