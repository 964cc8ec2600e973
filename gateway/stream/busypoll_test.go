package stream

import "testing"

func TestBusyPollLearnsFromTheClient(t *testing.T) {
	var p busyPoll
	if p.patience != 0 {
		t.Error("a new connection waits awake")
	}
	p.learn(true)
	if p.patience != lonelySpins {
		t.Errorf("patience %d after a hit", p.patience)
	}
	for range forgivenMisses {
		p.learn(false)
	}
	if p.patience != lonelySpins {
		t.Errorf("patience %d after a few misses", p.patience)
	}
	for range 10 {
		p.learn(false)
	}
	if p.patience != 0 {
		t.Errorf("patience %d with a client that thinks long", p.patience)
	}
	chances := 0
	for range 10 * retryMisses {
		p.learn(false)
		if p.patience == lonelySpins {
			chances++
		}
	}
	if chances != 10 {
		t.Errorf("%d new chances in %d misses", chances, 10*retryMisses)
	}
}
