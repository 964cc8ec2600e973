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

func TestOnlyALoneClientWithNothingInFlightIsAwaited(t *testing.T) {
	var in Input
	for range lonelySingles {
		if in.NoteBatch(1, false); in.lone && in.singles < lonelySingles {
			t.Fatalf("awaited after %d single requests", in.singles)
		}
	}
	if !in.lone {
		t.Errorf("not awaited after %d single requests", lonelySingles)
	}
	if in.NoteBatch(1, true); in.lone {
		t.Error("awaited while its request is with the disk")
	}
	if in.NoteBatch(1, false); !in.lone {
		t.Error("not awaited once its request is answered")
	}
	if in.NoteBatch(2, false); in.lone {
		t.Error("awaited though it sends several at once")
	}
}
