package client

import (
	"testing"

	"pgregory.net/rapid"
)

// The spans agree with a map of bytes, whatever order chunks come in.
func TestCoverageNotesEachByteOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		var c coverage
		var seen [size]bool
		for range rapid.IntRange(0, 60).Draw(t, "chunks") {
			from := rapid.IntRange(0, size-1).Draw(t, "from")
			to := rapid.IntRange(from+1, min(from+9, size)).Draw(t, "to")
			overlap := false
			for _, b := range seen[from:to] {
				overlap = overlap || b
			}
			err := c.add(uint64(from), uint64(to))
			if (err != nil) != overlap {
				t.Fatalf("[%d, %d): %v, overlap %t", from, to, err, overlap)
			}
			if overlap {
				continue
			}
			all := true
			for i := range seen {
				seen[i] = seen[i] || i >= from && i < to
				all = all && seen[i]
			}
			if c.all(size) != all {
				t.Fatalf("all bytes seen: %t, coverage says %t: %v", all, c.all(size), c.spans)
			}
		}
	})
}

func TestCoverageRefusesTooManyFragments(t *testing.T) {
	var c coverage
	for i := range uint64(maxFragments) {
		if err := c.add(2*i, 2*i+1); err != nil {
			t.Fatal(err)
		}
	}
	if c.add(2*maxFragments, 2*maxFragments+1) == nil {
		t.Fatal("one fragment more than allowed is taken")
	}
	if err := c.add(1, 2); err != nil { // joins two
		t.Fatal(err)
	}
}
