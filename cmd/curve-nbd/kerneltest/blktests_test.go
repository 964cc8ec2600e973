package kerneltest

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// What the nbd group of the kernel's own blktests asks of the driver, asked of the
// driver and us together, over both of its interfaces.

// testBlktests has their cases 001 to 004.
func testBlktests(t *testing.T) {
	netlink, ioctl := startGateway(t), ioctlGateway(t)
	for _, c := range []struct {
		name  string
		g     *gateway
		flags []string
		test  func(*testing.T, *gateway, []string)
	}{
		{"blktests nbd 001 resize, netlink", netlink, nil, testResizeConnected},
		{"blktests nbd 001 resize, ioctl", ioctl, []string{"--try-ioctl"}, testResizeConnected},
		{"blktests nbd 002 partitions, netlink", netlink, nil, testPartitions},
		{"blktests nbd 002 partitions, ioctl", ioctl, []string{"--try-ioctl"}, testPartitions},
	} {
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

// testPartitions: a device has its partitions once map is done, and when it is gone
// they are.
func testPartitions(t *testing.T, g *gateway, flags []string) {
	dev := g.device("b002", "64M", flags...)
	partition(t, dev, "size=32MiB\n")
	for range 2 {
		g.ok("unmap", dev)
		if _, err := os.Stat(dev + "p1"); err == nil {
			t.Error("the partition is there, and its device gone")
		}
		g.ok(append([]string{"map", "b002", "--device", dev}, flags...)...)
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
