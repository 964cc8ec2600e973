package remote

import (
	"testing"

	"github.com/opencurve/curve-nbd/backend"
)

func TestNewsAreHeldAgainstWhatIsKnown(t *testing.T) {
	type said struct {
		from, leader backend.ServerID
		term         uint64
	}
	for _, c := range []struct {
		name string
		said []said
		want route
	}{
		{"nothing", nil, route{}},
		{"a leader", []said{{1, 1, 5}}, route{leader: 1, term: 5}},
		{"a follower's word is enough", []said{{2, 1, 5}}, route{leader: 1, term: 5}},
		{"a newer term wins", []said{{1, 1, 5}, {2, 2, 6}}, route{leader: 2, term: 6}},
		{"an older term is stale", []said{{2, 2, 6}, {1, 1, 5}}, route{leader: 2, term: 6}},
		{"an election makes the old leader stale", []said{{1, 1, 5}, {2, 0, 6}, {1, 1, 5}}, route{term: 6}},
		{"the winner of an election", []said{{2, 0, 6}, {2, 2, 6}}, route{leader: 2, term: 6}},
		{"a voter that has not heard of the winner", []said{{2, 2, 6}, {3, 0, 6}}, route{leader: 2, term: 6}},
		{"a leader that resigned", []said{{1, 1, 5}, {1, 0, 5}}, route{term: 5, resigned: 1}},
		{"a follower that has not heard of it", []said{{1, 1, 5}, {1, 0, 5}, {3, 1, 5}}, route{term: 5, resigned: 1}},
		{"a leader that took it up again", []said{{1, 1, 5}, {1, 0, 5}, {1, 1, 5}}, route{leader: 1, term: 5}},
		{"nobody, said by a stranger to the term", []said{{1, 1, 5}, {2, 0, 4}}, route{leader: 1, term: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r route
			for _, s := range c.said {
				r, _ = r.hears(s.from, s.leader, s.term)
			}
			if r != c.want {
				t.Errorf("got %+v, want %+v", r, c.want)
			}
		})
	}
}

func TestHearsSaysWhetherItWasNews(t *testing.T) {
	r, fresh := route{}.hears(1, 1, 5)
	if !fresh {
		t.Error("the first news are none")
	}
	if _, fresh = r.hears(2, 1, 5); fresh {
		t.Error("the same again is news")
	}
}
