package volume

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/opencurve/curve-nbd/backend"
)

// routeEvents are what may happen to a route, by name.
var routeEvents = map[string]func(r *route, now time.Time){
	"wanted":       func(r *route, _ time.Time) { r.wanted() },
	"cs1 leads 5":  func(r *route, now time.Time) { r.hear(1, 5, now) },
	"cs2 leads 5":  func(r *route, now time.Time) { r.hear(2, 5, now) },
	"cs2 leads 6":  func(r *route, now time.Time) { r.hear(2, 6, now) },
	"cs3 leads 4":  func(r *route, now time.Time) { r.hear(3, 4, now) },
	"none leads 5": func(r *route, now time.Time) { r.hear(0, 5, now) },
	"none leads 7": func(r *route, now time.Time) { r.hear(0, 7, now) },
	"refused":      func(r *route, now time.Time) { r.refused(now) },
	"broke":        func(r *route, now time.Time) { r.broke(now) },
	"answered":     func(r *route, _ time.Time) { r.answered() },
	"silent":       func(r *route, _ time.Time) { r.silent() },
	"tick":         func(r *route, now time.Time) { r.tick(now) },
}

func TestRouteEveryEdge(t *testing.T) {
	cases := []struct {
		edge   string // every allowed move, and the events that keep a state
		events string // the last one makes it
		want   string
	}{
		{"idle-searching", "wanted", "searching"},
		{"idle-known", "cs1 leads 5", "known chunkserver 1 term 5"},
		{"idle-idle", "none leads 5", "idle"},
		{"searching-known", "wanted, cs1 leads 5", "known chunkserver 1 term 5"},
		{"searching-probing", "cs1 leads 5, refused, cs1 leads 5", "probing chunkserver 1 term 5"},
		{"searching-searching", "cs1 leads 5, broke, cs3 leads 4", "searching chunkserver 1 term 5"},
		{"probing-known", "cs1 leads 5, refused, cs1 leads 5, answered", "known chunkserver 1 term 5"},
		{"probing-known", "cs1 leads 5, refused, cs1 leads 5, cs2 leads 6", "known chunkserver 2 term 6"},
		{"probing-searching", "cs1 leads 5, broke, cs1 leads 5, broke", "searching chunkserver 1 term 5"},
		{"probing-searching", "cs1 leads 5, broke, cs1 leads 5, none leads 5", "searching chunkserver 1 term 5"},
		{"probing-suspect", "cs1 leads 5, broke, cs1 leads 5, silent", "suspect chunkserver 1 term 5"},
		{"probing-probing", "cs1 leads 5, broke, cs1 leads 5, cs2 leads 5", "probing chunkserver 1 term 5"},
		{"known-known", "cs1 leads 5, cs2 leads 6", "known chunkserver 2 term 6"},
		{"known-known", "cs1 leads 5, cs3 leads 4", "known chunkserver 1 term 5"},
		{"known-known", "cs1 leads 5, cs2 leads 5", "known chunkserver 1 term 5"},
		{"known-suspect", "cs1 leads 5, silent", "suspect chunkserver 1 term 5"},
		{"known-suspect", "cs1 leads 5, none leads 7", "suspect chunkserver 1 term 5"},
		{"known-searching", "cs1 leads 5, refused", "searching chunkserver 1 term 5"},
		{"known-searching", "cs1 leads 5, none leads 5", "searching chunkserver 1 term 5"},
		{"suspect-known", "cs1 leads 5, silent, answered", "known chunkserver 1 term 5"},
		{"suspect-known", "cs1 leads 5, silent, cs2 leads 6", "known chunkserver 2 term 6"},
		{"suspect-suspect", "cs1 leads 5, silent, cs1 leads 5", "suspect chunkserver 1 term 5"},
		{"suspect-searching", "cs1 leads 5, silent, broke", "searching chunkserver 1 term 5"},
	}
	seen := make(map[string]bool)
	now := time.Unix(0, 0)
	for _, c := range cases {
		t.Run(c.events, func(t *testing.T) {
			r := route{illegal: func(from, to routeState) { t.Errorf("%v to %v is not allowed", from, to) }}
			before := r.state
			for event := range strings.SplitSeq(c.events, ", ") {
				before = r.state
				routeEvents[event](&r, now)
			}
			if got := r.String(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			edge := fmt.Sprintf("%v-%v", before, r.state)
			if edge != c.edge {
				t.Errorf("went %s, want %s", edge, c.edge)
			}
			seen[edge] = true
		})
	}
	for from := range routeMoves {
		for to, allowed := range routeMoves[from] {
			edge := fmt.Sprintf("%v-%v", routeState(from), routeState(to))
			if allowed && !seen[edge] {
				t.Errorf("no case for %s", edge)
			}
		}
	}
}

func TestIllegalMoveOfARouteIsNoticed(t *testing.T) {
	var got string
	r := route{illegal: func(from, to routeState) { got = fmt.Sprintf("%v-%v", from, to) }}
	r.move(routeSuspect)
	if got != "idle-suspect" {
		t.Errorf("noticed %q", got)
	}
}

// TestRouteKeepsItsRules runs random events: no illegal move, the term never goes
// back, a version stands for one leader, and a newer leader is always taken.
func TestRouteKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		r := route{illegal: func(from, to routeState) { t.Fatalf("%v to %v is not allowed", from, to) }}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			old := r
			switch rapid.IntRange(0, 7).Draw(t, "event") {
			case 0, 1, 2:
				leader := backend.ServerID(rapid.IntRange(0, 3).Draw(t, "leader"))
				term := rapid.Uint64Range(1, 5).Draw(t, "term")
				r.hear(leader, term, now)
				if leader != 0 && term > old.term && (!r.open() || r.leader != leader) {
					t.Fatalf("%v after news of chunkserver %d in term %d", &r, leader, term)
				}
			case 3:
				r.refused(now)
			case 4:
				r.broke(now)
			case 5:
				r.answered()
			case 6:
				r.silent()
			case 7:
				now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
				r.tick(now)
			}
			if r.term < old.term {
				t.Fatalf("term went from %d to %d", old.term, r.term)
			}
			if r.version == old.version && (r.leader != old.leader || r.term != old.term) {
				t.Fatalf("another leader under the same version: %v, then %v", &old, &r)
			}
			if r.resume.Sub(now) > lastPauseBroke {
				t.Fatalf("pause of %v", r.resume.Sub(now))
			}
		}
	})
}
