package nbd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/gateway"
	"github.com/opencurve/curve-nbd/nbd/client"
)

func TestInteropNbdinfoListsExports(t *testing.T) {
	needTools(t, "nbdinfo")
	for _, network := range []string{"unix", "tcp"} {
		tg := serve(t, setup{network: network, volumes: []backend.VolumeSpec{
			{Name: "dir/big", Size: 1 << 40},
			{Name: testVolume, Size: testSize, Geometry: testGeometry(testBlock)},
		}})
		var got struct {
			Protocol   string
			Structured bool
			Exports    []struct {
				Name      string `json:"export-name"`
				Size      int64  `json:"export-size"`
				Min       int    `json:"block_size_minimum"`
				Preferred int    `json:"block_size_preferred"`
				Max       int    `json:"block_size_maximum"`
				ReadOnly  bool   `json:"is_read_only"`
				MultiConn bool   `json:"can_multi_conn"`
				CanTrim   bool   `json:"can_trim"`
				Contexts  []string
			}
		}
		must(t, json.Unmarshal([]byte(tool(t, "nbdinfo", "--list", "--json", tg.uri(""))), &got))
		if got.Protocol != "newstyle-fixed" || !got.Structured || len(got.Exports) != 2 {
			t.Fatalf("%s: %+v", network, got)
		}
		big, small := got.Exports[0], got.Exports[1]
		if big.Name != "dir/big" || big.Size != 1<<40 || big.Min != 4096 {
			t.Errorf("%s: %+v", network, big)
		}
		if small.Name != testVolume || small.Size != testSize || small.Min != 512 || small.Preferred != 4096 || small.Max != 32<<20 ||
			small.ReadOnly || !small.MultiConn || !small.CanTrim || fmt.Sprint(small.Contexts) != "["+client.BaseAllocation+"]" {
			t.Errorf("%s: %+v", network, small)
		}
	}
}

func TestInteropNbdinfoAsksWhatTheExportCan(t *testing.T) {
	needTools(t, "nbdinfo")
	for name, readOnly := range map[string]bool{"writable": false, "read-only": true} {
		tg := serve(t, setup{gateway: gateway.Options{ReadOnly: readOnly}})
		for question, want := range map[string]bool{
			"--can=connect": true, "--can=cache": true, "--can=df": true, "--can=multi-conn": true, "--can=flush": true,
			"--can=structured-reply": true, "--is=read-only": readOnly, "--can=write": !readOnly,
			"--can=fast-zero": !readOnly, "--can=fua": !readOnly, "--can=trim": !readOnly, "--can=zero": !readOnly,
			"--is=rotational": false, "--is=tls": false,
		} {
			if _, _, err := tryTool(t, "nbdinfo", question, tg.uri(testVolume)); (err == nil) != want {
				t.Errorf("%s: nbdinfo %s says %v, want %t", name, question, err, want)
			}
		}
	}
}

func TestInteropNbdinfoMapsAllocation(t *testing.T) {
	needTools(t, "nbdinfo")
	overBoth(t, func(t *testing.T, tg *target) {
		c := connect(t, tg, client.SimpleReplies)
		must(t, c.Write(within(t), make([]byte, 8192), 4096, 0))
		must(t, c.Write(within(t), make([]byte, 3*mib), 10*mib, 0))
		must(t, c.Disconnect(within(t)))
		type extent struct {
			Offset, Length int64
			Type           int
		}
		var got []extent
		must(t, json.Unmarshal([]byte(tool(t, "nbdinfo", "--map", "--json", tg.uri(testVolume))), &got))
		want := []extent{{0, 4096, 3}, {4096, 8192, 0}, {12288, 10*mib - 12288, 3}, {10 * mib, 3 * mib, 0}, {13 * mib, testSize - 13*mib, 3}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("map %v, want %v", got, want)
		}
	})
}

func TestInteropNbdcopyBothWays(t *testing.T) {
	needTools(t, "nbdcopy")
	overBoth(t, func(t *testing.T, tg *target) {
		source := sparseFile(t)
		want := sha256Of(t, source)
		for _, options := range [][]string{
			{"--flush"},
			{"--flush", "--connections=4", "--requests=32"},
			{"--flush", "--connections=4", "--sparse=0", "--request-size=1048576"},
			{"--synchronous", "--flush", "--destination-is-zero"}, // the volume holds the same data
		} {
			name := strings.Join(options, " ")
			tool(t, "nbdcopy", append(options, source, tg.uri(testVolume))...)
			back := filepath.Join(t.TempDir(), "back.img")
			tool(t, "nbdcopy", "--connections=4", tg.uri(testVolume), back)
			if got := sha256Of(t, back); got != want {
				t.Fatalf("%s: sha256 %s came back, want %s", name, got, want)
			}
		}
		// The holes of the source are holes of the volume: 40 pieces of at most
		// 256 KiB were written, and a copy that keeps zeros allocated comes last.
		tool(t, "nbdcopy", "--flush", source, tg.uri(testVolume))
		allocated := 0
		for _, flags := range statusMap(t, connect(t, tg, client.StructuredReplies), tg.size, 4096) {
			if flags&client.StateHole == 0 {
				allocated += 4096
			}
		}
		if allocated > testSize/2 {
			t.Errorf("%d bytes allocated for a sparse file", allocated)
		}
	})
}

// nbdshScript breaks the rules on purpose and checks each answer.
const nbdshScript = `
import errno, os
h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(os.environ["CURVE_TEST_URI"])
size = h.get_size()

def refused(name, want, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errno == want, "%s: %s, want %s" % (name, e.errno, want)
    else:
        raise AssertionError("%s was not refused" % name)
    assert h.pread(512, 0) is not None

page = b"x" * 4096
refused("read past the end", "EINVAL", lambda: h.pread(4096, size))
refused("read over the end", "EINVAL", lambda: h.pread(8192, size - 4096))
refused("read far away", "EINVAL", lambda: h.pread(4096, 1 << 62))
refused("write past the end", "ENOSPC", lambda: h.pwrite(page, size))
refused("zero past the end", "ENOSPC", lambda: h.zero(4096, size))
refused("trim past the end", "EINVAL", lambda: h.trim(4096, size))
refused("unaligned read", "EINVAL", lambda: h.pread(100, 7))
refused("unaligned write", "EINVAL", lambda: h.pwrite(b"abc", 7))
refused("unknown flag of a write", "EINVAL", lambda: h.pwrite(page, 0, 1 << 14))
refused("unknown flag of a flush", "EINVAL", lambda: h.flush(1 << 14))
refused("fast zero without holes", "ENOTSUP", lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE))
refused("block status past the end", "EINVAL", lambda: h.block_status(4096, size, lambda *a: 0))

for flags in (0, nbd.CMD_FLAG_FUA):
    h.pwrite(page, 4096, flags)
    assert h.pread(4096, 4096) == page
    assert h.pread(4096, 4096, nbd.CMD_FLAG_DF) == page
    h.zero(4096, 4096, flags)
    assert h.pread(4096, 4096) == bytes(4096)
    h.pwrite(page, 4096)
    h.trim(4096, 4096, flags)
    assert h.pread(4096, 4096) == bytes(4096)
h.cache(1 << 20, 0)
h.flush()

chunks = []
h.pwrite(page, 0)
h.pread_structured(4096, 0, lambda b, off, s, e: chunks.append((len(b), off, s)))
h.pread_structured(1 << 20, 1 << 20, lambda b, off, s, e: chunks.append((len(b), off, s)))
assert chunks == [(4096, 0, nbd.READ_DATA), (1 << 20, 1 << 20, nbd.READ_HOLE)], chunks

cookies = [h.aio_pread(nbd.Buffer(4096), 4096 * i) for i in range(64)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
h.shutdown()
print("all answered")
`

// nbdsh returns a command that runs: the program belongs to the system's
// Python, which need not be the first on the path.
func nbdsh(t *testing.T) []string {
	for _, command := range [][]string{{"nbdsh"}, {"/usr/bin/python3", "-m", "nbd"}} {
		if out, _, _ := tryTool(t, command[0], append(command[1:], "-c", "print(h.get_version())")...); out != "" {
			return command
		}
	}
	needTools(t, "nbdsh with its Python module (python3-libnbd)")
	return nil
}

func TestInteropNbdshBreaksTheRules(t *testing.T) {
	command := nbdsh(t)
	script := filepath.Join(t.TempDir(), "rules.py")
	must(t, os.WriteFile(script, []byte(nbdshScript), 0o600))
	args := append(command[1:], "-c", fmt.Sprintf("exec(open(%q).read())", script))
	overBoth(t, func(t *testing.T, tg *target) {
		t.Setenv("CURVE_TEST_URI", tg.uri(testVolume))
		if out := tool(t, command[0], args...); !strings.Contains(out, "all answered") {
			t.Fatalf("nbdsh ended early: %s", out)
		}
	})
}

func TestInteropNbdClientListsExports(t *testing.T) {
	needTools(t, "nbd-client")
	volumes := []backend.VolumeSpec{{Name: "one", Size: mib}, {Name: "two/three", Size: mib}}
	for network, args := range map[string]func(tg *target) []string{
		"unix": func(tg *target) []string { return []string{"-l", "-unix", tg.Address} },
		"tcp": func(tg *target) []string {
			host, port, _ := strings.Cut(tg.Address, ":")
			return []string{"-l", host, port}
		},
	} {
		tg := serve(t, setup{network: network, volumes: volumes})
		out := tool(t, "nbd-client", args(tg)...)
		for _, v := range volumes {
			if !strings.Contains(out, "\n"+v.Name+"\n") {
				t.Errorf("%s: %s is missing from %q", network, v.Name, out)
			}
		}
	}
}
