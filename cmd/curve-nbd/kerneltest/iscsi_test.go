package kerneltest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestISCSI boots a guest whose initiator is open-iscsi, and is the tests within it.
func TestISCSI(t *testing.T) {
	if os.Getenv("CURVE_IN_KERNEL") == "" {
		t.Parallel()
		if out := inGuest(t, "-i"); strings.Contains(out, "--- SKIP: TestISCSI (") {
			t.Skipf("NOT RUN: no test with a real initiator:\n%s", out)
		}
		return
	}
	if os.Getenv(peerEnv) == "" && !strings.Contains(must(t, os.Getenv("CURVE_NBD"), "serve", "--help"), "--iscsi-listen") {
		t.Skip("NOT RUN: this curve-nbd has no serve --iscsi-listen")
	}
	must(t, "modprobe", "-a", "iscsi_tcp", "sd_mod")
	type part struct {
		name string
		test func(*testing.T)
	}
	parts := []part{
		{"discovery", testDiscovery},
		{"CHAP", testCHAP},
		{"mutual CHAP", testMutualCHAP},
		{"life of an ext4, with digests", testISCSIExt4},
		{"target killed", testTargetKilled},
		{"gateway stopped and started", testTargetRestarted},
	}
	if long {
		parts = append(parts, part{"one volume stalls", testOneVolumeStalls},
			part{"leader chunkserver killed", testISCSILeaderKilled}, part{"multipath", testMultipath}, part{"mpathpersist", testMpathpersist})
	}
	for _, c := range parts {
		t.Run(c.name, c.test)
	}
}

// iqnOf is a target's name, for one test.
func iqnOf(t *testing.T) string {
	return "iqn.2026-11.io.curve:" + strings.ToLower(strings.NewReplacer("TestISCSI/", "", "_", "-", ",", "").Replace(t.Name()))
}

// logIn starts a target and an initiator for it.
func logIn(t *testing.T, mib int) (scsiTarget, *initiator) {
	t.Helper()
	target := startTarget(t, iqnOf(t), mib)
	portal, lun := target.where()
	return target, newInitiator(t, iqnOf(t), portal, lun)
}

func testDiscovery(t *testing.T) {
	_, i := logIn(t, 64)
	found := must(t, "iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", i.portal)
	if want := i.portal + ",1 " + i.iqn; strings.TrimSpace(found) != want {
		t.Errorf("discovery finds %q, want %q", found, want)
	}
	dev := i.login()
	if size := strings.TrimSpace(must(t, "blockdev", "--getsize64", dev)); size != strconv.Itoa(64<<20) {
		t.Errorf("the device has %s bytes", size)
	}
	name := func() string { return content("/sys/block/" + filepath.Base(dev) + "/device/wwid") }
	first := name()
	i.logout()
	dev = i.login()
	if first == "" || name() != first {
		t.Errorf("the unit is called %q, and then %q", first, name())
	}
	must(t, "dd", "if=/dev/zero", "of="+dev, "bs=1M", "count=8", "oflag=direct", "status=none")
	i.logout()
}

const (
	chapUser, chapSecret     = "guest", "a-secret-of-16-b"
	targetUser, targetSecret = "disk", "another-of-16-by"
)

func testCHAP(t *testing.T) {
	target, i := logIn(t, 64)
	target.chap(chapUser, chapSecret)
	i.refused()
	i.set("node.session.auth.authmethod", "CHAP", "node.session.auth.username", chapUser, "node.session.auth.password", "not-the-secret-x")
	i.refused()
	i.set("node.session.auth.username", "nobody", "node.session.auth.password", chapSecret)
	i.refused()
	i.set("node.session.auth.username", chapUser)
	must(t, "dd", "if="+i.login(), "of=/dev/null", "bs=1M", "count=1", "status=none")
	i.logout()
}

func testMutualCHAP(t *testing.T) {
	target, i := logIn(t, 64)
	target.chap(chapUser, chapSecret)
	target.mutual(targetUser, targetSecret)
	i.set("node.session.auth.authmethod", "CHAP", "node.session.auth.username", chapUser, "node.session.auth.password", chapSecret,
		"node.session.auth.username_in", targetUser, "node.session.auth.password_in", "not-the-secret-x")
	i.refused()
	i.set("node.session.auth.password_in", targetSecret)
	must(t, "dd", "if="+i.login(), "of=/dev/null", "bs=1M", "count=1", "status=none")
	i.logout()
}

// testISCSIExt4 is all that a file system goes through on a unit.
func testISCSIExt4(t *testing.T) {
	target, i := logIn(t, 256)
	i.set("node.conn[0].iscsi.HeaderDigest", "CRC32C", "node.conn[0].iscsi.DataDigest", "CRC32C")
	dev := i.login()
	number := strings.TrimPrefix(filepath.Base(i.session()), "session")
	for _, digest := range []string{"header_digest", "data_digest"} {
		if got := content("/sys/class/iscsi_connection/connection" + number + ":0/" + digest); got != "1" {
			t.Errorf("%s is %q", digest, got)
		}
	}
	dir := mount(t, "ext4", dev)
	startLoad(t, dir, inForm(2*time.Second, 20*time.Second)).end()
	must(t, "sync")
	used := target.allocated()
	must(t, "sh", "-c", "rm -f "+dir+"/load*")
	must(t, "sync")
	must(t, "fstrim", dir)
	if now := target.allocated(); now >= used {
		t.Errorf("%d bytes are allocated after fstrim, %d before", now, used)
	}
	target.grow(320)
	until(t, "the session is there", func() bool { return content(i.session()+"/state") == "LOGGED_IN" })
	i.node("-R")
	until(t, "the device has the new size", func() bool {
		return strings.TrimSpace(must(t, "blockdev", "--getsize64", dev)) == strconv.Itoa(320<<20)
	})
	must(t, "resize2fs", dev)
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || int64(st.Blocks)*st.Bsize < 270<<20 {
		t.Errorf("the file system has %d bytes after the resize, %v", int64(st.Blocks)*st.Bsize, err)
	}
	wantSound(t, dir, dev)
	must(t, "blkdiscard", "-z", "-l", "8M", dev)
	if o := execute(t, nil, "cmp", "-n", "8388608", dev, "/dev/zero"); o.code != 0 {
		t.Errorf("what was overwritten with zeros reads otherwise: %s", o.out+o.errors)
	}
	i.logout()
}

// patient makes a session wait for its target as long as it takes, and notice soon
// that it is gone.
func (i *initiator) patient() {
	i.t.Helper()
	i.set("node.session.timeo.replacement_timeout", "3600", "node.conn[0].timeo.noop_out_interval", "1", "node.conn[0].timeo.noop_out_timeout", "5")
}

// disturbed does something to a target again and again while a file system on its unit
// is written and verified, which must notice nothing but a pause.
func disturbed(t *testing.T, times int, disturb func(target scsiTarget)) {
	t.Helper()
	target, i := logIn(t, 128)
	i.patient()
	dev := i.login()
	dir := mount(t, "ext4", dev)
	l := startLoad(t, dir, time.Duration(times)*4*time.Second)
	for range times {
		l.working(dev)
		disturb(target)
		until(t, "the session is back", func() bool { return content(i.session()+"/state") == "LOGGED_IN" })
	}
	l.end()
	wantSound(t, dir, dev)
	i.logout()
}

func testTargetKilled(t *testing.T) {
	disturbed(t, inForm(3, 20), func(target scsiTarget) {
		target.kill()
		target.start()
	})
}

// testTargetRestarted: a stop that gives notice, which is ours alone to do.
func testTargetRestarted(t *testing.T) {
	if os.Getenv(peerEnv) != "" {
		t.Skip("tgtd does not end at SIGTERM")
	}
	disturbed(t, inForm(2, 20), func(target scsiTarget) {
		target.(*ourTarget).g.stop(syscall.SIGTERM)
		target.start()
	})
}

// testISCSILeaderKilled: a file system on replicated chunks, and their leader dies.
func testISCSILeaderKilled(t *testing.T) {
	if os.Getenv(peerEnv) != "" {
		t.Skip("there are no leaders behind " + os.Getenv(peerEnv))
	}
	c := startCluster(t)
	g := newGateway(t, "--mds", c.status().MDS[0].Address)
	o := serveTarget(g, 3260)
	g.ok("volume", "create", "disk", "--size", "128M")
	o.export(iqnOf(t))
	i := newInitiator(t, iqnOf(t), "127.0.0.1:3260", 0)
	i.patient()
	dev := i.login()
	dir := mount(t, "ext4", dev)
	c.killLeaders(24, startLoad(t, dir, 24*5*time.Second))
	wantSound(t, dir, dev)
	i.logout()
}

// testOneVolumeStalls: a volume that is throttled until the kernel runs out of patience with
// it costs its session. That comes back at once, though commands of the old one are still
// in execution, and the file system on the other unit notices nothing but the pause.
func testOneVolumeStalls(t *testing.T) {
	if os.Getenv(peerEnv) != "" {
		t.Skip("no volume of " + os.Getenv(peerEnv) + " is throttled")
	}
	target, i := logIn(t, 128)
	o := target.(*ourTarget)
	o.g.ok("volume", "create", "slow", "--size", "64M", "--bps", "32K", "--bps-burst", "1M")
	o.g.ok("lun", "add", o.iqn, "slow", "--lun", "1")
	i.set("node.session.timeo.replacement_timeout", "10", "node.session.err_timeo.abort_timeout", "3",
		"node.session.err_timeo.lu_reset_timeout", "3", "node.session.err_timeo.tgt_reset_timeout", "3")
	dev := i.login()
	other := *i
	other.lun = 1
	until(t, "the other unit is a block device", func() bool { return other.device() != "" })
	slow := other.device()
	if err := os.WriteFile("/sys/block/"+filepath.Base(slow)+"/device/timeout", []byte("10"), 0); err != nil {
		t.Fatal(err)
	}
	dir := mount(t, "ext4", dev)
	load := startLoad(t, dir, time.Minute)
	load.working(dev)
	first := o.sessions()
	dd := exec.Command("dd", "if=/dev/zero", "of="+slow, "bs=4M", "count=1", "oflag=direct", "status=none")
	if err := dd.Start(); err != nil {
		t.Fatal(err)
	}
	stalls := make(chan error, 1)
	go func() { stalls <- dd.Wait() }()
	until(t, "the session is another", func() bool { now := o.sessions(); return now != first && now != "" })
	load.working(dev)
	select {
	case err := <-stalls:
		t.Errorf("the other volume did not stall for that long: dd %v", err)
	default:
	}
	load.end()
	wantSound(t, dir, dev)
	<-stalls // with an error, once the kernel has tried often enough
	i.logout()
}

// sessions says since when which sessions are there.
func (o *ourTarget) sessions() string {
	o.g.t.Helper()
	var all []struct {
		Since string `json:"since"`
	}
	if err := json.Unmarshal([]byte(o.g.ok("target", "sessions", o.iqn, "-o", "json")), &all); err != nil {
		o.g.t.Fatal(err)
	}
	return fmt.Sprint(all)
}
