package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// noGuest is the exit code of scripts/qemu-guest.sh when there can be none.
const noGuest = 125

// makeGuest makes what guests boot from, or skips the test, loudly.
func makeGuest(t *testing.T) guestFiles {
	t.Helper()
	if os.Getenv("CURVE_KERNEL_LONG") != "1" {
		t.Skip("NOT RUN: no guest boots from a unit; make test-kernel runs this")
	}
	dir := t.TempDir()
	out, err := exec.Command("../../../scripts/qemu-guest.sh", dir).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == noGuest && os.Getenv("CURVE_REQUIRE_TOOLS") == "":
		t.Skipf("NOT RUN: no guest boots from a unit, as none can be made here:\n%s", out)
	case err != nil:
		t.Fatalf("scripts/qemu-guest.sh: %v\n%s", err, out)
	}
	return guestFiles{dir}
}

// bootTarget is a gateway on a cluster with one unit, for one initiator that proves
// itself. It is killed and started again.
type bootTarget struct {
	t *testing.T
	c *cluster
	g *gateway
	// control and portal stay the same.
	control, portal string
	secret          string // file
}

const (
	bootIQN       = "iqn.2026-11.io.curve:boot"
	bootInitiator = "iqn.1993-08.org.debian:01:guest"
	bootUser      = "guest"
)

// startBootTarget gives it a unit that takes root.img, in blocks of so many bytes.
func startBootTarget(t *testing.T, blockSize int) *bootTarget {
	t.Helper()
	b := &bootTarget{t: t, c: clusterUp(t, "--copysets", "3"), control: "unix:" + filepath.Join(socketDir(t), "control.sock"), portal: "127.0.0.1:0"}
	b.secret = filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(b.secret, []byte("a-secret-of-16-b"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.c.awaitHealthy()
	b.start()
	b.portal = strings.TrimPrefix(b.g.address("iscsi"), "tcp:")
	b.g.must("volume", "create", "disk", "--size", "256M", "--block-size", fmt.Sprint(blockSize))
	b.g.must("target", "create", bootIQN)
	b.g.must("lun", "add", bootIQN, "disk")
	b.g.must("acl", "add", bootIQN, bootInitiator)
	b.g.must("chap", "set", bootIQN, "--user", bootUser, "--secret-file", b.secret)
	return b
}

func (b *bootTarget) start() {
	b.t.Helper()
	v, _ := b.c.status()
	b.g = serveAt(b.t, b.control, nil, "--mds", v.MDS[0].Address, "--iscsi-listen", b.portal,
		"--nbd-listen", "unix:"+strings.TrimPrefix(b.control, "unix:")+".nbd")
}

// tool runs a program, which must succeed.
func (b *bootTarget) tool(name string, args ...string) {
	b.t.Helper()
	(&unit{t: b.t}).tool(name, args...)
}

// drive is how QEMU finds the unit, for qemu-img.
func (b *bootTarget) drive() string {
	return fmt.Sprintf("driver=raw,file.driver=iscsi,file.transport=tcp,file.portal=%s,file.target=%s,file.lun=0,file.initiator-name=%s,file.user=%s,file.password-secret=chap",
		b.portal, bootIQN, bootInitiator, bootUser)
}

func (b *bootTarget) object() string { return "secret,id=chap,file=" + b.secret }

// disk is QEMU's flags for it. Any error that QEMU sees reaches the guest.
func (b *bootTarget) disk(device ...string) []string {
	return append([]string{
		"-object", b.object(),
		"-iscsi", "initiator-name=" + bootInitiator + ",user=" + bootUser + ",password-secret=chap",
		"-drive", "file=iscsi://" + b.portal + "/" + bootIQN + "/0,format=raw,if=none,id=disk,cache=none,werror=report,rerror=report",
	}, device...)
}

// session is the only one at the target.
func (b *bootTarget) session() string {
	b.t.Helper()
	type session struct{ Initiator, Address, Since string }
	info := mustJSON[struct{ Sessions []session }](b.g, "target", "info", bootIQN)
	if len(info.Sessions) != 1 {
		b.t.Fatalf("there are %d sessions, want the guest's: %+v", len(info.Sessions), info.Sessions)
	}
	return fmt.Sprintf("%+v", info.Sessions[0])
}

// TestQemuBootsFromAUnit: a Linux that lives on a unit notices nothing when the leader
// of its chunks and its gateway die.
func TestQemuBootsFromAUnit(t *testing.T) {
	files := makeGuest(t)
	for _, c := range []struct {
		name, root string
		blockSize  int
		device     []string
	}{
		{"scsi-hd", "/dev/sda", 4096, []string{"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk"}},
		{"virtio-blk", "/dev/vda", 512, []string{"-device", "virtio-blk-pci,drive=disk"}},
		{"scsi-block", "/dev/sda", 4096, []string{"-device", "virtio-scsi-pci", "-device", "scsi-block,drive=disk"}},
	} {
		t.Run(c.name, func(t *testing.T) { // names without commas: QEMU reads paths
			b := startBootTarget(t, c.blockSize)
			b.tool("qemu-img", "convert", "--object", b.object(), "-n", "-f", "raw", "--target-image-opts", files.root(), b.drive())
			written := map[string]string{}
			g := files.boot(t, c.root, written, b.disk(c.device...)...)
			restAndWork(g, b)
			for _, d := range disturbances {
				d.on(g, b)
			}
			g.rest()
			g.verify()
			g.noComplaints()
			t.Logf("QEMU said:\n%s", g.powerOff())
			b.wantSound()

			g = files.boot(t, c.root, written, b.disk(c.device...)...)
			g.verify()
			g.noComplaints()
			g.powerOff()
			b.wantSound()
		})
	}
}

// idle is how long a guest does nothing, in which QEMU and the target ask each other
// whether they live.
const idle = 60 * time.Second

// restAndWork lets the guest work, do nothing, and work again, in one session. It leaves
// it at work.
func restAndWork(g *guest, b *bootTarget) {
	g.t.Helper()
	g.load()
	g.progress(100)
	quiet := g.pause()
	g.rest()
	before := b.session()
	time.Sleep(idle) // the very thing that is tested
	g.verify()
	g.load()
	g.progress(100)
	if after := b.session(); after != before {
		g.t.Errorf("the session was %s before the guest was idle and is %s", before, after)
	}
	g.t.Logf("longest pause undisturbed: %v; after %v idle: %v", quiet, idle, g.pause())
}

// disturbance is what a guest must not notice on its disk but as a pause.
type disturbance struct {
	name  string
	times int
	do    func(g *guest, b *bootTarget)
}

var disturbances = []disturbance{
	{"leader killed", 5, func(g *guest, b *bootTarget) {
		leader := b.c.awaitHealthy().mostLeading()
		b.c.kill(leader)
		g.progress(20) // without it
		b.c.must("cluster", "start", leader)
	}},
	{"gateway killed", 5, func(_ *guest, b *bootTarget) {
		b.g.signal(syscall.SIGKILL)
		b.g.wait()
		b.start()
	}},
	{"gateway stopped and started", 5, func(_ *guest, b *bootTarget) {
		b.g.stop()
		b.start()
	}},
	{"gateway killed, away for 20 s", 1, func(_ *guest, b *bootTarget) {
		b.g.signal(syscall.SIGKILL)
		b.g.wait()
		time.Sleep(20 * time.Second)
		b.start()
	}},
	// QEMU gives a connection up that says nothing for 15 s.
	{"gateway hangs for 25 s", 1, func(_ *guest, b *bootTarget) {
		b.g.signal(syscall.SIGSTOP)
		time.Sleep(25 * time.Second)
		b.g.signal(syscall.SIGCONT)
	}},
}

// on does it to a guest under load, again and again.
func (d disturbance) on(g *guest, b *bootTarget) {
	g.t.Helper()
	var pauses []time.Duration
	for range d.times {
		g.progress(20)
		g.pause()
		d.do(g, b)
		g.progress(40)
		pauses = append(pauses, g.pause())
	}
	slices.Sort(pauses)
	g.t.Logf("%s: longest pauses %v", d.name, pauses)
}

// wantSound takes a copy of the unit and checks the file system on it.
func (b *bootTarget) wantSound() {
	b.t.Helper()
	copied := filepath.Join(b.t.TempDir(), "copy")
	b.tool("qemu-img", "convert", "--object", b.object(), "--image-opts", b.drive(), "-O", "raw", copied)
	b.tool("e2fsck", "-fn", copied)
}
