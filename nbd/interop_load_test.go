package nbd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/nbd/client"
)

// fio writes at random in four jobs, each on a stretch of its own, and reads
// everything back.
func fio(t *testing.T, tg *target) (output string, err error) {
	t.Helper()
	out, errs, err := tryTool(t, "fio",
		"--name=verify", "--ioengine=nbd", "--uri="+tg.uri(testVolume),
		"--rw=randwrite", "--bsrange=4k-1M", "--blockalign=4k", "--iodepth=32",
		"--numjobs=4", "--size=16M", "--offset_increment=16M", "--group_reporting",
		"--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=32",
		"--randrepeat=0", "--output-format=terse")
	return out + errs, err
}

func TestInteropFioVerifies(t *testing.T) {
	needTools(t, "fio")
	overBoth(t, func(t *testing.T, tg *target) {
		if out, err := fio(t, tg); err != nil {
			t.Fatalf("fio: %v\n%s", err, out)
		}
		// All four jobs wrote: the volume holds data from end to end.
		c := connect(t, tg, client.StructuredReplies)
		for i, flags := range statusMap(t, c, testSize, mib) {
			if flags&client.StateHole != 0 {
				t.Fatalf("MiB %d was never written", i)
			}
		}
	})
}

// rottenChunks flips one bit of every tenth write.
type rottenChunks struct {
	backend.Chunks
	writes atomic.Int64
}

func (r *rottenChunks) flip(op *backend.Op) (undo func()) {
	if op.Kind != backend.OpWrite || r.writes.Add(1)%10 != 0 {
		return func() {}
	}
	middle := &op.Data[len(op.Data)/2]
	*middle ^= 4
	return func() { *middle ^= 4 }
}

func (r *rottenChunks) Try(op *backend.Op) bool {
	undo := r.flip(op)
	if r.Chunks.Try(op) {
		return true
	}
	undo()
	return false
}

func (r *rottenChunks) Submit(op *backend.Op) {
	r.flip(op)
	r.Chunks.Submit(op)
}

func TestInteropFioNoticesRot(t *testing.T) {
	needTools(t, "fio")
	tg := serve(t, setup{wrap: func(c backend.Chunks) backend.Chunks { return &rottenChunks{Chunks: c} }})
	if out, err := fio(t, tg); err == nil {
		t.Fatalf("fio verifies what was changed behind its back:\n%s", out)
	}
}

// fileSystemTools are what the test of a mounted file system runs.
var fileSystemTools = []string{"nbdfuse", "losetup", "mkfs.ext4", "mount", "umount", "fsck.ext4", "fusermount3"}

// loopDevice attaches a loop device to file and detaches it at the end.
func loopDevice(t *testing.T, file string) string {
	t.Helper()
	device := strings.TrimSpace(tool(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// fuseFile starts nbdfuse and returns the path of the volume's file.
func fuseFile(t *testing.T, uri string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("nbdfuse", dir, uri)
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "fusermount3", "-u", dir).CombinedOutput(); err != nil {
			t.Errorf("fusermount3 -u: %v: %s", err, out)
			cmd.Process.Kill()
		}
		if err := <-ended; err != nil {
			t.Errorf("nbdfuse: %v", err)
		}
	})
	file := filepath.Join(dir, "nbd")
	eventually(t, "nbdfuse shows its file", func() bool {
		info, err := os.Stat(file)
		return err == nil && info.Size() == testSize
	})
	return file
}

// mounted runs work with the device mounted.
func mounted(t *testing.T, device string, work func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	tool(t, "mount", "-t", "ext4", device, dir)
	defer tool(t, "umount", dir)
	work(dir)
}

func TestInteropFileSystemOnAVolume(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: mounting needs root")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); errors.Is(err, os.ErrNotExist) {
			t.Skipf("SKIPPED, NOT TESTED: this machine has no %s", device)
		}
	}
	needTools(t, fileSystemTools...)
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			data := t.TempDir()
			want := make(map[string]string)
			t.Run("write", func(t *testing.T) {
				tg := serve(t, setup{network: network, dir: data})
				device := loopDevice(t, fuseFile(t, tg.uri(testVolume)))
				tool(t, "mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
				mounted(t, device, func(dir string) { writeFiles(t, dir, want) })
				tool(t, "fsck.ext4", "-f", "-n", device)
			})
			t.Run("read after a restart", func(t *testing.T) {
				tg := serve(t, setup{network: network, dir: data})
				device := loopDevice(t, fuseFile(t, tg.uri(testVolume)))
				tool(t, "fsck.ext4", "-f", "-n", device)
				mounted(t, device, func(dir string) {
					for name, sum := range want {
						if got := sha256Of(t, filepath.Join(dir, name)); got != sum {
							t.Errorf("%s: sha256 %s, want %s", name, got, sum)
						}
					}
				})
			})
		})
	}
}

// writeFiles makes files of many sizes, deletes some, and notes what the others
// hold.
func writeFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for i := range 200 {
		name := fmt.Sprintf("file-%03d", i)
		data := pattern(make([]byte, 1+i*i*11%(400<<10)), byte(i))
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		if i%5 == 4 {
			must(t, os.Remove(filepath.Join(dir, name)))
			continue
		}
		want[name] = sha256Of(t, filepath.Join(dir, name))
	}
	started := time.Now()
	tool(t, "sync", "-f", dir)
	t.Logf("%d files, synced in %v", len(want), time.Since(started))
}
