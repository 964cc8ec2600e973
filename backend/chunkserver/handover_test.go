package chunkserver

import (
	"slices"
	"testing"
	"time"
)

// Where all disks are slow, a copyset that is handed over comes back, and was handed
// on before an election had ended.
func TestWhatComesBackIsHandedOverLessAndLessOften(t *testing.T) {
	var h handOver
	h.init()
	start := time.Now()
	var tries []time.Duration
	tryFor := func(from, d time.Duration) []time.Duration {
		tries = nil
		for at := from; at < from+d; at += watchEvery {
			if h.begin(1, uint64(at)+1, start.Add(at)) {
				tries = append(tries, at-from)
				h.end(1)
			}
		}
		return tries
	}
	want := []time.Duration{0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 30 * time.Second, 62 * time.Second, 122 * time.Second, 182 * time.Second}
	if got := tryFor(0, 200*time.Second); !slices.Equal(got, want) {
		t.Errorf("handed over at %v, want %v", got, want)
	}
	if !h.begin(2, 1, start.Add(200*time.Second)) {
		t.Error("another copyset waits too")
	}
	h.well()
	if got := tryFor(200*time.Second, 5*time.Second); !slices.Equal(got, want[:2]) {
		t.Errorf("after the disk was well: handed over at %v, want %v", got, want[:2])
	}
	if h.begin(2, 2, start.Add(time.Hour)) {
		t.Error("a copyset is handed over twice at once")
	}
}
