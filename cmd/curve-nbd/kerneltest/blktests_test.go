package kerneltest

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the nbd group of the kernel's own blktests asks of the driver, asked of the
// driver and us together, over both of its interfaces.

// testBlktests has their cases 001 to 004.
func testBlktests(t *testing.T) {
	netlink, ioctl := startGateway(t), ioctlGateway(t)
	type kase struct {
		name  string
		g     *gateway
		flags []string
		test  func(*testing.T, *gateway, []string)
	}
	cases := []kase{
		{"blktests nbd 001 resize, netlink", netlink, nil, testResizeConnected},
		{"blktests nbd 001 resize, ioctl", ioctl, []string{"--try-ioctl"}, testResizeConnected},
		{"blktests nbd 002 partitions, netlink", netlink, nil, testPartitions},
		{"blktests nbd 002 partitions, ioctl", ioctl, []string{"--try-ioctl"}, testPartitions},
		{"blktests nbd 003 mount while cleared, netlink", netlink, nil, testMountWhileCleared},
		{"blktests nbd 004 module unloaded, netlink", netlink, nil, testModuleUnloaded},
	}
	if long {
		cases = append(cases,
			kase{"blktests nbd 003 mount while cleared, ioctl", ioctl, []string{"--try-ioctl"}, testMountWhileCleared},
			kase{"blktests nbd 004 module unloaded, ioctl", ioctl, []string{"--try-ioctl"}, testModuleUnloaded})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			outer := c.g.t
			c.g.t = t
			defer func() { c.g.t = outer }()
			c.test(t, c.g, c.flags)
			for _, left := range c.g.mapped() {
				t.Errorf("%s is left", left.Device)
				c.g.run("unmap", "--force", left.Device)
			}
		})
	}
}

// testResizeConnected: everybody sees the new size of a connected device at once, and
// its partitions stay.
func testResizeConnected(t *testing.T, g *gateway, flags []string) {
	dev := g.device("b001", "64M", flags...)
	partition(t, dev, "size=32MiB\n")
	g.ok("volume", "resize", "b001", "96M")
	if size := strings.TrimSpace(must(t, "blockdev", "--getsize64", dev)); size != strconv.Itoa(96<<20) {
		t.Errorf("blockdev says %s bytes", size)
	}
	if says := must(t, "sfdisk", "-l", dev); !strings.Contains(says, "96 MiB") {
		t.Errorf("sfdisk says %s", says)
	}
	must(t, "dd", "if="+dev, "of=/dev/null", "bs=1M", "skip=95", "iflag=direct", "status=none")
	if size := strings.TrimSpace(must(t, "blockdev", "--getsize64", dev+"p1")); size != strconv.Itoa(32<<20) {
		t.Errorf("the partition has %s bytes", size)
	}
	g.ok("unmap", dev)
}

// testPartitions: a device has its partitions once it is mapped, and when it is gone
// they are. The kernel looks when somebody opens the device; where udev runs, it does.
func testPartitions(t *testing.T, g *gateway, flags []string) {
	dev := g.device("b002", "64M", flags...)
	partition(t, dev, "size=32MiB\n")
	for range 2 {
		g.ok("unmap", dev)
		must(t, "blockdev", "--getsize64", dev)
		if _, err := os.Stat(dev + "p1"); err == nil {
			t.Error("the partition is there, and its device gone")
		}
		g.ok(append([]string{"map", "b002", "--device", dev}, flags...)...)
		must(t, "blockdev", "--getsize64", dev)
		if _, err := os.Stat(dev + "p1"); err != nil {
			t.Errorf("the partition is not there: %v", err)
		}
		must(t, "blockdev", "--rereadpt", dev)
		if size := strings.TrimSpace(must(t, "blockdev", "--getsize64", dev+"p1")); size != strconv.Itoa(32<<20) {
			t.Errorf("the partition has %s bytes", size)
		}
	}
	g.ok("unmap", dev)
}

// clearSocket is NBD_CLEAR_SOCK of linux/nbd.h, which anybody may send to any device.
const clearSocket = 0xab04

// testMountWhileCleared: a device whose sockets are cleared while it is being mounted
// and unmounted leaves nobody hanging. Either the gateway brings it back, or it is gone
// and can be mapped again.
func testMountWhileCleared(t *testing.T, g *gateway, flags []string) {
	dev := g.device("b003", "64M", flags...)
	must(t, "mkfs.ext4", "-q", dev)
	dir := t.TempDir()
	revived, rounds := 0, inForm(2, 30)
	for range rounds {
		raceWithMounts(t, dev, dir)
		var list []mappedDevice
		g.until("the device is gone, or works", func() bool {
			list = g.mapped()
			return len(list) == 0 || list[0].State == "attached" && exec.Command("dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct").Run() == nil
		})
		if len(list) == 0 {
			g.ok(append([]string{"map", "b003", "--device", dev}, flags...)...)
		} else {
			revived++
		}
	}
	t.Logf("%d of %d times it came back", revived, rounds)
	// Cleared, a device goes when the last who has it open closes it, though it works
	// until then: whether it is there now nobody knows.
	g.run("unmap", "--force", "b003")
	g.until("the device is gone", func() bool { return len(g.mapped()) == 0 })
	g.ok(append([]string{"map", "b003", "--device", dev}, flags...)...)
	must(t, "e2fsck", "-p", dev)
	must(t, "e2fsck", "-fn", dev)
	g.ok("unmap", dev)
	wantNobodyHangs(t)
}

func raceWithMounts(t *testing.T, dev, dir string) {
	t.Helper()
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var racing sync.WaitGroup
	racing.Go(func() {
		for range 20 {
			if unix.Mount(dev, dir, "ext4", unix.MS_NOSUID|unix.MS_SYNCHRONOUS, "") == nil {
				_ = unix.Unmount(dir, 0)
			}
		}
	})
	racing.Go(func() {
		time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
		if err := unix.IoctlSetInt(fd, clearSocket, 0); err != nil {
			t.Errorf("NBD_CLEAR_SOCK: %v", err)
		}
	})
	racing.Wait()
	_ = unix.Unmount(dir, 0) // should it be mounted still
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}

// testModuleUnloaded: the module comes and goes while devices are mapped. Maps may be
// refused then; none hangs, and all is well afterwards.
func testModuleUnloaded(t *testing.T, g *gateway, flags []string) {
	g.ok("volume", "create", "b004", "--size", "64M")
	stop := make(chan struct{})
	loads := 0
	var loading sync.WaitGroup
	loading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if exec.Command("modprobe", "-r", "nbd").Run() == nil {
				loads++
			}
			_ = exec.Command("modprobe", "nbd").Run() // the gateway may have been quicker
		}
	})
	mapped, maps := 0, 0
	for begun := time.Now(); time.Since(begun) < inForm(2*time.Second, 15*time.Second); maps++ {
		if g.run(append([]string{"map", "b004", "--no-start", "--control-timeout", "20s"}, flags...)...).code == 0 {
			mapped++
		}
		if o := g.run("unmap", "--missing-ok", "b004"); o.code != 0 {
			t.Errorf("unmap: exit code %d: %s", o.code, o.errors)
		}
	}
	close(stop)
	loading.Wait()
	t.Logf("%d of %d maps worked while the module was loaded %d times", mapped, maps, loads)
	must(t, "modprobe", "-r", "nbd")
	loadModule(t)
	g.ok("unmap", g.ok(append([]string{"map", "b004"}, flags...)...))
	if found := regexp.MustCompile(`(?m)^.*(duplicate filename|BUG|Oops|WARNING:|refcount_t).*$`).FindString(must(t, "dmesg")); found != "" {
		t.Errorf("the kernel says %s", found)
	}
	wantNobodyHangs(t)
}
