package raftnet

import (
	"testing"
	"time"
)

// On a machine that is short of CPU a peer that lives is silent now and then. One that
// hangs is suspected as before.
func TestSlowPeersAreSuspectedLater(t *testing.T) {
	type silence struct {
		lasts     time.Duration
		suspected bool
	}
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range []struct {
		name     string
		silences []silence
	}{
		{"short ones", []silence{{ms(300), false}, {ms(300), false}}},
		{"slow once, and again", []silence{{ms(400), true}, {ms(400), false}, {ms(700), false}}},
		{"slower and slower", []silence{{ms(400), true}, {ms(700), false}, {ms(900), false}, {ms(900), false}}},
		{"slow, then hangs", []silence{{ms(400), true}, {ms(5000), true}}},
		{"never later than three times", []silence{{ms(1300), true}, {ms(1100), true}}},
		{"hangs, and hangs again", []silence{{ms(5000), true}, {ms(400), true}}},
		{"slow, and again after a minute", []silence{{ms(400), true}, {0, false}, {ms(400), true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newPair(t, [2]Gate{}).nets[0]
			p := &peer{net: n, id: 9}
			now := instant(time.Hour)
			last := now
			tick := func(d time.Duration) {
				now = now.add(d)
				p.watch(last, now)
				last = now
			}
			hear := func() {
				tick(n.opts.Ping)
				p.heard.Store(int64(now))
				tick(n.opts.Ping)
			}
			hear()
			for i, s := range c.silences {
				if s.lasts == 0 {
					now = now.add(slowMemory)
					last = now
					hear()
					continue
				}
				for from := now; now-from < instant(s.lasts); {
					tick(n.opts.Ping)
				}
				if got := p.suspected.Load(); got != s.suspected {
					t.Errorf("silence %d, of %v: suspected %v, want %v", i, s.lasts, got, s.suspected)
				}
				hear()
			}
		})
	}
}
