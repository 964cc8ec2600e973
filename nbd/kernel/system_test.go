package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

// tree makes a system of files; a text that begins with -> makes a link.
func tree(t *testing.T, files map[string]string) System {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(text, "->")
		var err error
		if link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return System{root: root}
}

func device(more map[string]string) map[string]string {
	files := map[string]string{
		"sys/block/nbd0/dev": "43:0\n", "sys/block/nbd0/pid": "12\n", "sys/block/nbd0/backend": "me\n", "sys/block/nbd0/size": "2048\n",
		"sys/block/nbd0/ro": "1\n", "sys/block/nbd0/queue/logical_block_size": "4096\n",
		"sys/block/nbd0/nbd0p1/dev": "43:1\n", "sys/block/nbd1/dev": "43:32\n", "sys/block/vda/dev": "254:0\n",
		"proc/1/stat": "", "proc/1/ns/mnt": "->mnt:[1]", "proc/1/comm": "init\n", "proc/1/mountinfo": "", "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
	}
	for name, text := range more {
		files[name] = text
	}
	return files
}

func TestStateIsWhatSysfsSays(t *testing.T) {
	s := tree(t, device(nil))
	want := State{Connected: true, Backend: "me", PID: 12, Size: 1 << 20, BlockSize: 4096, ReadOnly: true}
	if st, err := s.State(0); err != nil || st != want {
		t.Errorf("%+v, %v; want %+v", st, err, want)
	}
	for _, index := range []int{1, 7} { // not connected; not there
		if st, err := s.State(index); err != nil || st != (State{}) {
			t.Errorf("device %d: %+v, %v", index, st, err)
		}
	}
	if list, err := s.Devices(); err != nil || !slices.Equal(list, []int{0, 1}) {
		t.Errorf("devices %v, %v", list, err)
	}
	if _, err := tree(t, device(map[string]string{"sys/block/nbd0/size": "many"})).State(0); err == nil {
		t.Error("a size that is no number passes")
	}
}

func TestUsersAreNamed(t *testing.T) {
	const mountinfo = "36 35 %s / %s rw - ext4 %s rw\n"
	mounted := func(number, at, source string) string {
		return strings.NewReplacer("36 35 %s / %s rw - ext4 %s", "36 35 "+number+" / "+at+" rw - ext4 "+source).Replace(mountinfo)
	}
	for _, c := range []struct {
		name string
		more map[string]string
		want []string
	}{
		{"nobody", nil, nil},
		{"a mount", map[string]string{"proc/1/mountinfo": mounted("43:0", "/mnt", "/dev/nbd0")}, []string{"nbd0 is mounted on /mnt"}},
		{"a mount by another name", map[string]string{"proc/1/mountinfo": mounted("43:0", "/mnt", "/dev/curve/x")}, []string{"nbd0 is mounted on /mnt"}},
		{"a mount of several devices", map[string]string{"proc/1/mountinfo": mounted("0:44", "/mnt", "/dev/nbd0p1")}, []string{"nbd0p1 is mounted on /mnt"}},
		{"a partition's mount", map[string]string{"proc/1/mountinfo": mounted("43:1", "/p", "/dev/nbd0p1")}, []string{"nbd0p1 is mounted on /p"}},
		{"another device's mount", map[string]string{"proc/1/mountinfo": mounted("43:32", "/q", "/dev/nbd1")}, nil},
		{"a container's mount", map[string]string{"proc/7/stat": "", "proc/7/ns/mnt": "->mnt:[2]", "proc/7/mountinfo": mounted("43:0", "/in", "/dev/nbd0")},
			[]string{"nbd0 is mounted on /in"}},
		{"swap", map[string]string{"proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/nbd0p1 partition 100 0 -2\n"}, []string{"nbd0p1 is used as swap"}},
		{"device mapper", map[string]string{"sys/block/nbd0/holders/dm-3/x": ""}, []string{"nbd0 is part of dm-3"}},
		{"md on a partition", map[string]string{"sys/block/nbd0/nbd0p1/holders/md0/x": ""}, []string{"nbd0p1 is part of md0"}},
		{"a loop device", map[string]string{"sys/block/loop2/loop/backing_file": "/dev/nbd0p1\n"}, []string{"nbd0p1 is under loop2"}},
		{"a loop device on a file", map[string]string{"sys/block/loop2/loop/backing_file": "/tmp/nbd0\n"}, nil},
		{"a process", map[string]string{"proc/9/fd/4": "->/dev/nbd0", "proc/9/comm": "dd\n"}, []string{"nbd0 is open in process 9 (dd)"}},
		{"this process", map[string]string{"proc/9/fd/4": "->/dev/nbd0", "proc/self": "->9"}, nil},
		{"a process with another", map[string]string{"proc/9/fd/4": "->/dev/nbd1"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := tree(t, device(c.more)).Users(0)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestMountedAreThisProcessesOwnMounts(t *testing.T) {
	mounts := "36 35 43:0 / /a rw - ext4 /dev/nbd0 rw\n37 35 43:0 / /again rw - ext4 /dev/curve/x rw\n38 35 0:44 / /b rw - btrfs /dev/nbd0p1 rw\n39 35 43:32 / /c rw - ext4 /dev/nbd1 rw\n"
	s := tree(t, device(map[string]string{"proc/self": "->1", "proc/1/mountinfo": mounts, "proc/7/stat": "", "proc/7/mountinfo": ""}))
	if got, err := s.Mounted(0); err != nil || !slices.Equal(got, []string{"/dev/nbd0", "/dev/nbd0p1"}) {
		t.Errorf("mounted: %q, %v", got, err)
	}
	if got, err := tree(t, device(map[string]string{"proc/self": "->1"})).Mounted(0); err != nil || len(got) != 0 {
		t.Errorf("with no mounts: %q, %v", got, err)
	}
}

func TestAnnounceTellsOfTheDeviceAndItsPartitions(t *testing.T) {
	s := tree(t, device(map[string]string{"sys/block/nbd0/uevent": "", "sys/block/nbd0/nbd0p1/uevent": "", "sys/block/nbd1/uevent": ""}))
	if err := s.Announce(0); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"nbd0": "change", "nbd0/nbd0p1": "change", "nbd1": ""} {
		if got, err := read(s.path("sys/block", name, "uevent")); err != nil || got != want {
			t.Errorf("%s was told %q, %v; want %q", name, got, err, want)
		}
	}
	if err := s.Announce(7); err != nil {
		t.Errorf("a device that is not there: %v", err)
	}
}

func TestParseDevice(t *testing.T) {
	for text, want := range map[string]int{"/dev/nbd0": 0, "nbd12": 12, "/dev/nbd": -1, "/dev/sda": -1, "/dev/nbd0p1": -1, "/dev/nbd-1": -1, "/dev/nbd01": -1, "": -1, "nbd99999999": -1} {
		got, err := ParseDevice(text)
		if want < 0 && !errors.Is(err, backend.ErrInvalid) || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
