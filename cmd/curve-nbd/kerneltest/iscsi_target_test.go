package kerneltest

import (
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

// scsiTarget is an iSCSI target in the guest with one unit, which is killed and
// started again: ours, or tgt, by which these tests themselves are checked.
type scsiTarget interface {
	// where says where the unit is.
	where() (portal string, lun int)
	// chap makes initiators prove themselves, and mutual the target too.
	chap(user, secret string)
	mutual(user, secret string)
	// grow gives the unit another size.
	grow(mib int)
	// allocated is the space that the unit takes, in bytes.
	allocated() int64
	kill()
	start()
}

// peerEnv names the target to test in place of ours: "tgt", or nothing.
const peerEnv = "CURVE_ISCSI_PEER"

// startTarget starts one under a name, which is made unique.
func startTarget(t *testing.T, name string, mib int) scsiTarget {
	t.Helper()
	if os.Getenv(peerEnv) == "tgt" {
		return startTgt(t, name, mib)
	}
	g := newGateway(t)
	o := serveTarget(g, 3260)
	g.ok("volume", "create", "disk", "--size", fmt.Sprintf("%dM", mib))
	o.export(name)
	return o
}

// ourTarget is a gateway's.
type ourTarget struct {
	g    *gateway
	port int
	iqn  string
}

// serveTarget starts a gateway that serves iSCSI too.
func serveTarget(g *gateway, port int) *ourTarget {
	g.t.Helper()
	o := &ourTarget{g: g, port: port}
	g.front = []string{"--iscsi-listen", "127.0.0.1:" + strconv.Itoa(port)}
	g.start()
	return o
}

// export makes volume "disk" unit 0 of a target that anybody may use.
func (o *ourTarget) export(iqn string) {
	o.g.t.Helper()
	o.iqn = iqn
	o.g.ok("target", "create", iqn)
	o.g.ok("lun", "add", iqn, "disk")
	o.g.ok("acl", "add", iqn, "any")
}

func (o *ourTarget) where() (string, int) { return "127.0.0.1:" + strconv.Itoa(o.port), 0 }
func (o *ourTarget) kill()                { o.g.stop(syscall.SIGKILL) }
func (o *ourTarget) start()               { o.g.start() }
func (o *ourTarget) allocated() int64     { return o.g.allocated("disk") }
func (o *ourTarget) chap(user, secret string) {
	o.g.ok("chap", "set", o.iqn, "--user", user, "--secret-file", o.secret(secret))
}

func (o *ourTarget) mutual(user, secret string) {
	o.g.ok("chap", "set", o.iqn, "--mutual", "--user", user, "--secret-file", o.secret(secret))
}

func (o *ourTarget) secret(text string) string {
	o.g.t.Helper()
	file := filepath.Join(o.g.dir, "secret")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		o.g.t.Fatal(err)
	}
	return file
}

func (o *ourTarget) grow(mib int) {
	o.g.t.Helper()
	o.g.ok("volume", "resize", "disk", fmt.Sprintf("%dM", mib))
}

// tgt is Debian's target, on a file in memory.
type tgt struct {
	t         *testing.T
	iqn, file string
	number    int        // of several that run at once
	accounts  [][]string // what was told it, for when it starts again
	cmd       *exec.Cmd
}

func startTgt(t *testing.T, iqn string, mib int) *tgt {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tgt") // of a name without commas
	if err != nil {
		t.Fatal(err)
	}
	g := &tgt{t: t, iqn: iqn, file: filepath.Join(dir, "disk")}
	t.Cleanup(func() { g.kill(); os.RemoveAll(dir) })
	must(t, "truncate", "-s", fmt.Sprintf("%dM", mib), g.file)
	g.start()
	return g
}

func (g *tgt) where() (string, int) { return "127.0.0.1:" + strconv.Itoa(3260+g.number), 1 }

func (g *tgt) control() string { return strconv.Itoa(1 + g.number) }

func (g *tgt) start() {
	g.t.Helper()
	// The portal comes last: an initiator that finds no target gives up.
	g.cmd = exec.Command("tgtd", "-f", "-C", g.control(), "--iscsi", "portal=127.0.0.1:"+strconv.Itoa(3250+g.number))
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	until(g.t, "tgtd answers", func() bool { return g.admin("--op", "show", "--mode", "target").code == 0 })
	unit := []string{"--mode", "logicalunit", "--tid", "1", "--lun", "1"}
	for _, args := range append([][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", g.iqn},
		append([]string{"--op", "new", "-b", g.file}, unit...),
		append([]string{"--op", "update", "--params", "thin_provisioning=1"}, unit...),
		{"--op", "update", "--mode", "target", "--tid", "1", "--name", "HeaderDigest", "--value", "None,CRC32C"},
		{"--op", "update", "--mode", "target", "--tid", "1", "--name", "DataDigest", "--value", "None,CRC32C"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	}, g.accounts...) {
		g.ok(args...)
	}
	portal, _ := g.where()
	g.ok("--op", "new", "--mode", "portal", "--param", "portal="+portal)
}

func (g *tgt) admin(args ...string) outcome {
	g.t.Helper()
	return execute(g.t, nil, "tgtadm", append([]string{"-C", g.control(), "--lld", "iscsi"}, args...)...)
}

func (g *tgt) ok(args ...string) {
	g.t.Helper()
	if o := g.admin(args...); o.code != 0 {
		g.t.Fatalf("tgtadm %s: %s%s", strings.Join(args, " "), o.out, o.errors)
	}
}

func (g *tgt) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	time.Sleep(100 * time.Millisecond) // its control socket has no file to watch
}

func (g *tgt) account(user, secret string, flags ...string) {
	g.t.Helper()
	for _, args := range [][]string{
		{"--op", "new", "--mode", "account", "--user", user, "--password", secret},
		append([]string{"--op", "bind", "--mode", "account", "--tid", "1", "--user", user}, flags...),
	} {
		g.ok(args...)
		g.accounts = append(g.accounts, args)
	}
}

func (g *tgt) chap(user, secret string)   { g.account(user, secret) }
func (g *tgt) mutual(user, secret string) { g.account(user, secret, "--outgoing") }

// grow starts it again: it looks at the size of its file only then.
func (g *tgt) grow(mib int) {
	g.t.Helper()
	g.kill()
	must(g.t, "truncate", "-s", fmt.Sprintf("%dM", mib), g.file)
	g.start()
}

func (g *tgt) allocated() int64 {
	g.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(g.file, &st); err != nil {
		g.t.Fatal(err)
	}
	return st.Blocks * 512
}
