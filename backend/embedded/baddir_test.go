package embedded_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/embedded"
)

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree lists a directory with the sizes of its files.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && !e.IsDir() {
			list = append(list, fmt.Sprintf("%s %d", path, info.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestDirectoryThatIsNotOursIsRefusedAndLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string)
		want error
		says []string
	}{
		"somebody's files": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "thesis.txt"), "precious")
			put(t, filepath.Join(dir, "photos", "cat.jpg"), "meow")
		}, backend.ErrInvalid, []string{"not a curve-nbd data directory", "photos, thesis.txt", "empty or new directory"}},
		"many files": {func(t *testing.T, dir string) {
			for i := range 20 {
				put(t, filepath.Join(dir, fmt.Sprintf("file%02d", i)), "x")
			}
		}, backend.ErrInvalid, []string{"file00", "and 15 more"}},
		"chunks without identity": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "chunks", "01", "0000000000000001"), "data")
		}, backend.ErrInvalid, []string{"curve-nbd.json is missing", "0000000000000001"}},
		"a newer format": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "curve-nbd.json"), `{"format": 7, "colour": "blue"}`)
		}, backend.ErrNotSupported, []string{"format 7", "up to 1", "newer program"}},
		"identity cut short": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "curve-nbd.json"), `{"format": 1, "uu`)
		}, backend.ErrInvalid, []string{"curve-nbd.json", "JSON"}},
		"empty identity": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "curve-nbd.json"), "")
		}, backend.ErrInvalid, []string{"curve-nbd.json", "JSON"}},
		"identity without uuid": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "curve-nbd.json"), `{"format": 1}`)
		}, backend.ErrInvalid, []string{"uuid"}},
		"huge identity": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "curve-nbd.json"), strings.Repeat(" ", 1<<20))
		}, backend.ErrInvalid, []string{"4096"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			before := tree(t, dir)
			_, err := embedded.Open(dir, embedded.Options{Log: quiet})
			wantErr(t, err, c.want, append(c.says, dir)...)
			after := slices.DeleteFunc(tree(t, dir), func(s string) bool { return strings.HasPrefix(s, dir+"/lock ") })
			if !slices.Equal(before, after) {
				t.Errorf("the directory was changed:\nbefore %v\nafter  %v", before, after)
			}
		})
	}
}

func TestPathsThatCannotBeADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, "x")
	for path, says := range map[string]string{"": "empty", file: "it is a file", filepath.Join(file, "below"): "not a directory"} {
		_, err := embedded.Open(path, embedded.Options{Log: quiet})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("open %q: %v, want an error that says %q", path, err, says)
		}
	}
}

func TestDamagedDataDirectoryIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   error
		says   []string
	}{
		"no meta.db": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "meta", "meta.db")) },
			backend.ErrInvalid, []string{"meta.db is missing", "backup"}},
		"no chunks": {func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "chunks")) },
			backend.ErrInvalid, []string{"chunks is missing", "backup"}},
		"meta.db is text": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, "meta", "meta.db"), strings.Repeat("text ", 9000))
		},
			backend.ErrChecksum, []string{"meta.db is damaged", "backup"}},
		"meta.db cut short": {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "meta", "meta.db"), 9000) },
			backend.ErrChecksum, []string{"meta.db is damaged", "backup"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := openDir(t, dir, embedded.Options{})
			createVolume(t, b, "v", 1)
			closeBackend(t, b)
			c.damage(t, dir)
			_, err := embedded.Open(dir, embedded.Options{Log: quiet})
			wantErr(t, err, c.want, append(c.says, dir)...)
		})
	}
}

func TestInitialisationCutShortIsDoneAgain(t *testing.T) {
	made := t.TempDir()
	closeBackend(t, openDir(t, made, embedded.Options{}))
	metaFile, err := os.ReadFile(filepath.Join(made, "meta", "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	// What a crash may leave, in the order it comes about.
	for name, remains := range map[string]map[string]string{
		"lock only":        {"lock": ""},
		"directories":      {"lock": "", "meta/": "", "chunks/": ""},
		"half a meta.db":   {"lock": "", "chunks/": "", "meta/meta.db.tmp": string(metaFile[:5000])},
		"no identity":      {"lock": "", "chunks/": "", "meta/meta.db": string(metaFile)},
		"half an identity": {"lock": "", "chunks/": "", "meta/meta.db": string(metaFile), "curve-nbd.json.tmp": `{"form`},
		"a new ext4":       {"lost+found/": ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for path, content := range remains {
				if strings.HasSuffix(path, "/") {
					if err := os.MkdirAll(filepath.Join(dir, path), 0o700); err != nil {
						t.Fatal(err)
					}
					continue
				}
				put(t, filepath.Join(dir, path), content)
			}
			b := openDir(t, dir, embedded.Options{})
			createVolume(t, b, "v", 1)
			closeBackend(t, b)
			b = openDir(t, dir, embedded.Options{})
			if _, err := b.Meta().Volume(t.Context(), "v"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestVolumesOfADirectoryThatLostItsIdentityAreNotDiscarded(t *testing.T) {
	dir := t.TempDir()
	b := openDir(t, dir, embedded.Options{})
	createVolume(t, b, "v", 1) // no chunk was ever written
	closeBackend(t, b)
	identity := filepath.Join(dir, "curve-nbd.json")
	if err := os.Rename(identity, identity+".bak"); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Open(dir, embedded.Options{Log: quiet})
	wantErr(t, err, backend.ErrInvalid, "curve-nbd.json.bak")
	if err := os.Rename(identity+".bak", filepath.Join(t.TempDir(), "kept")); err != nil {
		t.Fatal(err)
	}
	_, err = embedded.Open(dir, embedded.Options{Log: quiet})
	wantErr(t, err, backend.ErrInvalid, "curve-nbd.json is missing", "1 volumes")
}

// mountTmpfs mounts a file system of its own; only root can.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a file system: full and read-only disks are NOT tested")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a tmpfs (%v): full and read-only disks are NOT tested", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func remount(t *testing.T, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatalf("remount: %v", err)
	}
}

func TestReadOnlyDirectoryIsRefused(t *testing.T) {
	for name, dir := range map[string]string{"new": "new", "empty": "", "made before": "made"} {
		t.Run(name, func(t *testing.T) {
			mount := mountTmpfs(t, "size=8m")
			path := filepath.Join(mount, dir)
			if dir == "made" {
				closeBackend(t, openDir(t, path, embedded.Options{}))
			}
			remount(t, mount, unix.MS_RDONLY)
			_, err := embedded.Open(path, embedded.Options{Log: quiet})
			wantErr(t, err, backend.ErrReadOnly, path, "read-only file system", "remount")
			if dir == "made" {
				remount(t, mount, 0)
				openDir(t, path, embedded.Options{})
			}
		})
	}
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullDiskIsRefusedForANewDirectory(t *testing.T) {
	mount := mountTmpfs(t, "size=1m")
	path := filepath.Join(mount, "data")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, filepath.Join(mount, "filler"))
	_, err := embedded.Open(path, embedded.Options{Log: quiet})
	wantErr(t, err, backend.ErrNoSpace, path, "free some")
	if err := os.Remove(filepath.Join(mount, "filler")); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, path, embedded.Options{}) // and nothing broken was left
	createVolume(t, b, "v", 1)
	closeBackend(t, b)
}

func TestDiskThatFillsUpRecoversWithoutARestart(t *testing.T) {
	mount := mountTmpfs(t, "size=4m")
	b := openDir(t, filepath.Join(mount, "data"), embedded.Options{})
	createVolume(t, b, "v", 1)
	fillDisk(t, filepath.Join(mount, "filler"))
	made := []string{"v"}
	var err error
	for i := 0; err == nil && i < 5000; i++ {
		name := fmt.Sprintf("v%d", i)
		if _, err = b.Meta().CreateVolume(t.Context(), backend.VolumeSpec{Name: name, Size: 4096}); err == nil {
			made = append(made, name)
		}
	}
	wantErr(t, err, backend.ErrNoSpace)
	if err := os.Remove(filepath.Join(mount, "filler")); err != nil {
		t.Fatal(err)
	}
	createVolume(t, b, "after", 1)
	path := b.Dir()
	closeBackend(t, b)
	b = openDir(t, path, embedded.Options{})
	for _, name := range append(made, "after") {
		if _, err := b.Meta().Volume(t.Context(), name); err != nil {
			t.Errorf("acknowledged volume: %v", err)
		}
	}
	closeBackend(t, b)
}

func TestDirectoryOnAFullDiskStillOpens(t *testing.T) {
	for name, crashed := range map[string]bool{"closed": false, "crashed with volumes open, metadata full too": true} {
		t.Run(name, func(t *testing.T) {
			mount := mountTmpfs(t, "size=4m")
			path := filepath.Join(mount, "data")
			b := openDir(t, path, embedded.Options{})
			createVolume(t, b, "v", 1)
			if crashed {
				openVolume(t, b, "v")
			}
			slack := filepath.Join(mount, "slack")
			if err := os.WriteFile(slack, make([]byte, 128<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			fillDisk(t, filepath.Join(mount, "filler"))
			for i := 0; crashed; i++ {
				_, err := b.Meta().CreateVolume(t.Context(), backend.VolumeSpec{Name: fmt.Sprintf("v%d", i), Size: 4096})
				if err != nil {
					wantErr(t, err, backend.ErrNoSpace)
					break
				}
			}
			closeBackend(t, b)
			// A metadata file that is full to its last page may lack the pages for any
			// change, removals too: then a little must be freed by hand.
			if err := os.Remove(slack); err != nil {
				t.Fatal(err)
			}
			b = openDir(t, path, embedded.Options{})
			// Space is got back by removing volumes: that must work now.
			openVolume(t, b, "v")
			closeVolume(t, b, openVolume(t, b, "v"))
			if _, err := b.Meta().RemoveVolume(t.Context(), "v"); err != nil {
				t.Error(err)
			}
			closeBackend(t, b)
		})
	}
}
