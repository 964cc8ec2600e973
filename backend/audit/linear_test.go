package audit

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHistoriesAreJudged(t *testing.T) {
	tick := func() { time.Sleep(ms) }
	cases := []struct {
		name string
		run  func(h *History)
		want Answer
	}{
		{"nothing happened", func(*History) {}, Linearizable},
		{"one after the other", func(h *History) {
			write(h, 0, 1)
			read(h, 1, 1)
			write(h, 1, 2)
			read(h, 0, 2)
		}, Linearizable},
		{"concurrent writes, either order", func(h *History) {
			a, b := h.Write(0, 3, 1), h.Write(1, 3, 2)
			tick()
			b.Returned()
			a.Returned()
			tick()
			read(h, 0, 1)
			read(h, 1, 1)
		}, Linearizable},
		{"read during a write sees it or not, but does not go back", func(h *History) {
			write(h, 0, 1)
			w := h.Write(0, 3, 2)
			tick()
			read(h, 1, 1)
			read(h, 1, 2)
			read(h, 1, 2)
			w.Returned()
		}, Linearizable},
		{"unknown outcome that takes effect late", func(h *History) {
			write(h, 0, 1)
			h.Write(1, 3, 2)
			tick()
			read(h, 0, 1)
			write(h, 0, 3)
			read(h, 0, 2)
			read(h, 2, 2)
		}, Linearizable},
		{"unknown outcome that never takes effect", func(h *History) {
			h.Write(1, 3, 2)
			tick()
			write(h, 0, 1)
			read(h, 0, 1)
			h.Read(2, 3)
		}, Linearizable},
		{"refused write that is not there", func(h *History) {
			h.Write(1, 3, 2).Refused()
			write(h, 0, 1)
			read(h, 0, 1)
		}, Linearizable},

		{"planted stale read", func(h *History) {
			write(h, 0, 1)
			write(h, 0, 2)
			read(h, 1, 1)
			read(h, 1, 2)
		}, Violated},
		{"planted lost write", func(h *History) {
			write(h, 0, 1)
			read(h, 1, 0)
		}, Violated},
		{"planted late duplicate", func(h *History) {
			write(h, 0, 1)
			write(h, 0, 2)
			read(h, 1, 2)
			read(h, 1, 1)
		}, Violated},
		{"planted value from nowhere", func(h *History) {
			write(h, 0, 1)
			read(h, 1, 7)
		}, Violated},
		{"planted garbage", func(h *History) {
			write(h, 0, 1)
			read(h, 1, Invalid)
		}, Violated},
		{"unknown outcome that takes effect twice", func(h *History) {
			h.Write(1, 3, 2)
			tick()
			read(h, 0, 2)
			write(h, 0, 1)
			read(h, 0, 2)
		}, Violated},
		{"refused write that is there", func(h *History) {
			h.Write(1, 3, 2).Refused()
			read(h, 0, 2)
		}, Violated},
		{"read that goes back during a write", func(h *History) {
			write(h, 0, 1)
			w := h.Write(0, 3, 2)
			tick()
			read(h, 1, 2)
			read(h, 1, 1)
			w.Returned()
		}, Violated},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHistory()
				c.run(h)
				if j := h.Check(time.Hour, ""); j.Answer != c.want {
					t.Errorf("%v, want %v", j, c.want)
				}
			})
		})
	}
}

// write and read take a tick on block 3.
func write(h *History, client int, v Value) {
	c := h.Write(client, 3, v)
	time.Sleep(ms)
	c.Returned()
	time.Sleep(ms)
}

func read(h *History, client int, v Value) {
	c := h.Read(client, 3)
	time.Sleep(ms)
	c.Saw(v)
	time.Sleep(ms)
}

func TestViolationIsShownAndNamed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := NewHistory()
		for block := range int64(5) {
			c := h.Write(0, block, 1)
			time.Sleep(ms)
			c.Returned()
			time.Sleep(ms)
		}
		read(h, 1, 0) // of block 3
		j := h.Check(time.Hour, dir)
		if j.Answer != Violated || len(j.Violations) != 1 || j.Violations[0] != 3 || len(j.Files) != 1 || j.Operations != 6 {
			t.Fatalf("%v", j)
		}
		page, err := os.ReadFile(j.Files[0])
		if err != nil || !strings.Contains(string(page), "read zeros") {
			t.Errorf("the page does not show the read: %v", err)
		}
		if j := h.Check(time.Hour, dir+"/missing"); j.FileError == nil {
			t.Error("a page that cannot be written goes unnoticed")
		}
	})
}

// Many writes of unknown outcome that were all seen, and a read that fits none:
// more orders than anybody can try.
func TestCheckThatTakesTooLongSaysSo(t *testing.T) {
	h := NewHistory()
	var reads []Call
	for v := range Value(40) {
		h.Write(int(v), 3, v+1)
	}
	for v := range Value(40) {
		reads = append(reads, h.Read(100+int(v), 3))
	}
	for v, c := range reads {
		c.Saw(Value(v + 1))
	}
	last := h.Read(0, 3)
	last.Saw(99)
	if j := h.Check(50*ms, ""); j.Answer != Undecided || len(j.Undecided) != 1 {
		t.Errorf("%v, want it undecided", j)
	}
}
