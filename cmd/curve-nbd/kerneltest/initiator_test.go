package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// initiator is the kernel's, with open-iscsi, on one path to a target.
type initiator struct {
	t           *testing.T
	iqn, portal string
	lun         int
}

// startDaemon starts iscsid, once for all tests.
var startDaemon = sync.OnceValue(func() error {
	if err := os.MkdirAll("/run/lock/iscsi", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/iscsi/initiatorname.iscsi", []byte("InitiatorName=iqn.1993-08.org.debian:guest\n"), 0o600); err != nil {
		return err
	}
	log, err := os.Create("/run/iscsid.log")
	if err != nil {
		return err
	}
	cmd := exec.Command("iscsid", "-f")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
})

// newInitiator knows the target without discovery, and forgets it when the test ends.
func newInitiator(t *testing.T, iqn, portal string, lun int) *initiator {
	t.Helper()
	if err := startDaemon(); err != nil {
		t.Fatal(err)
	}
	i := &initiator{t, iqn, portal, lun}
	i.node("-o", "new")
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := exec.Command("sh", "-c", "tail -30 /run/iscsid.log; dmesg | tail -30").Output()
			t.Logf("iscsid and the kernel said:\n%s", log)
		}
		i.try("-u")
		i.try("-o", "delete")
	})
	return i
}

// try runs iscsiadm on this target's record.
func (i *initiator) try(args ...string) outcome {
	i.t.Helper()
	return execute(i.t, nil, "iscsiadm", append([]string{"-m", "node", "-T", i.iqn, "-p", i.portal}, args...)...)
}

// node is try for what must succeed.
func (i *initiator) node(args ...string) {
	i.t.Helper()
	until(i.t, "iscsid answers", func() bool { return execute(i.t, nil, "iscsiadm", "-m", "iface").code == 0 })
	if o := i.try(args...); o.code != 0 {
		i.t.Fatalf("iscsiadm %s: exit code %d: %s%s", strings.Join(args, " "), o.code, o.out, o.errors)
	}
}

// set changes settings of the record, in pairs of name and value.
func (i *initiator) set(pairs ...string) {
	i.t.Helper()
	for n := 0; n < len(pairs); n += 2 {
		i.node("-o", "update", "-n", pairs[n], "-v", pairs[n+1])
	}
}

// login returns the block device of the unit.
func (i *initiator) login() string {
	i.t.Helper()
	i.node("-l")
	dev := ""
	until(i.t, "the unit is a block device", func() bool { dev = i.device(); return dev != "" })
	return dev
}

// refused is a login that must not succeed.
func (i *initiator) refused() {
	i.t.Helper()
	if o := i.try("-l"); o.code == 0 {
		i.t.Error("the login succeeded")
		i.node("-u")
	} else if !strings.Contains(o.errors, "authorization") && !strings.Contains(o.errors, "login failure") {
		i.t.Errorf("the login failed otherwise: %s", o.errors)
	}
}

func (i *initiator) logout() {
	i.t.Helper()
	i.node("-u")
	until(i.t, "the block device is gone", func() bool { return i.device() == "" })
}

// session is the directory of the session in sysfs, "" without one.
func (i *initiator) session() string {
	_, port, _ := strings.Cut(i.portal, ":")
	dirs, _ := filepath.Glob("/sys/class/iscsi_session/session*")
	for _, dir := range dirs {
		number := strings.TrimPrefix(filepath.Base(dir), "session")
		if content(dir+"/targetname") == i.iqn && content("/sys/class/iscsi_connection/connection"+number+":0/persistent_port") == port {
			return dir
		}
	}
	return ""
}

// device is the node of the unit, "" without one.
func (i *initiator) device() string {
	session := i.session()
	if session == "" {
		return ""
	}
	found, _ := filepath.Glob(session + "/device/target*/*:*:*:" + strconv.Itoa(i.lun) + "/block/*")
	if len(found) != 1 {
		return ""
	}
	node := "/dev/" + filepath.Base(found[0])
	if _, err := os.Stat(node); err != nil {
		return ""
	}
	return node
}

// content is that of a file of one line, "" if it cannot be read.
func content(file string) string {
	text, _ := os.ReadFile(file)
	return strings.TrimSpace(string(text))
}
