package main

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway/control"
)

func TestTabIsReadAsALog(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"as Curve writes it", "# comment\n+\t/dev/nbd0\tcbd:pool//a_u_\tdefaults\n+\t/dev/nbd1\tcbd:pool//b_u_\ttry-netlink\n-\t/dev/nbd0\n",
			"# comment\n+\t/dev/nbd1\tcbd:pool//b_u_\ttry-netlink\n"},
		{"mapped again", "+ /dev/nbd0 a defaults\n- /dev/nbd0\n+ /dev/nbd0 b read-only\n", "+\t/dev/nbd0\tb\tread-only\n"},
		{"mounts are kept", "+ /dev/nbd0 a defaults /mnt rw,noatime\n", "+\t/dev/nbd0\ta\tdefaults\t/mnt\trw,noatime\n"},
		{"no end of line", "+ /dev/nbd0 a defaults", "+\t/dev/nbd0\ta\tdefaults\n"},
	} {
		tab, err := parseTab(c.text)
		if err != nil || tab.String() != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, tab, err, c.want)
		}
	}
	for _, text := range []string{"nonsense", "+ /dev/nbd0", "-", "* /dev/nbd0 a defaults"} {
		if _, err := parseTab(text); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTabEntriesBecomeRequests(t *testing.T) {
	for _, c := range []struct {
		line string
		want control.MapRequest
	}{
		{"+ /dev/nbd0 cbd:pool//team/db-1_user_ defaults", control.MapRequest{Volume: "team/db-1", Device: "/dev/nbd0"}},
		{"+ /dev/nbd0 a read-only,connections=4,timeout=7s,reattach-timeout=60,no-exclusive",
			control.MapRequest{Volume: "a", Device: "/dev/nbd0", ReadOnly: true, Connections: 4, Timeout: 7 * time.Second, Reattach: time.Minute, Shared: true}},
		{"+ /dev/nbd0 a nbds_max=8,max_part=4,device=/dev/nbd2,try-netlink,nebd-conf=/x",
			control.MapRequest{Volume: "a", Device: "/dev/nbd2", MaxDevices: "8", MaxPartitions: "4"}},
	} {
		tab, err := parseTab(c.line)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tab.entries()[0].request(); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.line, got, err, c.want)
		}
	}
	for _, options := range []string{"nonsense", "timeout=soon", "connections=many"} {
		if _, err := (tabLine{device: "/dev/nbd0", image: "a", options: options}).request(); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v", options, err)
		}
	}
}

// What list-mapped shows as options, the table reads.
func TestMappedDevicesCanBeWrittenToTheTab(t *testing.T) {
	d := control.Device{Path: "/dev/nbd3", Volume: "a/b", ReadOnly: true, Connections: 2, Timeout: 9 * time.Second, Reattach: time.Hour}
	tab := &curvetab{lines: []tabLine{lineOf(d, true, true)}}
	again, err := parseTab(tab.String())
	if err != nil {
		t.Fatal(err)
	}
	want := control.MapRequest{Volume: "a/b", Device: "/dev/nbd3", ReadOnly: true, Connections: 2, Timeout: 9 * time.Second, Reattach: time.Hour, Shared: true, TryIoctl: true}
	if got, err := again.entries()[0].request(); err != nil || got != want {
		t.Errorf("%q becomes %+v, %v", tab, got, err)
	}
}

func TestTabIsEditedByOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "curvetab")
	var editing sync.WaitGroup
	for i := range 20 {
		editing.Go(func() {
			err := editTab(path, func(tab *curvetab) {
				tab.lines = append(tab.lines, lineOf(control.Device{Path: "/dev/nbd" + string(rune('a'+i)), Volume: "v"}, false, false))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	editing.Wait()
	tab, err := readTab(path)
	if err != nil || len(tab.entries()) != 20 {
		t.Errorf("%d of 20 entries, %v", len(tab.entries()), err)
	}
	if err := os.Truncate(path, maxTabBytes+1); err != nil {
		t.Fatal(err)
	}
	if _, err := readTab(path); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("a table of a megabyte: %v", err)
	}
}

func TestVolumeNamesInCurvesSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"pg-data": "pg-data", "team/a_b": "team/a_b", "cbd:pool//pg-data_user_": "pg-data", "cbd:pool1//dir/a_b_user_": "dir/a_b",
		"cbd:pool//a_u_:/etc/curve/client.conf": "a", "cbd:pool//a": "", "cbd:a_u_": "", "cbd:pool//_u_": "", "cbd:pool//a__": "",
	} {
		got, err := volumeName(text)
		if want == "" && !errors.Is(err, errUsage) || want != "" && (err != nil || got != want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func FuzzTab(f *testing.F) {
	f.Add("+\t/dev/nbd0\tcbd:pool//a_u_\tdefaults\n-\t/dev/nbd0\n# x\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		tab, err := parseTab(text)
		if err != nil {
			return
		}
		again, err := parseTab(tab.String())
		if err != nil || again.String() != tab.String() {
			t.Fatalf("%q is written as %q and read as %q, %v", text, tab, again, err)
		}
		for _, e := range tab.entries() {
			_, _ = e.request()
		}
	})
}
