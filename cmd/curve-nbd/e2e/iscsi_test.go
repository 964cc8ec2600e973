package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/scripts/iscsitarget"
	"github.com/opencurve/curve-nbd/scripts/testcu"
)

// unit is a logical unit that programs which are not ours use.
type unit struct {
	t *testing.T
	// g serves it, as volume "disk"; nil for a peer.
	g *gateway
	// url is the unit, portal where its target is.
	url, portal string
}

// peerEnv names a target to test in place of ours, by which the tests themselves are
// checked: "tgt", or nothing.
const peerEnv = "CURVE_ISCSI_PEER"

const unitMiB = 1024

// serveUnit starts a target with an empty unit of 1 GiB, unless a tool is missing.
func serveUnit(t *testing.T, tools ...string) *unit {
	t.Helper()
	return serveUnitAs(t, iscsitarget.Options{MiB: unitMiB}, tools...)
}

// serveUnitAs starts one with another size, or removable.
func serveUnitAs(t *testing.T, o iscsitarget.Options, tools ...string) *unit {
	t.Helper()
	o.Units, o.BlockBytes = 1, 512
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CURVE_REQUIRE_TOOLS") != "" {
				t.Fatal(err)
			}
			t.Skipf("SKIPPED, NOT TESTED: %s is not installed", tool)
		}
	}
	u := &unit{t: t}
	if os.Getenv(peerEnv) == "tgt" {
		o.Dir = socketDir(t)
		target, err := iscsitarget.Tgt(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(target.Stop)
		u.url = target.URLs[0]
	} else {
		if !strings.Contains(cli(t, nil, "serve", "--help").stdout, "--iscsi-listen") {
			t.Skip("SKIPPED, NOT TESTED: this curve-nbd has no serve --iscsi-listen")
		}
		const target = "iqn.2026-11.io.curve:e2e"
		u.g = serve(t, nil, "--memory", "--nbd-listen", "unix:"+filepath.Join(socketDir(t), "nbd.sock"), "--iscsi-listen", "127.0.0.1:0")
		u.g.must("volume", "create", "disk", "--size", fmt.Sprintf("%dM", o.MiB), "--block-size", "512")
		u.g.must("target", "create", target)
		add := []string{"lun", "add", target, "disk"}
		if o.Removable {
			add = append(add, "--removable")
		}
		if o.PhysicalBytes > 0 {
			add = append(add, "--physical-block", strconv.Itoa(o.PhysicalBytes))
		}
		u.g.must(add...)
		u.g.must("acl", "add", target, "any")
		u.url = "iscsi://" + strings.TrimPrefix(u.g.address("iscsi"), "tcp:") + "/" + target + "/0"
	}
	u.portal = strings.Join(strings.Split(u.url, "/")[:3], "/")
	return u
}

// tool runs a program, which must succeed, and returns all that it said.
func (u *unit) tool(name string, args ...string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		u.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// io runs commands of qemu-io on a disk image, such as the unit; it checks patterns.
func (u *unit) io(image string, commands ...string) {
	u.t.Helper()
	args := []string{"-f", "raw"}
	for _, command := range commands {
		args = append(args, "-c", command)
	}
	if out := u.tool("qemu-io", append(args, image)...); strings.Contains(out, "failed") {
		u.t.Errorf("qemu-io %s:\n%s", strings.Join(commands, "; "), out)
	}
}

// TestISCSIConformance is the quick form of scripts/iscsi-conformance.sh: the tests of
// libiscsi in one process, but for the one that sleeps for a minute.
func TestISCSIConformance(t *testing.T) {
	const maxSkips = 20
	// The unit is overwritten three times, at a bounded rate, so it is small.
	u := serveUnitAs(t, iscsitarget.Options{MiB: 256, Removable: true, PhysicalBytes: 512}, "iscsi-test-cu")
	t.Parallel() // most of its time it waits
	names, err := testcu.List()
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == testcu.Apart })
	results, said, err := testcu.Run{Test: testcu.Others, URL: u.url, Second: u.url, Limit: 2 * patience}.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	skipped := 0
	for _, r := range results {
		switch {
		case r.Outcome == testcu.Skipped:
			skipped++
			t.Logf("skipped %s: %s", r.Name, r.Reason)
		case r.Outcome != testcu.Passed && u.g == nil:
			t.Logf("%s %s: %s", r.Outcome, r.Name, r.Reason)
		case r.Outcome != testcu.Passed:
			t.Errorf("%s %s: %s", r.Outcome, r.Name, r.Reason)
		}
	}
	if len(results) != len(names) {
		t.Errorf("%d of %d tests were run; they said at last:\n%s", len(results), len(names), said[max(0, len(said)-2000):])
	}
	if skipped > maxSkips && u.g != nil {
		t.Errorf("%d tests were skipped, at most %d may be", skipped, maxSkips)
	}
}

func TestISCSIToolsDescribeAUnit(t *testing.T) {
	u := serveUnit(t, "iscsi-ls", "iscsi-inq", "iscsi-readcapacity16")
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"iscsi-ls", []string{"-s", u.portal}, "(Size:1023M)"},
		{"iscsi-inq", []string{u.url}, "DIRECT_ACCESS"},
		{"iscsi-inq", []string{"-e", "1", "-c", "131", u.url}, "DEVICE DESIGNATOR #0"},
		{"iscsi-inq", []string{"-e", "1", "-c", "176", u.url}, "maximum unmap lba count:"},
		{"iscsi-readcapacity16", []string{u.url}, "RETURNED LOGICAL BLOCK ADDRESS:" + strconv.Itoa(unitMiB<<20/512-1)},
		{"iscsi-readcapacity16", []string{u.url}, "LBPME:1"},
	} {
		if out := u.tool(c.name, c.args...); !strings.Contains(out, c.says) {
			t.Errorf("%s %s: want %q in\n%s", c.name, strings.Join(c.args, " "), c.says, out)
		}
	}
}

func TestQemuUsesAUnit(t *testing.T) {
	u := serveUnit(t, "qemu-img", "qemu-io")
	if out := u.tool("qemu-img", "info", u.url); !strings.Contains(out, "virtual size: 1 GiB") {
		t.Errorf("qemu-img info:\n%s", out)
	}
	// In, and out again, with holes.
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	u.tool("qemu-img", "create", "-q", "-f", "raw", in, fmt.Sprintf("%dM", unitMiB))
	u.io(in, "write -q -P 0x11 3584 1M", "write -q -P 0x22 100M 32M", "write -q -P 0x33 1073741312 512")
	u.tool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", in, u.url)
	u.tool("qemu-img", "compare", "-f", "raw", "-F", "raw", in, u.url)
	u.tool("qemu-img", "convert", "-f", "raw", "-O", "raw", u.url, out)
	u.tool("qemu-img", "compare", "-f", "raw", "-F", "raw", in, out)
	if u.g != nil {
		if du := mustJSON[volumeJSON](u.g, "volume", "du", "disk"); du.AllocatedBytes > 64<<20 {
			t.Errorf("%d bytes are allocated for 33 MiB: the holes were written", du.AllocatedBytes)
		}
	}

	u.io(u.url,
		"write -P 0xa5 1M 3M", "write -P 0x5a 5632 512", "writev -P 0x77 8M 64k 64k 32k", "write -f -P 0x42 9M 4k",
		"write -z 2M 64k", "write -z -u 3M 64k", "discard 1M 512k", "flush",
		"read -P 0xa5 1536k 512k", "read -P 0 2M 64k", "read -P 0xa5 2112k 64k", "read -P 0 3M 64k",
		"read -P 0x5a 5632 512", "read -P 0x77 8M 160k", "read -P 0x42 9M 4k")
	// Much at once, past every burst length.
	u.io(u.url, "aio_write -P 1 16M 16M", "aio_write -P 2 32M 16M", "aio_write -P 3 48M 16M", "aio_flush",
		"aio_read -P 1 16M 16M", "aio_read -P 2 32M 16M", "aio_read -P 3 48M 16M", "aio_flush")
}

// TestQemuUsesAUnitOfLargeBlocks: QEMU aborts if it is told of a granularity of one block
// of 4096 bytes, as soon as it reads 32 KiB.
func TestQemuUsesAUnitOfLargeBlocks(t *testing.T) {
	u := serveUnit(t, "qemu-io")
	if u.g == nil {
		t.Skip("of a peer")
	}
	u.g.must("volume", "create", "large", "--size", "64M", "--block-size", "4096")
	u.g.must("lun", "add", "iqn.2026-11.io.curve:e2e", "large", "--lun", "1")
	u.io(strings.TrimSuffix(u.url, "0")+"1", "read -P 0 0 64k", "write -P 0xa5 1M 3M", "write -z -u 2M 64k", "discard 3M 64k", "flush",
		"read -P 0xa5 1M 1M", "read -P 0 2M 64k", "read -P 0xa5 2112k 64k", "read -P 0 3M 64k", "write -P 0x5a 1M 512", "read -P 0x5a 1M 512", "read -P 0xa5 1049088 3584")
}

// TestIdleSessionStays: after 5 s of nothing the initiator asks whether the target
// lives, which ends the sessions of some.
func TestIdleSessionStays(t *testing.T) {
	u := serveUnit(t, "qemu-io")
	t.Parallel()
	u.io(u.url, "write -P 0xa5 0 64k", "sleep 12000", "read -P 0xa5 0 64k", "write -P 0x5a 0 64k", "read -P 0x5a 0 64k")
}

// TestNBDAndISCSIShareAVolume: what one has flushed, the other reads, while both have
// the volume open.
func TestNBDAndISCSIShareAVolume(t *testing.T) {
	u := serveUnit(t, "qemu-io")
	if u.g == nil {
		t.Skip("a peer has no NBD")
	}
	_, socket, _ := strings.Cut(u.g.address("nbd"), ":")
	nbd := "nbd+unix:///disk?socket=" + socket
	open := u.g.open("disk") // so that it stays open
	for _, c := range []struct{ name, from, to string }{{"iSCSI to NBD", u.url, nbd}, {"NBD to iSCSI", nbd, u.url}} {
		t.Run(c.name, func(t *testing.T) {
			u := &unit{t: t, g: u.g}
			u.io(c.to, "read 0 1M") // what is there before
			u.io(c.from, "write -P 0xa5 0 1M", "write -P 0x5a 64k 4k", "discard 128k 64k", "flush")
			u.io(c.to, "read -P 0xa5 0 64k", "read -P 0x5a 64k 4k", "read -P 0 128k 64k", "read -P 0xa5 192k 832k", "write -z 0 1M", "flush")
			u.io(c.from, "read -P 0 0 1M")
		})
	}
	block := make([]byte, 4096)
	if err := open.Read(t.Context(), block, 0, 0); err != nil {
		t.Error(err)
	}
}
