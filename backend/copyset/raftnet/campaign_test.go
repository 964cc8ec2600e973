package raftnet

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// campaigning puts a group into a campaign that does not stand by itself.
func (g *Group) campaigning(tries int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.camp = campaign{on: true, lost: true, term: 1, due: g.net.now().add(time.Hour), step: campaignStagger, tries: tries}
}

// A raft that stands by its own timers begins a campaign, if there is none, and does
// not hear its TimeoutNow.
func TestPreVotesTakeTheirTurnInACampaign(t *testing.T) {
	p := newPair(t, [2]Gate{})
	g, voter := p.groups[0], p.groups[1].Consumer()
	type outcome struct {
		granted bool
		term    uint64
		err     error
	}
	ask := func(term uint64) chan outcome {
		done := make(chan outcome, 1)
		g.mu.Lock()
		last := g.mateLocked(2).preVote
		g.mu.Unlock()
		go func() {
			var resp raft.RequestPreVoteResponse
			err := g.RequestPreVote("2", "2", &raft.RequestPreVoteRequest{RPCHeader: headerOf(1), Term: term}, &resp)
			done <- outcome{resp.Granted, resp.Term, err}
		}()
		eventually(t, 5*time.Second, "the pre-vote is asked for", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			q := g.mateLocked(2).preVote
			return q != last && (q.waiting || !g.camp.lost)
		})
		return done
	}
	own := g.Consumer()
	eventually(t, 5*time.Second, "votes may go through", func() bool { return g.net.now() > g.votes.birth })
	turn := func() {
		t.Helper()
		eventually(t, 5*time.Second, "the pre-vote waits for its turn", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.standingLocked()
		})
		g.mu.Lock()
		g.camp.due = 0
		g.mu.Unlock()
		g.stand()
	}
	answer := func(term uint64, granted bool) {
		t.Helper()
		select {
		case r := <-voter:
			if _, ok := r.Command.(*raft.RequestPreVoteRequest); !ok {
				t.Fatalf("the voter got %T", r.Command)
			}
			r.Respond(&raft.RequestPreVoteResponse{Term: term, Granted: granted}, nil)
		case <-time.After(5 * time.Second):
			t.Fatal("the voter is asked nothing")
		}
	}
	over := func(what string, done chan outcome, want outcome) {
		t.Helper()
		select {
		case got := <-done:
			if got.granted != want.granted || got.term != want.term || !errors.Is(got.err, want.err) {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: no outcome", what)
		}
	}

	done := ask(2)
	answer(2, true) // at its first turn, which nobody has to wait for
	over("without a campaign", done, outcome{granted: true, term: 2})
	g.mu.Lock()
	if g.camp.due = 0; !g.camp.on {
		t.Error("no campaign has begun")
	}
	g.mu.Unlock()
	g.stand() // but raft does not: a leader may be there

	g.campaigning(0)
	done = ask(2)
	turn()
	answer(2, false) // asks again
	turn()
	answer(2, true)
	over("at the second turn, granted", done, outcome{granted: true, term: 2})

	done = ask(2)
	turn()
	answer(9, false)
	over("the voter has a newer term", done, outcome{term: 9})

	older, newer := ask(2), ask(2)
	turn()
	over("there is a newer pre-vote", older, outcome{err: errNoPreVote})
	answer(2, true)
	over("the newer one", newer, outcome{granted: true, term: 2})

	done = ask(2)
	g.mu.Lock()
	g.stopCampaignLocked()
	g.mu.Unlock()
	over("the campaign ends", done, outcome{err: errNoPreVote})
	select {
	case r := <-voter:
		t.Errorf("the voter was asked %+v out of turn", r.Command)
	case r := <-own:
		t.Errorf("raft got %+v, which it would not have heard", r.Command)
	default:
	}
}

// TimeoutNow behind a vote for another would depose the one that gets the vote.
func TestNobodyStandsWhileRaftVotes(t *testing.T) {
	p := newPair(t, [2]Gate{})
	g, rafts := p.groups[0], p.groups[0].Consumer()
	g.campaigning(0)
	eventually(t, 5*time.Second, "votes may go through", func() bool { return g.net.now() > g.votes.birth })
	asked := make(chan error, 1)
	go func() {
		asked <- p.groups[1].RequestVote("1", "1", &raft.RequestVoteRequest{RPCHeader: headerOf(2), Term: 2}, &raft.RequestVoteResponse{})
	}()
	vote := <-rafts
	g.mu.Lock()
	g.camp.due = 0
	g.mu.Unlock()
	g.stand()
	select {
	case r := <-rafts:
		t.Fatalf("raft gets %T while it votes", r.Command)
	default:
	}
	vote.Respond(&raft.RequestVoteResponse{Term: 2}, nil) // not granted: this one may stand
	if err := <-asked; err != nil {
		t.Error(err)
	}
	select {
	case r := <-rafts:
		if _, ok := r.Command.(*raft.TimeoutNowRequest); !ok {
			t.Errorf("raft gets %T, want a TimeoutNow", r.Command)
		}
		r.Respond(&raft.TimeoutNowResponse{}, nil)
	case <-time.After(5 * time.Second):
		t.Error("nobody stands after the vote")
	}
}

func TestPatienceFollowsTheCampaignAndTheDisk(t *testing.T) {
	p := newPair(t, [2]Gate{promptGate(30 * time.Millisecond)})
	g := p.groups[0]
	var told time.Duration
	g.OnPatience(func(d time.Duration) { told = d })
	for _, c := range []struct {
		name string
		do   func()
		want time.Duration
	}{
		{"no campaign: the time of a vote", func() {}, 120 * time.Millisecond},
		{"a campaign", func() { g.campaigning(0) }, 8 * campaignStagger},
		{"a campaign without end", func() { g.campaigning(3) }, 64 * campaignStagger},
		{"the slowest campaign", func() { g.campaigning(100) }, patienceMax},
		{"just after it", func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.camp.due = g.net.now()
			g.stopCampaignLocked()
		}, patienceMax},
		{"long after it", func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.camp.due -= instant(campaignMemory)
		}, 120 * time.Millisecond},
	} {
		c.do()
		g.adjustPatience()
		if told != c.want {
			t.Errorf("%s: %v, want %v", c.name, told, c.want)
		}
	}
}
