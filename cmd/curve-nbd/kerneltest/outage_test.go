package kerneltest

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// underLoad does something to a gateway again and again while a file system on its
// device is written and verified, which must notice nothing but a pause. It returns
// the longest.
func underLoad(t *testing.T, times int, flags []string, disturb func(g *gateway, dev string)) time.Duration {
	t.Helper()
	g := startGateway(t)
	dev := g.device("disturbed", "128M", flags...)
	dir := mount(t, "ext4", dev)
	l := startLoad(t, dir, time.Duration(times)*4*time.Second)
	for range times {
		l.working(dev)
		disturb(g, dev)
		g.until("the device is attached again", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
	}
	slowest := l.end()
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
	return slowest
}

// testGatewayKilled: kill -9 under load, and a new gateway: the file system waits.
func testGatewayKilled(t *testing.T) {
	underLoad(t, inForm(3, 20), []string{"--timeout", "1s"}, func(g *gateway, _ string) {
		g.stop(syscall.SIGKILL)
		g.start()
	})
}

func testSeveralConnections(t *testing.T) {
	underLoad(t, inForm(1, 10), []string{"--connections", "4", "--timeout", "1s"}, func(g *gateway, _ string) {
		g.stop(syscall.SIGKILL)
		g.start()
	})
}

// testGatewayRestarted: SIGTERM leaves the device to the next gateway.
func testGatewayRestarted(t *testing.T) {
	underLoad(t, inForm(2, 20), []string{"--timeout", "1s"}, func(g *gateway, dev string) {
		g.stop(syscall.SIGTERM)
		if _, err := os.Stat("/sys/block/" + filepath.Base(dev) + "/pid"); err != nil {
			t.Fatalf("%s went with its gateway", dev)
		}
		g.start()
	})
}

// testGatewayReplaced: an upgrade hands the live sockets over, so that nothing has to
// be sent again, and the request timeout does not come in.
func testGatewayReplaced(t *testing.T) {
	const timeout = 30 * time.Second
	slowest := underLoad(t, inForm(3, 20), []string{"--connections", "2", "--timeout", timeout.String()}, func(g *gateway, _ string) { g.replace() })
	if slowest >= timeout {
		t.Errorf("a request took %v: it was lost and sent again", slowest)
	}
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
		_, err := os.Stat("/sys/block/" + filepath.Base(dev) + "/pid")
		return err != nil
	})
	if n := len(g.mapped()); n != 0 {
		t.Errorf("%d devices are listed", n)
	}
	wantNobodyHangs(t)
}

// testKilledWhileUnmapping: unmap waits for what is mounted when its gateway dies. It
// says so, and the next gateway lets go of the device when its users do.
func testKilledWhileUnmapping(t *testing.T) {
	g := startGateway(t)
	dev := g.device("half", "64M")
	dir := mount(t, "ext4", dev)
	unmapped := make(chan outcome, 1)
	go func() { unmapped <- g.run("unmap", "--force", dev) }()
	g.until("it is being unmapped", func() bool { m := g.mapped(); return len(m) == 0 || m[0].State == "detaching" })
	g.stop(syscall.SIGKILL)
	select {
	case o := <-unmapped:
		if o.code != 6 {
			t.Errorf("unmap: exit code %d: %s", o.code, o.errors)
		}
	case <-time.After(patience):
		t.Fatal("unmap hangs")
	}
	g.start()
	execute(t, nil, "umount", dir) // of a journal that is lost
	g.until("nothing is mapped", func() bool { return len(g.mapped()) == 0 })
	wantGone(t, dev)
	wantNobodyHangs(t)
	dev = g.ok("map", "half")
	for range inForm(0, 10) { // at any moment
		go func() { unmapped <- g.run("unmap", dev) }()
		time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
		g.stop(syscall.SIGKILL)
		if o := <-unmapped; o.code != 0 && o.code != 6 {
			t.Errorf("unmap: exit code %d: %s", o.code, o.errors)
		}
		g.start()
		g.ok("unmap", "--missing-ok", "half")
		wantGone(t, dev)
		dev = g.ok("map", "half")
	}
	must(t, "e2fsck", "-p", dev)
	g.ok("unmap", "half")
	killedWhileFlushing(t, g)
}

// killedWhileFlushing: what waits for the device in the kernel is not the gateway, of
// which nothing may be left in the way of the next one.
func killedWhileFlushing(t *testing.T, g *gateway) {
	t.Helper()
	// Whoever opens a device first reads its partition table, here at a read a second.
	g.ok("volume", "create", "slow", "--size", "64M", "--iops", "1")
	dev := g.ok("map", "slow")
	unmapped := make(chan outcome, 1)
	go func() { unmapped <- g.run("unmap", dev) }()
	until(t, "unmap waits for the device", func() bool { return len(hanging(t)) > 0 })
	g.stop(syscall.SIGKILL)
	if o := <-unmapped; o.code != 6 {
		t.Errorf("unmap: exit code %d: %s", o.code, o.errors)
	}
	g.start()
	g.ok("unmap", "--force", dev)
	wantNobodyHangs(t)
}

// testNoGateway: requests wait for the re-attach timeout and not longer, and nobody
// hangs after it.
func testNoGateway(t *testing.T) {
	g := startGateway(t)
	dev := g.device("lost", "64M", "--timeout", "1s", "--reattach-timeout", "3s")
	g.stop(syscall.SIGKILL)
	// That it ends at all is what execute sees to.
	if o := execute(t, nil, "dd", "if="+dev, "of=/dev/null", "bs=4k", "count=1", "iflag=direct"); o.code == 0 {
		t.Error("reading without a gateway succeeds")
	}
	g.start()
	g.ok("unmap", "--force", "--missing-ok", "lost")
	g.until("nothing is mapped", func() bool { return len(g.mapped()) == 0 })
	wantGone(t, dev)
	wantNobodyHangs(t)
}
