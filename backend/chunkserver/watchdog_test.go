package chunkserver

import (
	"testing"
	"time"
)

func TestTimeThatTheProcessSleptIsNoStall(t *testing.T) {
	begin := time.Now()
	var awake wakefulness
	at := func(d time.Duration) { awake.look(begin.Add(d)) }
	for d := time.Duration(0); d <= 3*time.Second; d += watchEvery {
		at(d)
	}
	if got := awake.ran(2 * time.Second); got != 2*time.Second {
		t.Errorf("awake all the time: a stall of 2 s counts for %v", got)
	}
	at(8 * time.Second) // stopped for 5 s
	if got := awake.ran(5 * time.Second); got != 0 {
		t.Errorf("just woken: a stall of 5 s counts for %v", got)
	}
	at(8*time.Second + watchEvery)
	if got := awake.ran(5*time.Second + watchEvery); got != watchEvery {
		t.Errorf("woken %v ago: it counts for %v", watchEvery, got)
	}
}
