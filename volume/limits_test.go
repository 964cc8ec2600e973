package volume

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestLimitsHoldAtEveryLevel(t *testing.T) {
	gateway := NewLimits(nil, 10, 100)
	a, b := NewLimits(gateway, 2, 80), NewLimits(gateway, 10, 80)
	for range 2 {
		if !a.TryAcquire(30) {
			t.Fatal("there was room")
		}
	}
	if a.TryAcquire(1) {
		t.Error("a third request got in where two may")
	}
	if b.TryAcquire(50) {
		t.Error("the parent's 100 bytes were overdrawn")
	}
	if !b.TryAcquire(40) {
		t.Error("40 bytes were left")
	}
	a.Release(30)
	a.Release(30)
	b.Release(40)
	for _, l := range []*Limits{gateway, a, b} {
		if n, bytes := l.InFlight(); n != 0 || bytes != 0 {
			t.Errorf("%d requests, %d bytes left after release", n, bytes)
		}
	}
	if !a.TryAcquire(80) {
		t.Error("a refused request left something behind")
	}
	a.Release(80)
}

func TestRequestLargerThanTheLimitRunsAlone(t *testing.T) {
	l := NewLimits(nil, 10, 100)
	if !l.TryAcquire(1000) {
		t.Fatal("refused for ever")
	}
	if l.TryAcquire(1) {
		t.Error("it was not alone")
	}
	l.Release(1000)
	if !l.TryAcquire(100) {
		t.Error("released less than it took")
	}
	l.Release(100)
}

func TestLargeRequestIsNotStarvedBySmallOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimits(nil, 100, 100)
		if !l.TryAcquire(60) {
			t.Fatal("there was room")
		}
		large := make(chan struct{})
		go func() {
			if err := l.Acquire(context.Background(), 100); err == nil {
				close(large)
			}
		}()
		synctest.Wait()
		if l.TryAcquire(1) {
			t.Error("a small request overtook the large one")
		}
		l.Release(60)
		<-large
		l.Release(100)
	})
}

func TestCancelledWaitTakesNothing(t *testing.T) {
	parent := NewLimits(nil, 10, 10)
	child := NewLimits(parent, 10, 100)
	if !parent.TryAcquire(10) {
		t.Fatal("there was room")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := child.Acquire(ctx, 5); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if n, bytes := child.InFlight(); n != 0 || bytes != 0 {
		t.Errorf("%d requests, %d bytes", n, bytes)
	}
	parent.Release(10)
	if !child.TryAcquire(10) {
		t.Error("the cancelled wait kept its permit")
	}
	child.Release(10)
}
