package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testGatewayKilled: kill -9 under load, and a new gateway: the file system waits.
func testGatewayKilled(t *testing.T) {
	g := startGateway(t)
	dev := g.device("crash", "128M", "--timeout", "1s")
	dir := mount(t, "ext4", dev)
	kills := inForm(3, 20)
	l := startLoad(t, dir, time.Duration(kills)*4*time.Second)
	for range kills {
		l.working(dev)
		g.stop(syscall.SIGKILL)
		g.start()
		g.until("the device is attached again", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
	}
	l.end()
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

// testGatewayRestarted: SIGTERM leaves the device to the next gateway.
func testGatewayRestarted(t *testing.T) {
	g := startGateway(t)
	dev := g.device("restart", "128M", "--timeout", "1s")
	dir := mount(t, "ext4", dev)
	restarts := inForm(2, 20)
	l := startLoad(t, dir, time.Duration(restarts)*4*time.Second)
	for range restarts {
		l.working(dev)
		g.stop(syscall.SIGTERM)
		g.wantAlive(dev)
		g.start()
		g.until("the device is attached again", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
	}
	l.end()
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

// wantAlive checks that a device has outlived its gateway.
func (g *gateway) wantAlive(dev string) {
	g.t.Helper()
	if _, err := os.Stat("/sys/block/" + strings.TrimPrefix(dev, "/dev/") + "/pid"); err != nil {
		g.t.Fatalf("%s went with its gateway", dev)
	}
}

// testGatewayReplaced: an upgrade hands the live sockets over, so that nothing has to
// be sent again, and the request timeout does not come in.
func testGatewayReplaced(t *testing.T) {
	g := startGateway(t)
	dev := g.device("upgrade", "128M", "--connections", "2", "--timeout", "30s")
	dir := mount(t, "ext4", dev)
	upgrades := inForm(3, 20)
	l := startLoad(t, dir, time.Duration(upgrades)*4*time.Second)
	for range upgrades {
		l.working(dev)
		g.replace()
		g.until("the device is attached again", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
	}
	if slowest := l.end(); slowest > 20*time.Second {
		t.Errorf("a request took %v: it was lost and sent again", slowest)
	}
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

func testSeveralConnections(t *testing.T) {
	g := startGateway(t)
	dev := g.device("wide", "128M", "--connections", "4", "--timeout", "1s")
	dir := mount(t, "ext4", dev)
	l := startLoad(t, dir, inForm(5*time.Second, 30*time.Second))
	l.working(dev)
	g.stop(syscall.SIGKILL)
	g.start()
	g.until("the device is attached again", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
	l.end()
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

func testForceUnderLoad(t *testing.T) {
	g := startGateway(t)
	dev := g.device("forced", "64M")
	cmd := exec.Command("fio", "--name=raw", "--filename="+dev, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--ioengine=io_uring", "--direct=1",
		"--time_based", "--runtime=120")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	until(t, "fio has the device open", func() bool {
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, link := range links {
			if target, _ := os.Readlink(link); target == dev {
				return true
			}
		}
		return false
	})
	g.refused(4, "is open in process", "unmap", dev)
	if o := g.run("unmap", "--force", dev); o.code != 0 && o.code != 4 {
		t.Errorf("unmap --force: exit code %d: %s", o.code, o.errors)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("fio has noticed nothing")
		}
	case <-time.After(patience):
		t.Error("fio hangs after unmap --force")
		cmd.Process.Kill()
	}
	until(t, "the device is gone", func() bool {
		_, err := os.Stat("/sys/block/" + strings.TrimPrefix(dev, "/dev/") + "/pid")
		return err != nil
	})
	if n := len(g.mapped()); n != 0 {
		t.Errorf("%d devices are listed", n)
	}
}

// testNoGateway: requests wait for the re-attach timeout and not longer, and nobody
// hangs after it.
func testNoGateway(t *testing.T) {
	g := startGateway(t)
	dev := g.device("lost", "64M", "--timeout", "1s", "--reattach-timeout", "3s")
	g.stop(syscall.SIGKILL)
	begun := time.Now()
	o := execute(t, nil, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct")
	if took := time.Since(begun); o.code == 0 {
		t.Errorf("reading without a gateway: exit code %d after %v", o.code, took)
	}
	g.start()
	g.ok("unmap", "--force", "--missing-ok", "lost")
	g.until("nothing is mapped", func() bool { return len(g.mapped()) == 0 })
	wantGone(t, dev)
}

func testDisconnectedByAnother(t *testing.T) {
	g := startGateway(t)
	dev := g.device("taken", "64M")
	must(t, "nbd-client", "-d", dev)
	g.until("the device is forgotten", func() bool { return len(g.mapped()) == 0 })
	g.ok("map", "taken")
	g.ok("unmap", "taken")
}
