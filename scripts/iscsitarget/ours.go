package iscsitarget

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Ours starts a gateway, with a volume for each unit.
func Ours(o Options) (*Target, error) {
	t := &Target{Name: "curve-nbd"}
	control := "unix:" + filepath.Join(o.Dir, "control.sock")
	argv := append([]string{
		o.Program, "serve", "--control", control, "--nbd-listen", "unix:" + filepath.Join(o.Dir, "nbd.sock"),
		"--iscsi-listen", "127.0.0.1:0", "--log-level", "warn",
	}, o.Serve...)
	if err := t.launch(argv...); err != nil {
		return nil, err
	}
	portal := ""
	if err := t.await("it serves iSCSI", func() bool { portal = listening(t.Log()); return portal != "" }); err != nil {
		return t.stopOn(err)
	}
	if err := t.await("it is healthy", func() bool {
		return exec.Command(o.Program, "health", "--control", control).Run() == nil
	}); err != nil {
		return t.stopOn(err)
	}
	units := o.Units
	if o.ReadOnly {
		units++
	}
	for i := range units {
		name, volume := iqn(i), "unit"+strconv.Itoa(i)
		add := []string{"lun", "add", "--control", control}
		if o.Removable {
			add = append(add, "--removable")
		}
		if o.PhysicalBytes > 0 {
			add = append(add, "--physical-block", strconv.Itoa(o.PhysicalBytes))
		}
		if i == o.Units {
			add = append(add, "--read-only")
		}
		for _, args := range [][]string{
			{"volume", "create", "--size", fmt.Sprintf("%dM", o.MiB), "--block-size", strconv.Itoa(o.BlockBytes), "--control", control, volume},
			{"target", "create", "--control", control, name},
			append(add, name, volume),
			{"acl", "add", "--control", control, name, "any"},
		} {
			if err := run(append([]string{o.Program}, args...)...); err != nil {
				return t.stopOn(err)
			}
		}
		t.offers(o, i, fmt.Sprintf("iscsi://%s/%s/0", portal, name))
	}
	return t, nil
}

// listening finds the portal in what serve says, "" while it has not said it.
func listening(log string) string {
	for line := range strings.Lines(log) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "listening" && words[1] == "iscsi" {
			return strings.TrimPrefix(words[2], "tcp:")
		}
	}
	return ""
}
