package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemd boots a guest whose first process is systemd, twice, and is the tests
// within it: the package, its units and udev's names. The files of the first boot are
// there at the second.
func TestSystemd(t *testing.T) {
	type part struct {
		name string
		test func(*testing.T)
	}
	var parts []part
	switch os.Getenv("CURVE_BOOT") {
	case "":
		t.Parallel()
		wantShutdownInOrder(t, inGuest(t, "-s"))
		return
	case "1":
		must(t, "mkdir", "-p", overrides)
		must(t, "sh", "-c", "printf '[Service]\\nWatchdogSec=8s\\n' >"+overrides+"/watchdog.conf")
		parts = []part{
			{"package", testPackage},
			{"names of devices", testNames},
			{"D12: stopping the unit unmaps", testUnitUnmaps},
			{"watchdog", testWatchdog},
			{"reload and upgrade", testReload},
			{"before the shutdown", testBeforeShutdown},
		}
	case "2":
		parts = []part{{"after the boot", testAfterBoot}}
		if long {
			parts = append(parts, part{"removal", testRemoval})
		}
	}
	for _, p := range parts {
		if !t.Run(p.name, p.test) {
			log, _ := exec.Command("sh", "-c", "systemctl --no-pager status 'curve-nbd*'; dmesg | tail -20").Output()
			t.Fatalf("the others build on it\n%s", log)
		}
	}
}

const (
	gatewayUnit = "curve-nbd.service"
	mapUnit     = "curve-nbd-map.service"
	overrides   = "/etc/systemd/system/" + gatewayUnit + ".d"
)

// packaged is the gateway of the package.
func packaged(t *testing.T) *gateway {
	return &gateway{t: t, control: "unix:/run/curve-nbd/control.sock"}
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(must(t, "systemctl", "show", "--value", "-p", name, unit))
}

func mainPID(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(property(t, gatewayUnit, "MainPID"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func install(t *testing.T) {
	t.Helper()
	debs, err := filepath.Glob("*.deb")
	if err != nil || len(debs) != 1 {
		t.Fatalf("packages: %q, %v", debs, err)
	}
	must(t, "dpkg", "--force-unsafe-io", "-i", debs[0])
}

// wantServing checks that systemd's idea of the gateway is right.
func (g *gateway) wantServing() {
	g.t.Helper()
	if state := property(g.t, gatewayUnit, "ActiveState"); state != "active" {
		g.t.Fatalf("%s is %s", gatewayUnit, state)
	}
	g.ok("health")
	serves := `"pid": ` + strconv.Itoa(mainPID(g.t)) + ","
	if status := g.ok("status", "-o", "json"); !strings.Contains(status, serves) {
		g.t.Errorf("systemd thinks that %s, and who answers says %s", serves, status)
	}
}

func testPackage(t *testing.T) {
	install(t)
	packaged(t).wantServing()
	for _, unit := range []string{gatewayUnit, mapUnit} {
		if got := strings.TrimSpace(execute(t, nil, "systemctl", "is-enabled", unit).out); got != "enabled" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	must(t, "systemd-analyze", "verify", gatewayUnit, mapUnit)
	must(t, "systemctl", "is-active", mapUnit)
}

// wantLink checks that a name is a device's, or nobody's.
func wantLink(t *testing.T, name, dev string) {
	t.Helper()
	got, err := filepath.EvalSymlinks(filepath.Join("/dev/curve", name))
	if dev == "" && !os.IsNotExist(err) {
		t.Errorf("/dev/curve/%s is still %s, %v", name, got, err)
	}
	if dev != "" && got != dev {
		t.Errorf("/dev/curve/%s is %q, %v; want %s", name, got, err, dev)
	}
}

func testNames(t *testing.T) {
	g := packaged(t)
	plain, nested := g.device("plain", "64M"), g.device("team/db.1-logs_x", "64M")
	wantLink(t, "plain", plain)
	wantLink(t, "team/db.1-logs_x", nested)
	cmd := exec.Command("sfdisk", "-q", nested)
	cmd.Stdin = strings.NewReader("label: gpt\nsize=16MiB\nsize=16MiB\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	must(t, "udevadm", "settle")
	wantLink(t, "team/db.1-logs_x-part1", nested+"p1")
	wantLink(t, "team/db.1-logs_x-part2", nested+"p2")
	// A volume's own name comes first.
	wantLink(t, "team/db.1-logs_x-part2", g.device("team/db.1-logs_x-part2", "64M"))
	g.ok("unmap", "team/db.1-logs_x-part2")
	wantLink(t, "team/db.1-logs_x-part2", nested+"p2")

	g.ok("unmap", "/dev/curve/team/db.1-logs_x")
	for _, name := range []string{"team/db.1-logs_x", "team/db.1-logs_x-part1", "team/db.1-logs_x-part2"} {
		wantLink(t, name, "")
	}
	wantLink(t, "plain", plain)
	// What is mapped again has its names again, whatever its number.
	must(t, "udevadm", "trigger", "--subsystem-match=block")
	if dev := g.ok("map", "team/db.1-logs_x", "--device", "/dev/nbd5"); dev != "/dev/nbd5" {
		t.Errorf("mapped to %s", dev)
	}
	until(t, "the partition has its name", func() bool { _, err := os.Stat("/dev/curve/team/db.1-logs_x-part1"); return err == nil })
	wantLink(t, "team/db.1-logs_x-part1", "/dev/nbd5p1")
	// One that is disconnected behind the gateway's back loses them too.
	must(t, "nbd-client", "-d", plain)
	until(t, "the name is gone", func() bool { _, err := os.Lstat("/dev/curve/plain"); return os.IsNotExist(err) })
	g.ok("unmap", "--all")
}

// testUnitUnmaps is D12, a defect of Curve's own unit: its ExecStop does nothing.
func testUnitUnmaps(t *testing.T) {
	g := packaged(t)
	dev := g.ok("map", "plain", "--boot")
	must(t, "mkfs.ext4", "-q", "/dev/curve/plain")
	must(t, "mount", "/dev/curve/plain", "/mnt")
	if err := os.WriteFile("/mnt/file", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "systemctl", "stop", mapUnit)
	if list := g.mapped(); len(list) != 0 {
		t.Errorf("mapped after the stop: %+v", list)
	}
	wantGone(t, dev)
	wantLink(t, "plain", "")
	must(t, "systemctl", "start", mapUnit)
	wantLink(t, "plain", dev)
	must(t, "e2fsck", "-fn", dev)
	g.ok("unmap", "plain")
}

// disturbPackaged is underLoad for the gateway of the package.
func disturbPackaged(t *testing.T, runtime time.Duration, disturb func(g *gateway)) {
	t.Helper()
	g := packaged(t)
	dev := g.ok("map", "plain", "--timeout", "1s")
	dir := mount(t, "ext4", dev)
	l := startLoad(t, dir, runtime)
	l.working(dev)
	disturb(g)
	g.wantServing()
	l.working(dev)
	l.end()
	wantSound(t, dir, dev)
	g.ok("unmap", "plain")
}

// testWatchdog: a gateway that hangs is found out and replaced; who writes to its
// devices only waits.
func testWatchdog(t *testing.T) {
	times := inForm(1, 5)
	disturbPackaged(t, time.Duration(times)*14*time.Second, func(g *gateway) {
		for restarts := range times {
			hangs := mainPID(t)
			if err := syscall.Kill(hangs, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			until(t, "systemd starts another gateway", func() bool {
				return mainPID(t) != hangs && property(t, gatewayUnit, "ActiveState") == "active"
			})
			// One that is well may miss its time too, where the machine is slow.
			if n, err := strconv.Atoi(property(t, gatewayUnit, "NRestarts")); err != nil || n < restarts+1 {
				t.Errorf("%d restarts after %d hangs, %v", n, restarts+1, err)
			}
		}
	})
}

// testReload: the unit does not notice, and its gateway is another.
func testReload(t *testing.T) {
	times := inForm(1, 10)
	disturbPackaged(t, time.Duration(times)*5*time.Second, func(g *gateway) {
		for range times {
			wantHandOver(t, func() { must(t, "systemctl", "reload", gatewayUnit) })
			wantHandOver(t, func() { install(t) })
		}
		if long {
			reloadFails(t, g)
			if o := execute(t, nil, "dpkg", "-r", "curve-nbd"); o.code == 0 || !strings.Contains(o.errors, "is mounted on") {
				t.Errorf("removed while in use: exit code %d: %s", o.code, o.errors)
			}
		}
	})
}

// reloadFails: a gateway that cannot start leaves the unit as it is.
func reloadFails(t *testing.T, g *gateway) {
	t.Helper()
	const path = "/etc/curve/curve-nbd.yaml"
	config, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("max_connections: 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := mainPID(t)
	if o := execute(t, nil, "systemctl", "reload", gatewayUnit); o.code == 0 {
		t.Error("a reload with wrong settings succeeds")
	}
	if err := os.WriteFile(path, config, 0o644); err != nil {
		t.Fatal(err)
	}
	if now := mainPID(t); now != before {
		t.Errorf("process %d is not the gateway any more, but %d", before, now)
	}
	g.wantServing()
}

// wantHandOver checks that the unit stays active all along and gets another process.
func wantHandOver(t *testing.T, what func()) {
	t.Helper()
	life := func() string {
		return property(t, gatewayUnit, "ActiveEnterTimestampMonotonic") + " after " + property(t, gatewayUnit, "NRestarts") + " restarts"
	}
	pid, since := mainPID(t), life()
	what()
	if now := mainPID(t); now == pid {
		t.Errorf("process %d is still the gateway", pid)
	}
	if now := life(); now != since {
		t.Errorf("active since %s, before it was since %s", now, since)
	}
	until(t, "the gateway before is gone", func() bool { return syscall.Kill(pid, 0) != nil })
}

// testBeforeShutdown leaves two file systems mounted, one by /etc/fstab and one by
// hand, on devices of which only the first is in the table. A service that knows
// nothing of mounts uses the second until late in the shutdown.
func testBeforeShutdown(t *testing.T) {
	g := packaged(t)
	g.device("boots", "64M", "--boot")
	g.device("by-hand", "64M")
	for _, volume := range []string{"boots", "by-hand"} {
		dir := "/srv/" + volume
		must(t, "mkfs.ext4", "-q", "-L", volume, "/dev/curve/"+volume)
		must(t, "mkdir", "-p", dir)
		if volume == "boots" {
			if err := os.WriteFile("/etc/fstab", []byte("/dev/curve/boots /srv/boots ext4 _netdev 0 2\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			must(t, "mount", dir)
		} else {
			must(t, "mount", "/dev/curve/by-hand", dir)
		}
		// Not synced: it has to reach the volume at the shutdown.
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("kept "+volume), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "systemd-run", "-q", "--unit=late", "-p", "ExecStop=/bin/sleep 2", "/bin/sh", "-c", "exec sleep 1000 </srv/by-hand/file")
	until(t, "the service has its file open", func() bool {
		return strings.Contains(execute(t, nil, "sh", "-c", "ls -l /proc/[0-9]*/fd/0").out, "/srv/by-hand/file")
	})
}

// wantShutdownInOrder looks at what the guest has printed when it was shut down first.
func wantShutdownInOrder(t *testing.T, printed string) {
	t.Helper()
	_, printed, _ = strings.Cut(printed, "--- PASS: TestSystemd")
	last := -1
	for _, step := range []string{
		`srv-boots\.mount: Deactivated successfully`,
		`unmapped boots from /dev/nbd`,
		`unmapped by-hand from /dev/nbd`,
		`curve-nbd-map\.service: Deactivated successfully`,
		`msg=stopping signal=terminated`,
		`curve-nbd\.service: Deactivated successfully`,
		`Powering off\.`,
	} {
		found := regexp.MustCompile(step).FindStringIndex(printed)
		if found == nil || found[0] < last {
			t.Errorf("%s is not in its place in the shutdown:\n%s", step, printed)
			return
		}
		last = found[0]
	}
}

// testAfterBoot: the table's device and the mount of it came by themselves, and all
// that was written before the shutdown is there, with no journal to replay.
func testAfterBoot(t *testing.T) {
	g := packaged(t)
	g.wantServing()
	list := g.mapped()
	if len(list) != 1 || list[0].Volume != "boots" {
		t.Fatalf("mapped at boot: %+v", list)
	}
	wantLink(t, "boots", list[0].Device)
	must(t, "mountpoint", "-q", "/srv/boots")
	g.ok("map", "by-hand")
	must(t, "mount", "/dev/curve/by-hand", "/srv/by-hand")
	for _, volume := range []string{"boots", "by-hand"} {
		dir := "/srv/" + volume
		if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "kept "+volume {
			t.Errorf("%s/file holds %q, %v", dir, text, err)
		}
	}
	for _, line := range strings.Split(must(t, "dmesg"), "\n") {
		if strings.Contains(line, "EXT4-fs (nbd") && strings.Contains(line, "recovery") {
			t.Errorf("not unmounted in good order: %s", line)
		}
	}
	for _, volume := range []string{"boots", "by-hand"} {
		must(t, "umount", "/srv/"+volume)
		must(t, "e2fsck", "-fn", "/dev/curve/"+volume)
	}
}

func testRemoval(t *testing.T) {
	must(t, "dpkg", "-P", "curve-nbd")
	for _, path := range []string{"/usr/bin/curve-nbd", "/etc/curve", "/run/curve-nbd", "/dev/curve",
		"/etc/systemd/system/multi-user.target.wants/" + gatewayUnit} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if _, err := os.Stat("/var/lib/curve-nbd"); err != nil {
		t.Errorf("the volumes are gone: %v", err)
	}
	if state := property(t, gatewayUnit, "LoadState"); state != "not-found" {
		t.Errorf("the unit is %s", state)
	}
	if links, _ := filepath.Glob("/sys/block/nbd*/pid"); len(links) != 0 {
		t.Errorf("devices are left: %q", links)
	}
}
