package chunkstore_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/backendtest"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/disk"
)

func openIn(t *testing.T, dir string) *chunkstore.Store {
	t.Helper()
	s, err := chunkstore.Open(disk.OS(), dir, chunkstore.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func diskOp(kind backend.OpKind, off int64, data []byte) *backend.Op {
	return &backend.Op{Kind: kind, Volume: 1, Chunk: backend.ChunkRef{ID: 0x77, Size: backend.DefaultChunkSize}, Off: off, Len: int64(len(data)), Data: data}
}

func mustDo(t *testing.T, s *chunkstore.Store, op *backend.Op) {
	t.Helper()
	if err := backendtest.Do(s, op); err != nil {
		t.Fatal(err)
	}
}

func TestTrimReturnsSpaceToTheFileSystem(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	defer s.Close()
	path := filepath.Join(dir, "77", "0000000000000077")
	mustDo(t, s, diskOp(backend.OpWrite, 0, make([]byte, 8<<20)))
	mustDo(t, s, diskOp(backend.OpFlush, 0, nil))
	used := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := used()
	trim := diskOp(backend.OpTrim, 1<<20, make([]byte, 6<<20))
	mustDo(t, s, trim)
	if freed := before - used(); freed < 5<<20 {
		t.Errorf("trimming 6 MiB freed %d bytes", freed)
	}
	whole := diskOp(backend.OpTrim, 0, make([]byte, backend.DefaultChunkSize))
	mustDo(t, s, whole)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a chunk that was trimmed: %v", err)
	}
}

func TestTryDeclinesBlocksOutsideTheCache(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	defer s.Close()
	data := content(1, 1<<20)
	mustDo(t, s, diskOp(backend.OpWrite, 0, data))
	mustDo(t, s, diskOp(backend.OpFlush, 0, nil))
	read := diskOp(backend.OpRead, 512<<10, make([]byte, block))
	if !s.Try(read) {
		t.Skip("SKIPPED: this file system cannot read without waiting, so Try always declines")
	}
	f, err := os.Open(filepath.Join(dir, "77", "0000000000000077"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if s.Try(read) {
		t.Skip("SKIPPED: this file system keeps its cache (tmpfs?)")
	}
	if err := backendtest.SubmitAndWait(s, read); err != nil || !bytes.Equal(read.Data, data[512<<10:512<<10+block]) {
		t.Errorf("submitted read: error %v, content right: %v", err, bytes.Equal(read.Data, data[512<<10:512<<10+block]))
	}
	if !s.Try(read) {
		t.Error("Try declines a block that has just been read")
	}
}

// mountSmall mounts a file system of a few MiB, or skips.
func mountSmall(t *testing.T, kind string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small file system needs root; the full-disk case was NOT tested")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %s: %v: %s; the full-disk case was NOT tested on %s", name, err, out, kind)
		}
	}
	switch kind {
	case "tmpfs":
		run("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", dir)
	case "ext4":
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 12<<20); err != nil {
			t.Fatal(err)
		}
		run("mkfs.ext4", "-q", "-F", image)
		run("mount", "-o", "loop", image, dir)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestFullFileSystemRefusesAndRecovers(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(mountSmall(t, kind), "chunks")
			s := openIn(t, dir)
			const step = 64 << 10
			var err error
			n := int64(0)
			for ; err == nil && n < backend.DefaultChunkSize/step; n++ {
				err = backendtest.Do(s, diskOp(backend.OpWrite, n*step, content(uint64(n+1), step)))
			}
			if !errors.Is(err, backend.ErrNoSpace) {
				t.Fatalf("writing on ended with %v, expected %v", err, backend.ErrNoSpace)
			}
			n-- // the one that failed
			mustDo(t, s, diskOp(backend.OpFlush, 0, nil))
			check := func() {
				t.Helper()
				for i := range n {
					read := diskOp(backend.OpRead, i*step, make([]byte, step))
					mustDo(t, s, read)
					if i > 1 && !bytes.Equal(read.Data, content(uint64(i+1), step)) {
						t.Fatalf("content at %d changed", i*step)
					}
				}
				mustDo(t, s, diskOp(backend.OpRead, n*step, make([]byte, step))) // anything but an error
			}
			check()
			mustDo(t, s, diskOp(backend.OpTrim, 0, make([]byte, 2*step)))
			mustDo(t, s, diskOp(backend.OpFlush, 0, nil))
			mustDo(t, s, diskOp(backend.OpWrite, n*step, content(99, step/2)))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openIn(t, dir)
			check()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

const killedChildDir = "CHUNKSTORE_TEST_KILLED_CHILD_DIR"

// TestKilledProcessLosesNothingAcknowledged kills a process that writes; the
// next one finds every acknowledged block, flushed or not.
func TestKilledProcessLosesNothingAcknowledged(t *testing.T) {
	if dir := os.Getenv(killedChildDir); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	next := int64(0)
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcessLosesNothingAcknowledged$")
		cmd.Env = append(os.Environ(), killedChildDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked := int64(-1)
		for lines := bufio.NewScanner(out); acked < next+200 && lines.Scan(); {
			if n, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
				acked, _ = strconv.ParseInt(n, 10, 64)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed: its exit code says nothing
		if acked < next {
			t.Fatalf("the process acknowledged nothing new: %d after %d", acked, next)
		}
		s := openIn(t, dir)
		for i := range acked + 1 {
			read := diskOp(backend.OpRead, i*block, make([]byte, block))
			mustDo(t, s, read)
			if !bytes.Equal(read.Data, content(uint64(i+1), block)) {
				t.Fatalf("block %d, acknowledged before the kill, is %s", i, describeContent(read.Data))
			}
		}
		if n := s.Stats().ReconciledChunks; n != 1 {
			t.Errorf("%d chunks reconciled, expected the one that was open", n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		next = acked
	}
}

func writeUntilKilled(t *testing.T, dir string) {
	s := openIn(t, dir)
	defer s.Close()
	for i := int64(0); i < backend.DefaultChunkSize/block; i++ {
		mustDo(t, s, diskOp(backend.OpWrite, i*block, content(uint64(i+1), block)))
		if i%64 == 0 {
			mustDo(t, s, diskOp(backend.OpFlush, 0, nil))
		}
		fmt.Printf("acked %d\n", i)
	}
}
