package kerneltest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testDefects has the defects of Curve's own curve-nbd, which this one must not have.
// D6, across gateways, and D9 have tests in nbd/device and nbd; D12 is about systemd.
func testDefects(t *testing.T) {
	g := startGateway(t)
	for _, d := range []struct {
		name string
		test func(*testing.T, *gateway)
	}{
		{"D1 gateway dies while it maps", testDiesWhileMapping},
		{"D2 unmap says that the device is not gone", testNotGone},
		{"D3 unmap by volume keeps its flags", testFlagsWithVolume},
		{"D4 SIGTERM with a mounted device", testTermWhileMounted},
		{"D5 odd names", testOddNames},
		{"D7 every kind of user is seen", testUsers},
		{"D8 no disconnect is lost", testDisconnectedByAnother},
		{"D10 kill -9 at any moment of map", testKilledWhileMapping},
		{"D11 a volume is mapped once", testMappedOnce},
	} {
		t.Run(d.name, func(t *testing.T) {
			outer := g.t
			g.t = t
			defer func() { g.t = outer }()
			d.test(t, g)
			for _, left := range g.mapped() {
				t.Errorf("%s is left", left.Device)
				g.run("unmap", "--force", left.Device)
			}
		})
	}
}

// loadModule loads the driver as all tests want it.
func loadModule(t *testing.T) {
	t.Helper()
	must(t, "modprobe", "nbd", "nbds_max=4", "max_part=15")
}

// testDiesWhileMapping: the gateway is in the middle of a map, for which it has the
// module loaded, when it dies.
func testDiesWhileMapping(t *testing.T, g *gateway) {
	g.ok("volume", "create", "d1", "--size", "64M")
	g.stop(syscall.SIGTERM)
	must(t, "modprobe", "-r", "nbd")
	bin, path := t.TempDir(), os.Getenv("PATH")
	pid := filepath.Join(bin, "pid")
	stub := "#!/bin/sh\necho $$ >" + pid + ".new\nmv " + pid + ".new " + pid + "\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(bin, "modprobe"), []byte(stub), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+path)
	g.start()
	mapped := make(chan outcome, 1)
	go func() { mapped <- g.run("map", "d1", "--no-start") }()
	until(t, "the gateway maps", func() bool { _, err := os.Stat(pid); return err == nil })
	g.stop(syscall.SIGKILL)
	select {
	case o := <-mapped:
		if o.code != 6 || o.out != "" {
			t.Errorf("map: exit code %d, %q, %s", o.code, o.out, o.errors)
		}
	case <-time.After(patience):
		t.Error("map hangs")
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		syscall.Kill(n, syscall.SIGKILL)
	}
	t.Setenv("PATH", path)
	loadModule(t)
	g.start()
	dev := g.ok("map", "d1")
	g.ok("unmap", dev)
}

// testNotGone: what is mounted stays for as long as it is, whatever unmap is told.
func testNotGone(t *testing.T, g *gateway) {
	dev := g.device("d2", "64M")
	dir := mount(t, "ext4", dev)
	g.refused(4, "goes when its users let go of it", "unmap", "--force", "--control-timeout", "8s", dev)
	if _, err := os.Stat("/sys/block/" + filepath.Base(dev) + "/pid"); err != nil {
		t.Error("the device is gone, while it is mounted")
	}
	must(t, "umount", dir)
	until(t, "the device is gone", func() bool { _, err := os.Stat("/sys/block/" + filepath.Base(dev) + "/pid"); return err != nil })
}

func testFlagsWithVolume(t *testing.T, g *gateway) {
	dev := g.device("d3", "64M")
	hold, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	g.refused(4, "is open in process", "unmap", "d3")
	for _, args := range [][]string{{"-f", "d3", "--control-timeout", "2s"}, {"d3", "--missing-ok", "--force"}} {
		if o := g.run(append([]string{"unmap"}, args...)...); strings.Contains(o.errors, "is in use") {
			t.Errorf("%q: not by force: %s", args, o.errors)
		}
	}
	hold.Close()
	g.until("the device is forgotten", func() bool { return len(g.mapped()) == 0 })
}

// testTermWhileMounted: the gateway ends at once, and its device waits for another.
func testTermWhileMounted(t *testing.T, g *gateway) {
	dev := g.device("d4", "64M")
	dir := mount(t, "ext4", dev)
	begun := time.Now()
	g.stop(syscall.SIGTERM)
	if took := time.Since(begun); took > 15*time.Second || g.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("SIGTERM: exit code %d after %v", g.cmd.ProcessState.ExitCode(), took)
	}
	write := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "waits"), "bs=64k", "count=1", "oflag=direct,sync", "status=none")
	if err := write.Start(); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- write.Wait() }()
	until(t, "the write waits", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", write.Process.Pid))
		return strings.Contains(string(text), ") D ")
	})
	g.start()
	if err := <-written; err != nil {
		t.Errorf("the write that waited: %v", err)
	}
	wantSound(t, dir, dev)
	g.ok("unmap", dev)
}

func testOddNames(t *testing.T, g *gateway) {
	name := "d5/with_all.of-it/" + strings.Repeat("x", 230)
	dev := g.device(name, "64M")
	if m := g.mapped(); len(m) != 1 || m[0].Volume != name || m[0].Device != dev {
		t.Errorf("%q: mapped %+v", name, m)
	}
	g.ok("unmap", name)
	for _, name := range inForm([]string{"white space"}, []string{"white space", "tab\tbed", "two\nlines", "..", "d5/../d5", "größe", "", strings.Repeat("x", 256)}) {
		g.refused(2, "", "volume", "create", name, "--size", "64M")
		for _, command := range []string{"map", "unmap"} {
			if o := g.run(command, name); o.code != 2 && o.code != 3 {
				t.Errorf("%s %q: exit code %d: %s", command, name, o.code, o.errors)
			}
		}
	}
}

// testDisconnectedByAnother: whenever that is, the gateway takes notice.
func testDisconnectedByAnother(t *testing.T, g *gateway) {
	g.ok("volume", "create", "d8", "--size", "64M")
	for range inForm(1, 5) { // as soon as it is there
		must(t, "nbd-client", "-d", g.ok("map", "d8"))
		g.until("the device is forgotten", func() bool { return len(g.mapped()) == 0 })
	}
	dev := g.ok("map", "d8")
	g.stop(syscall.SIGTERM)
	must(t, "nbd-client", "-d", dev)
	g.start()
	g.until("the device is forgotten", func() bool { return len(g.mapped()) == 0 })
	g.ok("map", "d8")
	g.ok("unmap", "d8")
}

// testKilledWhileMapping: whatever the gateway was at, the next one has the device and
// it works, or nobody has it.
func testKilledWhileMapping(t *testing.T, g *gateway) {
	g.ok("volume", "create", "d10", "--size", "64M")
	begun := time.Now()
	g.ok("map", "d10")
	usual := time.Since(begun)
	g.ok("unmap", "d10")
	made, kills := 0, inForm(3, 20)
	for i := range kills {
		mapped := make(chan outcome, 1)
		go func() { mapped <- g.run("map", "d10", "--no-start") }()
		moment := time.Duration(rand.Int64N(int64(usual))) // the command's own start is most of it
		if i%2 == 0 {                                      // once it is written down
			until(t, "the gateway maps", func() bool {
				state, _ := os.ReadFile(g.state())
				return strings.Contains(string(state), "d10") || len(mapped) > 0
			})
			moment = time.Duration(rand.Int64N(int64(10 * time.Millisecond)))
		}
		time.Sleep(moment)
		g.stop(syscall.SIGKILL)
		o := <-mapped
		g.start()
		for _, d := range g.mapped() {
			made++
			must(t, "dd", "if=/dev/zero", "of="+d.Device, "bs=64k", "count=1", "oflag=direct", "status=none")
			g.until("the device is attached", func() bool { m := g.mapped(); return len(m) == 1 && m[0].State == "attached" })
			g.ok("unmap", d.Device)
		}
		if left, _ := filepath.Glob("/sys/block/nbd*/pid"); len(left) != 0 {
			t.Errorf("kill %d, after %v: the kernel has %v, which nobody lists; map ended with %d", i, moment, left, o.code)
			must(t, "nbd-client", "-d", filepath.Join("/dev", filepath.Base(filepath.Dir(left[0]))))
		}
	}
	t.Logf("%d of %d maps had made a device", made, kills)
}

func testMappedOnce(t *testing.T, g *gateway) {
	g.ok("volume", "create", "d11", "--size", "64M")
	var mapping sync.WaitGroup
	outcomes := make([]outcome, 3)
	for i := range outcomes {
		mapping.Go(func() { outcomes[i] = g.run("map", "d11") })
	}
	mapping.Wait()
	dev := ""
	for _, o := range outcomes {
		switch {
		case o.code == 0 && dev == "":
			dev = strings.TrimSpace(o.out)
		case o.code != 5:
			t.Errorf("exit code %d, %q, %s", o.code, o.out, o.errors)
		}
	}
	for _, spelling := range []string{"d11", "/d11", "cbd:pool//d11_user_"} {
		g.refused(5, "d11 is mapped to "+dev, "map", spelling, "--try-ioctl")
	}
	second := g.ok("map", "d11", "--no-exclusive")
	g.refused(2, "more than one device", "unmap", "d11")
	g.ok("unmap", second)
	g.ok("unmap", "cbd:pool//d11_user_")
}
