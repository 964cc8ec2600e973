package iscsitarget

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
)

// Tgt starts Debian's tgt, with a sparse file for each unit. Its unit 0 is its own, so
// ours are 1.
func Tgt(o Options) (*Target, error) {
	t := &Target{Name: "tgt", deaf: true}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	portal := "127.0.0.1:" + strconv.Itoa(port)
	// Its control socket is known by a number, not so high as that of the port.
	control := strconv.Itoa(port / 2)
	if err := t.launch("tgtd", "-f", "-C", control, "--iscsi", "portal="+portal); err != nil {
		return nil, err
	}
	adm := func(args ...string) error {
		return run(append([]string{"tgtadm", "-C", control, "--lld", "iscsi"}, args...)...)
	}
	if err := t.await("tgtadm reaches it", func() bool { return adm("--op", "show", "--mode", "target") == nil }); err != nil {
		return t.stopOn(err)
	}
	var files []string
	t.down = func() {
		for _, file := range files {
			os.Remove(file)
		}
	}
	store := o.Store
	if store == "" {
		store = o.Dir
	}
	units := o.Units
	if o.ReadOnly {
		units++
	}
	for i := range units {
		file := filepath.Join(store, fmt.Sprintf("tgt-%d-%d.img", port, i))
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return t.stopOn(err)
		}
		files = append(files, file)
		if err := os.Truncate(file, int64(o.MiB)<<20); err != nil {
			return t.stopOn(err)
		}
		if err := addUnit(adm, o, i, file); err != nil {
			return t.stopOn(err)
		}
		t.offers(o, i, fmt.Sprintf("iscsi://%s/%s/1", portal, iqn(i)))
	}
	return t, nil
}

func addUnit(adm func(args ...string) error, o Options, i int, file string) error {
	tid := strconv.Itoa(i + 1)
	params := "thin_provisioning=1"
	if o.Removable {
		params += ",removable=1"
	}
	if o.PhysicalBytes > 0 {
		params += fmt.Sprintf(",lbppbe=%d", bits.Len(uint(o.PhysicalBytes/o.BlockBytes))-1)
	}
	if i == o.Units {
		params += ",readonly=1"
	}
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", tid, "-T", iqn(i)},
		{"--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "-b", file, "--blocksize", strconv.Itoa(o.BlockBytes)},
		{"--op", "update", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "--params", params},
		{"--op", "bind", "--mode", "target", "--tid", tid, "-I", "ALL"},
	} {
		if err := adm(args...); err != nil {
			return err
		}
	}
	return nil
}
