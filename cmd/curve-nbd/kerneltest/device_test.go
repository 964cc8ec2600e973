package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func testExt4(t *testing.T) {
	g := startGateway(t)
	ext4Life(t, g, g)
}

// ext4Life is all that a file system goes through on a device of g. The volume is
// resized by another gateway, if resizer is one.
func ext4Life(t *testing.T, g, resizer *gateway) {
	t.Helper()
	dev := g.device("team/pg-data", "256M")
	dir := mount(t, "ext4", dev)
	startLoad(t, dir, inForm(2*time.Second, 20*time.Second)).end()
	used := g.allocated("team/pg-data")
	must(t, "sh", "-c", "rm -f "+dir+"/load*")
	must(t, "sync")
	must(t, "fstrim", dir)
	// The host's files, on which a cluster is, do not tell a guest what they take.
	if now := g.allocated("team/pg-data"); now >= used && resizer == g {
		t.Errorf("%d bytes are allocated after fstrim, %d before", now, used)
	}
	resizer.ok("volume", "resize", "team/pg-data", "320M")
	size := func() string { return strings.TrimSpace(must(t, "blockdev", "--getsize64", dev)) }
	if resizer != g { // which finds out by itself
		g.until("the device has another size", func() bool { return size() != strconv.Itoa(256<<20) })
	}
	if got := size(); got != strconv.Itoa(320<<20) {
		t.Errorf("the device has %s bytes after the resize", got)
	}
	must(t, "resize2fs", dev)
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || int64(st.Blocks)*st.Bsize < 270<<20 {
		t.Errorf("the file system has %d bytes after the resize, %v", int64(st.Blocks)*st.Bsize, err)
	}
	wantSound(t, dir, dev)
	must(t, "blkdiscard", dev)
	if o := execute(t, nil, "cmp", "-n", "8388608", dev, "/dev/zero"); o.code != 0 {
		t.Errorf("discarded blocks do not read as zeros: %s", o.out+o.errors)
	}
	g.ok("unmap", dev)
	wantGone(t, dev)
}

// allocated is the space that a volume takes, in bytes.
func (g *gateway) allocated(volume string) int64 {
	g.t.Helper()
	var info struct {
		Allocated *int64 `json:"allocated_bytes"`
	}
	if err := json.Unmarshal([]byte(g.ok("volume", "info", volume, "-o", "json")), &info); err != nil || info.Allocated == nil {
		g.t.Fatalf("volume info says no allocated_bytes: %v", err)
	}
	return *info.Allocated
}

// wantGone checks that the kernel has let go of a device.
func wantGone(t *testing.T, dev string) {
	t.Helper()
	if _, err := os.Stat("/sys/block/" + filepath.Base(dev) + "/pid"); err == nil {
		t.Errorf("%s is still connected", dev)
	}
}

func testXFS(t *testing.T) {
	g := startGateway(t)
	dev := g.device("x", "400M")
	dir := mount(t, "xfs", dev)
	startLoad(t, dir, 2*time.Second).end()
	must(t, "umount", dir)
	must(t, "xfs_repair", "-n", dev)
	g.ok("unmap", "x")
}

func testRefusals(t *testing.T) {
	g := startGateway(t)
	g.refused(3, "nothing-here", "map", "nothing-here")
	g.refused(3, "not mapped", "unmap", "/dev/nbd3")
	g.refused(2, "device", "map", "nothing-here", "--device", "/dev/sda")
	dev := g.device("one", "64M")
	g.ok("volume", "create", "two", "--size", "64M")
	g.refused(4, dev+" is connected already", "map", "two", "--device", dev)
	if n := len(g.mapped()); n != 1 {
		t.Errorf("%d devices are listed after what was refused, want 1", n)
	}
	g.refused(4, "open", "volume", "rm", "one")
	g.ok("unmap", "one")
	g.ok("unmap", "--missing-ok", "one")
	g.ok("volume", "rm", "one")
}

// testMapStartsAGateway: when none runs, map brings one up, and waits until it serves.
func testMapStartsAGateway(t *testing.T) {
	g := startGateway(t)
	g.ok("volume", "create", "alone", "--size", "64M")
	g.stop(syscall.SIGTERM)
	g.refused(6, "no gateway answers", "map", "alone", "--no-start")
	t.Setenv("CURVE_DATA_DIR", filepath.Join(g.dir, "data"))
	t.Setenv("CURVE_NBD_LISTEN", "unix:"+filepath.Join(g.dir, "nbd.sock"))
	dev := g.ok("map", "alone")
	list := g.mapped()
	if len(list) != 1 || list[0].Device != dev {
		t.Fatalf("mapped: %+v", list)
	}
	g.ok("unmap", dev)
	// The gateway is no child of ours: it ends by itself.
	if err := syscall.Kill(list[0].PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.until("the gateway is gone", func() bool { return g.run("health").code == 6 })
	t.Setenv("CURVE_DATA_DIR", "/dev/null/nowhere")
	g.refused(6, "ended with exit code", "map", "alone")
	os.Unsetenv("CURVE_DATA_DIR")
	os.Unsetenv("CURVE_NBD_LISTEN")
	g.start()
}

func testBootTable(t *testing.T) {
	g := startGateway(t)
	tab := filepath.Join(g.dir, "curvetab")
	t.Setenv("CURVE_TAB", tab)
	one := g.device("one", "64M", "--boot", "--read-only")
	two := g.device("two", "64M", "--boot")
	g.device("not-at-boot", "64M")
	g.ok("unmap", "--all") // the shutdown
	if n := len(g.mapped()); n != 0 {
		t.Errorf("%d devices are left by unmap --all", n)
	}
	if got := g.ok("map", "--all"); got != one+"\n"+two {
		t.Errorf("mapped at boot: %q", got)
	}
	if got := g.ok("map", "--all"); got != "" {
		t.Errorf("mapped again: %q", got)
	}
	if got := strings.TrimSpace(must(t, "blockdev", "--getro", one)); got != "1" {
		t.Error("the option was not kept")
	}
	g.ok("unmap", "one")
	text, err := os.ReadFile(tab)
	if want := "+\t" + two + "\ttwo\tdefaults\n"; err != nil || string(text) != want {
		t.Errorf("the table is %q, %v; want %q", text, err, want)
	}
	// One that fails does not keep the others from being mapped.
	if err := os.WriteFile(tab, []byte("+ /dev/nbd3 gone defaults\n"+string(text)), 0o644); err != nil {
		t.Fatal(err)
	}
	g.ok("unmap", "--all")
	if o := g.run("map", "--all"); o.code != 3 || strings.TrimSpace(o.out) != two {
		t.Errorf("with an entry that cannot be mapped: exit code %d, %q, %s", o.code, o.out, o.errors)
	}
	// Nothing to unmap is one thing, a device that cannot be unmapped another.
	g.stop(syscall.SIGTERM)
	g.refused(6, two+" cannot be unmapped while no gateway runs", "unmap", "--all", "--missing-ok")
	g.start()
	g.ok("unmap", "two")
	g.stop(syscall.SIGTERM)
	g.ok("unmap", "--all", "--missing-ok")
	g.start()
}

func testReadOnly(t *testing.T) {
	g := startGateway(t)
	dev := g.device("ro", "64M", "--read-only")
	if got := strings.TrimSpace(must(t, "blockdev", "--getro", dev)); got != "1" {
		t.Errorf("getro says %s", got)
	}
	if o := execute(t, nil, "dd", "if=/dev/zero", "of="+dev, "bs=4k", "count=1", "oflag=direct"); o.code == 0 {
		t.Error("a read-only device was written")
	}
	g.ok("unmap", dev)
}

func testCycles(t *testing.T) {
	g := startGateway(t)
	g.ok("volume", "create", "c", "--size", "64M")
	count := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var before int
	for i := range inForm(10, 100) {
		dev := g.ok("map", "c")
		must(t, "dd", "if=/dev/zero", "of="+dev, "bs=64k", "count=1", "oflag=direct", "status=none")
		g.ok("unmap", dev)
		wantGone(t, dev)
		if i == 1 {
			before = count()
		}
	}
	// The control connections of the commands end when they like.
	until(t, "descriptors are given back", func() bool { return count() <= before+2 })
	state, err := os.ReadFile(g.state())
	if err != nil || !strings.Contains(string(state), `"devices": []`) {
		t.Errorf("what is mapped, as written down: %s, %v", state, err)
	}
}
