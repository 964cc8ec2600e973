package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testUsers: unmap is refused, and says why, whoever uses the device and however.
func testUsers(t *testing.T, g *gateway) {
	dev := g.device("d7", "256M")
	refused := func(says string) {
		t.Helper()
		g.refused(4, says, "unmap", "d7")
	}
	hold, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	refused(fmt.Sprintf("%s is open in process %d", filepath.Base(dev), os.Getpid()))
	hold.Close()

	must(t, "mkswap", dev)
	if o := execute(t, nil, "swapon", dev); o.code == 0 { // a kernel without swap cannot
		refused("is used as swap")
		must(t, "swapoff", dev)
	}

	must(t, "modprobe", "loop")
	loop := strings.TrimSpace(must(t, "losetup", "--show", "-f", dev))
	refused(filepath.Base(dev) + " is under " + filepath.Base(loop))
	must(t, "losetup", "-d", loop)

	must(t, "modprobe", "dm-mod")
	must(t, "dmsetup", "create", "--noudevsync", "on-nbd", "--table", "0 1024 linear "+dev+" 0")
	refused(filepath.Base(dev) + " is part of dm-0")
	must(t, "dmsetup", "remove", "--noudevsync", "on-nbd")

	partition(t, dev, "size=128MiB\n")
	dir := mount(t, "ext4", dev+"p1")
	refused(filepath.Base(dev) + "p1 is mounted on " + dir)
	must(t, "umount", dir)

	refusedElsewhere(t, dev+"p1", dir, refused)
	g.ok("unmap", dev)
}

// refusedElsewhere mounts a device where only another process sees it.
func refusedElsewhere(t *testing.T, dev, dir string, refused func(says string)) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount "+dev+" "+dir+" && echo mounted && read forever")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 16)); n == 0 {
		t.Fatalf("mount in a namespace of its own: %v", err)
	}
	refused(filepath.Base(dev) + " is mounted on " + dir)
	in.Close()
	cmd.Wait() // `read` ends without a line
}

// partition gives a device a table, and waits for its first partition.
func partition(t *testing.T, dev, layout string) {
	t.Helper()
	cmd := exec.Command("sfdisk", "-q", dev)
	cmd.Stdin = strings.NewReader("label: gpt\n" + layout)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	until(t, "the partition has a node", func() bool { _, err := os.Stat(dev + "p1"); return err == nil })
}
