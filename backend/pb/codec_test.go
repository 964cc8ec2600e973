package pb

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
)

func sliced(parts ...string) *Frame {
	f := &Frame{}
	for _, p := range parts {
		f.data = append(f.data, mem.SliceBuffer(p))
	}
	return f
}

func TestFrameInPiecesReadsAsOne(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame *Frame
		whole map[int]bool // by offset: the bytes from there lie together
	}{
		{"one piece", sliced("abcdefgh"), map[int]bool{0: true, 3: true, 8: true}},
		{"two pieces", sliced("abc", "defgh"), map[int]bool{0: false, 2: false, 3: true, 5: true, 8: true}},
		{"pieces of one", sliced("a", "b", "c", "d", "e", "f", "g", "h"), map[int]bool{0: false, 6: false, 7: true, 8: true}},
		{"empty pieces", sliced("", "abcdefg", "", "h", ""), map[int]bool{0: false, 8: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const want = "abcdefgh"
			if c.frame.Len() != len(want) {
				t.Fatalf("length %d", c.frame.Len())
			}
			for n := range len(want) + 3 {
				if got := c.frame.Head(make([]byte, n)); string(got) != want[:min(n, len(want))] {
					t.Errorf("head of %d is %q", n, got)
				}
			}
			for off := range len(want) + 1 {
				dst := make([]byte, len(want))
				if n := c.frame.CopyTo(dst, off); string(dst[:n]) != want[off:] {
					t.Errorf("from %d: %q", off, dst[:n])
				}
			}
			for off, together := range c.whole {
				if got, ok := c.frame.Whole(off); ok != together || ok && string(got) != want[off:] {
					t.Errorf("whole from %d: %q, %v", off, got, ok)
				}
			}
		})
	}
}

func TestPoolGivesWhatIsAskedFor(t *testing.T) {
	for _, n := range []int{0, 1, 2048, 2048 + headRoom, 2049 + headRoom, 4096, 4096 + OpSize, 4096 + headRoom + 1, 64<<10 + OpSize, 4<<20 + headRoom, 4<<20 + headRoom + 1, MaxFrame} {
		for range 3 {
			b := Pool.Get(n)
			if len(*b) != n {
				t.Fatalf("asked for %d, got %d", n, len(*b))
			}
			if waste := cap(*b) - n; n > 2<<10+headRoom && n <= 4<<20+headRoom && waste > n {
				t.Errorf("%d bytes take %d", n, cap(*b))
			}
			*b = (*b)[:n/2] // what was cut comes back whole
			Pool.Put(b)
		}
	}
	odd := make([]byte, 3000)
	Pool.Put(&odd)
	if b := Pool.Get(4096 + 3); len(*b) != 4096+3 {
		t.Error("a foreign buffer got into the pool")
	}
}

func TestCodecRefusesWhatIsNoFrame(t *testing.T) {
	if _, err := (Codec{}).Marshal("x"); err == nil {
		t.Error("marshals a string")
	}
	if err := (Codec{}).Unmarshal(nil, new(int)); err == nil {
		t.Error("unmarshals into an int")
	}
}

func TestCodecCopiesNothing(t *testing.T) {
	b := Pool.Get(4096 + OpSize)
	for i := range *b {
		(*b)[i] = byte(i)
	}
	f := FrameOf(b)
	data, err := Codec{}.Marshal(&f)
	if err != nil || f.Len() != 0 {
		t.Fatalf("%v, %d bytes left in the frame", err, f.Len())
	}
	var got Frame
	if err := (Codec{}).Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	data.Free()
	whole, ok := got.Whole(0)
	if !ok || &whole[0] != &(*b)[0] || !bytes.Equal(whole, *b) {
		t.Error("the bytes were moved")
	}
	got.Free()
}
