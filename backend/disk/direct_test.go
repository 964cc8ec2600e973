package disk

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// Writes past the cache, through it, and reads from it must agree, whatever the
// alignment: the log's last sector before a fallback is the next one's neighbour.
func TestDirectAndCachedWritesAgree(t *testing.T) {
	f, err := OS().Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 256 << 10
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	for i := range 400 {
		unit := []int{1, 512, 4096}[rng.IntN(3)]
		off := rng.IntN(size/unit) * unit
		n := min((1+rng.IntN(16))*unit, size-off)
		p := AlignedBuffer(n + 1)[:n+1][rng.IntN(2):][:n]
		for j := range p {
			p[j] = byte(i + j)
		}
		copy(want[off:], p)
		write := f.WriteDirect
		if rng.IntN(3) == 0 {
			write = f.WriteAt
		}
		if n, err := write(p, int64(off)); err != nil || n != len(p) {
			t.Fatalf("write of %d bytes at %d: %d, %v", len(p), off, n, err)
		}
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("after write %d, of %d bytes at %d, the file differs from what was written", i, len(p), off)
		}
	}
}

func TestAlignedBufferIsFitForDirectWrites(t *testing.T) {
	for _, n := range []int{0, 1, 512, 4096, 100_000} {
		b := AlignedBuffer(n)
		if len(b) != 0 || cap(b) != n {
			t.Errorf("buffer for %d bytes: %d bytes of %d", n, len(b), cap(b))
		}
		if !aligned(b[:n&^511], 0) {
			t.Errorf("buffer for %d bytes is not aligned", n)
		}
	}
	if b := AlignedBuffer(4096)[:4096]; aligned(b[1:513], 0) || aligned(b[:511], 0) || aligned(b[:512], 1) {
		t.Error("what is not aligned was taken for aligned")
	}
}
