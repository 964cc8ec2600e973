package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// multipathConfig has multipathd ask the targets which path is the better one (ALUA),
// and keep requests while there is none.
const multipathConfig = `defaults {
  find_multipaths no
  polling_interval 1
  path_checker tur
  prio alua
  path_grouping_policy group_by_prio
  failback immediate
  no_path_retry queue
  reservation_key file
  prkeys_file /run/multipath.prkeys
}
`

// startMultipath starts udev, by which multipathd knows of devices, and multipathd.
func startMultipath(t *testing.T) {
	t.Helper()
	must(t, "modprobe", "-a", "dm-multipath", "dm-service-time")
	if err := os.WriteFile("/etc/multipath.conf", []byte(multipathConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "/lib/systemd/systemd-udevd", "--daemon")
	must(t, "udevadm", "trigger")
	log, err := os.Create("/run/multipathd.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("multipathd", "-d", "-s")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("multipath", "-F").Run()
		cmd.Process.Kill()
		cmd.Wait()
		exec.Command("udevadm", "control", "--exit").Run()
		if t.Failed() {
			said, _ := exec.Command("tail", "-30", "/run/multipathd.log").Output()
			t.Logf("multipathd said:\n%s", said)
		}
	})
}

// twoTargets are two that serve one unit under the same name.
func twoTargets(t *testing.T) [2]scsiTarget {
	t.Helper()
	if os.Getenv(peerEnv) == "tgt" {
		first := startTgt(t, iqnOf(t), 128)
		second := &tgt{t: t, iqn: first.iqn, file: first.file, number: 1}
		t.Cleanup(second.kill)
		second.start()
		return [2]scsiTarget{first, second}
	}
	mds := startCluster(t).status().MDS[0].Address
	var both [2]scsiTarget
	for n := range both {
		g := newGateway(t, "--mds", mds, "--iscsi-portal-group", strconv.Itoa(n+1))
		o := serveTarget(g, 3260+n)
		if n == 0 {
			g.ok("volume", "create", "disk", "--size", "128M")
			o.export(iqnOf(t))
		}
		both[n] = o
	}
	return both
}

// pathsThere counts the paths that serve or stand by.
func pathsThere(t *testing.T) int {
	t.Helper()
	said := must(t, "multipath", "-ll")
	return strings.Count(said, " ready ") + strings.Count(said, " ghost ")
}

// twoPaths logs in at both targets, and returns the device over both paths.
func twoPaths(t *testing.T, targets [2]scsiTarget) (paths [2]*initiator, dev string) {
	t.Helper()
	for n, target := range targets {
		portal, lun := target.where()
		paths[n] = newInitiator(t, iqnOf(t), portal, lun)
		// A path that is down shall say so soon, as there is another one.
		paths[n].set("node.session.timeo.replacement_timeout", "2", "node.conn[0].timeo.noop_out_interval", "1", "node.conn[0].timeo.noop_out_timeout", "2")
		paths[n].login()
	}
	until(t, "multipathd has one device of two paths", func() bool {
		names, _ := filepath.Glob("/dev/mapper/*")
		for _, name := range names {
			if pathsThere(t) == 2 && !strings.HasSuffix(name, "/control") {
				dev = name
			}
		}
		return dev != ""
	})
	t.Logf("paths:\n%s", must(t, "multipath", "-ll"))
	return paths, dev
}

// leave takes the device down, and logs out.
func leave(t *testing.T, paths [2]*initiator, dev string) {
	t.Helper()
	until(t, "nobody looks at the device any more", func() bool { // udev does, for a while
		return exec.Command("multipath", "-f", filepath.Base(dev)).Run() == nil
	})
	for _, path := range paths {
		path.logout()
	}
}

// testMpathpersist: reservations as cluster software gives them, on all paths at once
// and through the one in standby; whoever is preempted there does not write here.
func testMpathpersist(t *testing.T) {
	startMultipath(t)
	paths, dev := twoPaths(t, twoTargets(t))
	order := func(args ...string) { must(t, "mpathpersist", append(append([]string{"--out"}, args...), dev)...) }
	order("--register", "--param-sark=1111")
	order("--reserve", "--param-rk=1111", "--prout-type=5")
	write := func(dev string) outcome {
		return execute(t, nil, "dd", "if=/dev/zero", "of="+dev, "bs=4k", "count=1", "oflag=direct", "status=none")
	}
	if o := write(dev); o.code != 0 {
		t.Errorf("who has reserved the unit cannot write: %s", o.errors)
	}
	active, standby := paths[0].device(), paths[1].device()
	said := must(t, "sg_persist", "--in", "--read-keys", standby)
	if n := strings.Count(said, "0x1111"); n != 2 {
		t.Errorf("%d keys of two paths:\n%s", n, said)
	}
	must(t, "sg_persist", "--out", "--register-ignore", "--param-sark=2222", standby)
	must(t, "sg_persist", "--out", "--preempt-abort", "--param-rk=2222", "--param-sark=1111", "--prout-type=5", standby)
	if o := write(active); o.code == 0 {
		t.Error("who is preempted writes")
	}
	must(t, "sg_persist", "--out", "--clear", "--param-rk=2222", standby)
	if o := write(dev); o.code != 0 {
		t.Errorf("nobody has reserved the unit, and it cannot be written: %s", o.errors)
	}
	leave(t, paths, dev)
}

// testMultipath: two sessions to one unit through two targets, each of which dies in
// turn under load.
func testMultipath(t *testing.T) {
	targets := twoTargets(t)
	startMultipath(t)
	paths, dev := twoPaths(t, targets)
	dir := mount(t, "ext4", dev)
	kernel, err := filepath.EvalSymlinks(dev)
	if err != nil {
		t.Fatal(err)
	}
	const times = 4
	l := startLoad(t, dir, times*15*time.Second)
	for n := range times {
		l.working(kernel)
		targets[n%2].kill()
		l.working(kernel) // through the other one
		targets[n%2].start()
		until(t, "both paths are back", func() bool { return pathsThere(t) == 2 })
	}
	l.end()
	wantSound(t, dir, dev)
	leave(t, paths, dev)
}
