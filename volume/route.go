package volume

import (
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// routeState is what is known of who leads a copyset.
//
//	          news               silent for a try timeout
//	 idle ──────────► known ◄──────────────────────────► suspect
//	  │                │  ▲        answer, new leader       │
//	  │ operation      │  │                                 │
//	  │                │  │ refused, lost, stepped down     │
//	  ▼                ▼  │ / news of another leader        │
//	searching ◄────────┴──┴─────────────────────────────────┘
//	  │      ▲
//	  │ news │ refused, lost, stepped down      probing ──► known: an answer, or
//	  └──► probing                              a newer leader; suspect: silence
type routeState uint8

const (
	// routeIdle: nobody has asked.
	routeIdle routeState = iota
	// routeSearching: no leader is known; all peers are asked, operations wait.
	routeSearching
	// routeProbing: the leader that just refused or was lost is said to lead all
	// the same; one operation tries it, the others wait.
	routeProbing
	// routeKnown: operations go to the leader.
	routeKnown
	// routeSuspect: operations go to the leader, but it gives no answer, or an
	// election is held: all peers are asked whether they know of another.
	routeSuspect

	routeStates
)

var routeNames = [routeStates]string{"idle", "searching", "probing", "known", "suspect"}

func (s routeState) String() string { return routeNames[s] }

// routeMoves are the allowed changes of state. From known to known is a change
// of leader.
var routeMoves = [routeStates][routeStates]bool{
	routeIdle:      {routeSearching: true, routeKnown: true},
	routeSearching: {routeKnown: true, routeProbing: true},
	routeProbing:   {routeKnown: true, routeSuspect: true, routeSearching: true},
	routeKnown:     {routeKnown: true, routeSuspect: true, routeSearching: true},
	routeSuspect:   {routeKnown: true, routeSearching: true},
}

const (
	// handOverGrace is how long operations that are out when another leader is
	// heard of may still be answered by the old one, before they are taken back:
	// a leader that lives answers or refuses them within it.
	handOverGrace = 20 * time.Millisecond
	// The pause before a leader that refused is tried again in the same term: none
	// at first, then doubling from the first to the last.
	firstPause     = 2 * time.Millisecond
	lastPause      = 50 * time.Millisecond
	lastPauseBroke = 250 * time.Millisecond // when it cannot be reached
)

// route is the state machine of one copyset's leader. It does nothing but
// decide; copyset.sweep acts. The newest term wins, and within a term the leader
// that was heard of first, until it refuses or is lost.
type route struct {
	state  routeState
	leader backend.ServerID
	// term is the newest in which a leader was heard of.
	term uint64
	// version counts the changes of leader: an operation that was sent under an
	// older one says nothing about this one.
	version uint64
	// takeBack is when operations of older versions are to be taken back.
	takeBack time.Time
	// bounces counts the refusals in this term since the last answer; until
	// resume, next is not tried.
	bounces int
	resume  time.Time
	next    backend.ServerID

	// illegal is told of a change that routeMoves does not allow.
	illegal func(from, to routeState)
}

func (r *route) move(to routeState) {
	if !routeMoves[r.state][to] {
		r.illegal(r.state, to)
	}
	r.state = to
}

// open says whether operations may be sent as they come.
func (r *route) open() bool { return r.state == routeKnown || r.state == routeSuspect }

// leaderless says that operations wait for a leader.
func (r *route) leaderless() bool { return r.state == routeSearching }

// wanted: an operation needs the route.
func (r *route) wanted() {
	if r.state == routeIdle {
		r.move(routeSearching)
	}
}

// hear takes news, wherever they come from. It reports whether the leader
// changed.
func (r *route) hear(leader backend.ServerID, term uint64, now time.Time) bool {
	switch {
	case term < r.term:
		return false
	case leader == 0:
		r.heardNone(term)
		return false
	case term > r.term:
		r.bounces, r.resume, r.next = 0, time.Time{}, 0
		return r.take(leader, term, now)
	case r.state == routeIdle:
		return r.take(leader, term, now)
	case r.state != routeSearching:
		return false // it is the one, or a mistake: a term has one leader
	case now.Before(r.resume):
		r.next = leader
		return false
	}
	return r.take(leader, term, now)
}

// heardNone: the leader of the term stepped down; where that is a term later than
// the leader's own, somebody stands for election, and may or may not win.
func (r *route) heardNone(term uint64) {
	switch {
	case r.state == routeIdle || r.state == routeSearching:
	case term == r.term:
		r.next = 0
		r.move(routeSearching)
	case r.state == routeKnown:
		r.move(routeSuspect)
	}
}

func (r *route) take(leader backend.ServerID, term uint64, now time.Time) bool {
	changed := leader != r.leader || term != r.term
	if changed || r.bounces > 0 {
		r.version++
		r.takeBack = now
		if r.state == routeKnown || r.state == routeSearching && r.bounces == 0 {
			r.takeBack = now.Add(handOverGrace)
		}
	}
	r.leader, r.term, r.next = leader, term, 0
	if r.bounces > 0 {
		r.move(routeProbing)
	} else {
		r.move(routeKnown)
	}
	return changed
}

// tick tries the leader that was heard of during a pause, when that is over.
func (r *route) tick(now time.Time) bool {
	if r.state != routeSearching || r.next == 0 || now.Before(r.resume) {
		return false
	}
	return r.take(r.next, r.term, now)
}

// refused: the leader says that it does not lead.
func (r *route) refused(now time.Time) { r.bounce(now, lastPause) }

// broke: the leader cannot be reached.
func (r *route) broke(now time.Time) { r.bounce(now, lastPauseBroke) }

func (r *route) bounce(now time.Time, longest time.Duration) {
	if r.state == routeIdle || r.state == routeSearching {
		return
	}
	r.bounces++
	r.resume, r.next = now, 0
	if r.bounces > 1 {
		r.resume = now.Add(doubled(firstPause, r.bounces-2, longest))
	}
	r.move(routeSearching)
}

// answered: the leader served an operation that was sent under this version.
func (r *route) answered() {
	r.bounces = 0
	if r.state == routeProbing || r.state == routeSuspect {
		r.move(routeKnown)
	}
}

// silent: nothing was heard of the leader for a try timeout. One that is being
// probed did not refuse again, at least: it gets the others, too.
func (r *route) silent() {
	if r.state == routeKnown || r.state == routeProbing {
		r.move(routeSuspect)
	}
}

func (r *route) String() string {
	if r.leader == 0 {
		return r.state.String()
	}
	return fmt.Sprintf("%v chunkserver %d term %d", r.state, uint32(r.leader), r.term)
}

// doubled is d doubled n times, at most longest.
func doubled(d time.Duration, n int, longest time.Duration) time.Duration {
	for ; n > 0 && d < longest; n-- {
		d *= 2
	}
	return min(d, longest)
}
