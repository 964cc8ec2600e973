package backendtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

var metaNameCases = []metaCase{
	{"GoodNames", func(t *testing.T, m backend.Meta) {
		for _, name := range []string{
			"v", "V", "0", "a-b_c.d", ".hidden", "...", "-", "_", "a/b/c", "a/b.c", "a/..b", "cbd_pool/vol_user_",
			strings.Repeat("n", 255), strings.Repeat("d/", 127) + "x",
		} {
			info, err := m.CreateVolume(t.Context(), metaSpec(name, 1))
			if err != nil || info.Name != name {
				t.Errorf("create %.40q: name %.40q, %v", name, info.Name, err)
			}
		}
	}},
	{"LeadingSlashIsDropped", func(t *testing.T, m backend.Meta) {
		if info := mustCreate(t, m, "/dir/v", 1); info.Name != "dir/v" {
			t.Errorf("name is %q, want dir/v", info.Name)
		}
		for _, name := range []string{"dir/v", "/dir/v"} {
			if _, err := m.Volume(t.Context(), name); err != nil {
				t.Errorf("look %q up: %v", name, err)
			}
		}
		_, err := m.CreateVolume(t.Context(), metaSpec("dir/v", 1))
		wantErr(t, err, backend.ErrExists, "dir/v")
	}},
	{"BadNamesAreRefusedAndSayWhy", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "good", 1)
		for name, c := range map[string]struct{ name, says string }{
			"empty":              {"", "empty"},
			"only a slash":       {"/", "empty"},
			"two leading":        {"//v", "empty"},
			"empty element":      {"a//b", "empty"},
			"trailing slash":     {"a/", "empty"},
			"dot":                {".", `"."`},
			"dot inside":         {"a/./b", `"."`},
			"dot dot":            {"..", `".."`},
			"dot dot first":      {"../v", `".."`},
			"dot dot last":       {"a/..", `".."`},
			"space":              {"a b", `" "`},
			"NUL":                {"a\x00b", `"\x00"`},
			"newline":            {"a\n", `"\n"`},
			"backslash":          {`a\b`, `"\\"`},
			"colon":              {"a:b", `":"`},
			"not ASCII":          {"gr\u00f6n", "position 2"},
			"invalid UTF-8":      {"a\xff", `"\xff"`},
			"256 bytes":          {strings.Repeat("n", 256), "256"},
			"a megabyte":         {strings.Repeat("n", 1<<20), "at most 255"},
			"256 bytes in paths": {strings.Repeat("d/", 127) + "xx", "256"},
		} {
			_, errCreate := m.CreateVolume(t.Context(), metaSpec(c.name, 1))
			_, errVolume := m.Volume(t.Context(), c.name)
			_, errOpen := m.OpenVolume(t.Context(), c.name, "gw", backend.OpenExclusive)
			_, errRemove := m.RemoveVolume(t.Context(), c.name)
			_, errResize := m.ResizeVolume(t.Context(), c.name, 1<<20)
			for call, err := range map[string]error{"create": errCreate, "look up": errVolume, "open": errOpen, "remove": errRemove, "resize": errResize} {
				if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s %s: %v, want ErrInvalid that says %s", call, name, err, c.says)
				} else if len(err.Error()) > 1024 {
					t.Errorf("%s %s: message of %d bytes", call, name, len(err.Error()))
				}
			}
		}
		if got := volumeNames(t, m, ""); got != "good" {
			t.Errorf("volumes after refusals: %s", got)
		}
	}},
	{"ListIsRecursiveAndSorted", func(t *testing.T, m backend.Meta) {
		if got := volumeNames(t, m, ""); got != "" {
			t.Fatalf("an empty cluster has %s", got)
		}
		// '-' and '.' sort before '/', which a walk by directory gets wrong.
		for _, name := range []string{"b", "a/z", "a/b/c", "a-b", "a.b", "a/b/a", "ab"} {
			mustCreate(t, m, name, 1)
		}
		for dir, want := range map[string]string{
			"": "a-b a.b a/b/a a/b/c a/z ab b", "/": "a-b a.b a/b/a a/b/c a/z ab b",
			"a": "a/b/a a/b/c a/z", "/a": "a/b/a a/b/c a/z", "a/": "a/b/a a/b/c a/z", "a/b": "a/b/a a/b/c",
		} {
			if got := volumeNames(t, m, dir); got != want {
				t.Errorf("under %q: %s, want %s", dir, got, want)
			}
		}
		for dir, want := range map[string]error{"nowhere": backend.ErrNotFound, "a/nowhere": backend.ErrNotFound, "b": backend.ErrNotFound, "b/x": backend.ErrNotFound, "..": backend.ErrInvalid, "a//": backend.ErrInvalid} {
			if _, err := m.Volumes(t.Context(), dir); !errors.Is(err, want) {
				t.Errorf("list under %q: %v, want %v", dir, err, want)
			}
		}
	}},
	{"NameIsAVolumeOrADirectoryNeverBoth", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "dir/sub/v", 1)
		_, err := m.CreateVolume(t.Context(), metaSpec("dir", 1))
		wantErr(t, err, backend.ErrExists, `"dir"`, "directory")
		_, err = m.CreateVolume(t.Context(), metaSpec("dir/sub", 1))
		wantErr(t, err, backend.ErrExists, `"dir/sub"`, "directory")
		_, err = m.CreateVolume(t.Context(), metaSpec("dir/sub/v/w", 1))
		wantErr(t, err, backend.ErrExists, `"dir/sub/v"`, "volume")
		_, err = m.CreateVolume(t.Context(), metaSpec("dir/sub/v", 1))
		wantErr(t, err, backend.ErrExists, `"dir/sub/v"`, "volume")
		_, err = m.Volume(t.Context(), "dir/sub")
		wantErr(t, err, backend.ErrNotFound, "directory")
		_, err = m.Volume(t.Context(), "dir/sub/v/w")
		wantErr(t, err, backend.ErrNotFound, `"dir/sub/v"`, "volume")
		_, err = m.RemoveVolume(t.Context(), "dir")
		wantErr(t, err, backend.ErrNotFound, "directory")
	}},
	{"DirectoriesComeAndGoWithTheirVolumes", func(t *testing.T, m backend.Meta) {
		mustCreate(t, m, "a/b/c/1", 1)
		mustCreate(t, m, "a/b/2", 1)
		mustRemove(t, m, "a/b/c/1")
		if _, err := m.Volumes(t.Context(), "a/b/c"); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("directory without volumes: %v, want ErrNotFound", err)
		}
		if got := volumeNames(t, m, "a/b"); got != "a/b/2" {
			t.Errorf("directory with one volume left lists %q", got)
		}
		mustRemove(t, m, "a/b/2")
		if _, err := m.Volumes(t.Context(), "a"); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("directory without volumes: %v, want ErrNotFound", err)
		}
		mustCreate(t, m, "a", 1) // the name is free for a volume
	}},
	{"VolumeOfAnUnrelatedNameIsLeftAlone", func(t *testing.T, m backend.Meta) {
		// "ab" and "a/b" share a prefix of bytes but not a directory.
		mustCreate(t, m, "a/b", 1)
		mustCreate(t, m, "ab", 1)
		mustRemove(t, m, "a/b")
		if got := volumeNames(t, m, ""); got != "ab" {
			t.Errorf("left: %q, want ab", got)
		}
	}},
}
