package kerneltest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ioctlGateway is one that does not see the driver's netlink interface.
func ioctlGateway(t *testing.T) *gateway {
	t.Helper()
	g := newGateway(t)
	g.under = []string{"unshare", "--net"}
	g.start()
	return g
}

// testIoctl: without netlink, a device does all that one with it does, while its
// gateway lives.
func testIoctl(t *testing.T) {
	g := ioctlGateway(t)
	g.ok("volume", "create", "old", "--size", "64M")
	g.refused(1, "--try-ioctl", "map", "old")
	dev := g.ok("map", "old", "--try-ioctl", "--connections", "2")
	if m := g.mapped(); len(m) != 1 || m[0].AttachedBy != "ioctl" || m[0].State != "attached" {
		t.Fatalf("mapped: %+v", m)
	}
	g.ok("volume", "create", "second", "--size", "64M")
	g.refused(4, dev+" by ioctl", "map", "second", "--device", dev, "--try-ioctl")
	second := g.ok("map", "second", "--try-ioctl", "--read-only")
	if got := strings.TrimSpace(must(t, "blockdev", "--getro", second)); got != "1" {
		t.Error("the second device can be written")
	}
	dir := mount(t, "ext4", dev)
	startLoad(t, dir, inForm(time.Second, 20*time.Second)).end()
	g.refused(4, "is mounted on "+dir, "unmap", dev)
	g.ok("volume", "resize", "old", "96M")
	if size := strings.TrimSpace(must(t, "blockdev", "--getsize64", dev)); size != strconv.Itoa(96<<20) {
		t.Errorf("the device has %s bytes after the resize", size)
	}
	must(t, "resize2fs", dev)
	// A device that cannot go over must not be lost to an upgrade.
	if o := g.run(append([]string{"serve", "--control", g.control, "--replace"}, g.backend...)...); o.code != 4 || !strings.Contains(o.errors, dev+", of old, is attached by ioctl") {
		t.Errorf("serve --replace: exit code %d: %s", o.code, o.errors)
	}
	wantSound(t, dir, dev)
	g.ok("unmap", "old")
	wantGone(t, dev)
	g.ok("unmap", second)
	wantGone(t, second)
	endIoctlGateway(t, g, "old")
}

// endIoctlGateway: the device goes with its gateway, though in use, and leaves nobody
// hanging and nothing in the way of the next.
func endIoctlGateway(t *testing.T, g *gateway, volume string) {
	t.Helper()
	dev := g.ok("map", volume, "--try-ioctl")
	dir := t.TempDir()
	must(t, "mount", dev, dir)
	t.Cleanup(func() { exec.Command("umount", dir).Run() })
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		must(t, "sync")
		g.stop(sig)
		if o := execute(t, nil, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct"); o.code == 0 {
			t.Errorf("after %v: the device still reads", sig)
		}
		execute(t, nil, "umount", dir) // of a journal that is lost
		wantGone(t, dev)
		g.start()
		if n := len(g.mapped()); n != 0 {
			t.Errorf("after %v: %d devices are listed", sig, n)
		}
		log, err := os.ReadFile(g.logPath)
		if want := map[syscall.Signal]string{syscall.SIGTERM: "goes with this gateway", syscall.SIGKILL: "is gone with its gateway"}[sig]; err != nil || !strings.Contains(string(log), want) {
			t.Errorf("after %v: the log does not say %q, %v", sig, want, err)
		}
		g.ok("map", volume, "--try-ioctl", "--device", dev)
		must(t, "e2fsck", "-p", dev) // the journal
		must(t, "mount", dev, dir)
	}
	wantSound(t, dir, dev)
	g.ok("unmap", volume)
	wantNobodyHangs(t)
}
