package nbd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/client"
)

func TestInteropQemuImgBothWays(t *testing.T) {
	needTools(t, "qemu-img")
	overBoth(t, func(t *testing.T, tg *target) {
		uri := tg.uri(testVolume)
		var info struct {
			Size   int64 `json:"virtual-size"`
			Format string
		}
		must(t, json.Unmarshal([]byte(tool(t, "qemu-img", "info", "--output=json", uri)), &info))
		if info.Size != testSize || info.Format != "raw" {
			t.Fatalf("qemu-img info: %+v", info)
		}
		source := sparseFile(t)
		tool(t, "qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", source, uri)
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
		back := filepath.Join(t.TempDir(), "back.img")
		tool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back)
		if got, want := sha256Of(t, back), sha256Of(t, source); got != want {
			t.Fatalf("sha256 %s came back, want %s", got, want)
		}
		// A compare that cannot fail would prove nothing.
		c := connect(t, tg, client.SimpleReplies)
		must(t, c.Write(within(t), pattern(make([]byte, 512), 0x77), 33*mib, 0))
		if out, _, err := tryTool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri); err == nil {
			t.Fatalf("qemu-img finds no difference where there is one: %s", out)
		}
	})
}

func TestInteropQcow2OnAVolume(t *testing.T) {
	needTools(t, "qemu-img", "qemu-io")
	overBoth(t, func(t *testing.T, tg *target) {
		uri := tg.uri(testVolume)
		source := sparseFile(t)
		tool(t, "qemu-img", "create", "-f", "qcow2", uri, "48M")
		tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 3M", "-c", "write -z 2M 64k", "-c", "discard 3M 64k", "-c", "flush", uri)
		tool(t, "qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 1M 1M", "-c", "read -P 0 2M 64k", uri)
		tool(t, "qemu-img", "check", "-f", "qcow2", uri)
		// A whole image in the other format, back through it.
		small := filepath.Join(t.TempDir(), "small.img")
		data, err := os.ReadFile(source)
		must(t, err)
		must(t, os.WriteFile(small, data[:32*mib], 0o600))
		tool(t, "qemu-img", "create", "-f", "qcow2", uri, "32M")
		tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", small, uri)
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", small, uri)
	})
}

func TestInteropQemuIoScript(t *testing.T) {
	needTools(t, "qemu-io")
	for _, blockSize := range []int64{512, 4096} {
		for _, network := range []string{"unix", "tcp"} {
			tg := serve(t, setup{network: network, volumes: []backend.VolumeSpec{{Name: testVolume, Size: testSize, Geometry: testGeometry(blockSize)}}})
			args := []string{"-f", "raw", "-d", "unmap"}
			for _, command := range []string{
				"write -P 0xaa 0 8M",
				"read -P 0xaa 0 8M",
				"write -z 1M 512k",
				"read -P 0 1M 512k",
				"write -z -u 2M 512k",
				"read -P 0 2M 512k",
				"write -f -P 0x55 3M 4k",
				"read -P 0x55 3M 4k",
				"discard 4M 1M",
				"flush",
				"aio_write -P 0x11 16M 1M",
				"aio_write -P 0x22 17M 1M",
				"aio_write -P 0x33 18M 64k",
				"aio_flush",
				"aio_read -P 0x11 16M 1M",
				"aio_read -P 0x22 17M 1M",
				"aio_flush",
				"write -P 0x77 12345 6789", // qemu makes it fit the block size
				"read -P 0x77 12345 6789",
				"read -P 0xaa 512k 512k",
				"map",
			} {
				args = append(args, "-c", command)
			}
			out := tool(t, "qemu-io", append(args, tg.uri(testVolume))...)
			if strings.Contains(out, "failed") || strings.Contains(out, "error") {
				t.Fatalf("%s, blocks of %d:\n%s", network, blockSize, out)
			}
			if out, _, err := tryTool(t, "qemu-io", "-f", "raw", "-c", "read -P 0xab 0 4k", tg.uri(testVolume)); err == nil && !strings.Contains(out, "failed") {
				t.Fatalf("qemu-io does not notice a wrong pattern: %s", out)
			}
		}
	}
}
