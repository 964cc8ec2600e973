package remote

import (
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// route is the newest that is known of who leads a copyset.
type route struct {
	leader backend.ServerID // 0 for nobody
	term   uint64
	// resigned led in this term and has said that it stopped.
	resigned backend.ServerID
}

// hears decides what news from a server are worth:
//
//	term older              stale
//	term newer              taken
//	same term, a leader     taken, unless that leader itself has said that it
//	                        stopped: then only its own word makes it leader again
//	same term, nobody       taken only from the leader itself: another server may
//	                        just not have heard of it yet
func (r route) hears(from, leader backend.ServerID, term uint64) (route, bool) {
	switch {
	case term < r.term:
		return r, false
	case term > r.term:
		return route{leader: leader, term: term}, true
	case leader != 0:
		if leader == r.resigned && from != leader {
			return r, false
		}
		return route{leader: leader, term: term}, leader != r.leader
	case from == r.leader && r.leader != 0:
		return route{term: term, resigned: r.leader}, true
	}
	return r, false
}

// routes is what all servers have said, and who wants to hear of it.
type routes struct {
	// mu guards everything below, and is held while a watcher is called, so that
	// calls come one at a time and in order.
	mu       sync.Mutex
	known    map[backend.CopysetID]route
	watchers []backend.RouteWatcher
	// news is closed and replaced whenever known changes.
	news chan struct{}
}

func (r *routes) init() {
	r.known = make(map[backend.CopysetID]route)
	r.news = make(chan struct{})
}

func (r *routes) watch(w backend.RouteWatcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, w)
	for id, known := range r.known {
		w.LeaderIs(id, known.leader, known.term)
	}
}

func (r *routes) unwatch(w backend.RouteWatcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.watchers, w); i >= 0 {
		r.watchers = slices.Delete(r.watchers, i, i+1)
	}
}

// told takes in what a server said. News that change nothing are passed on all the
// same where they are the answer to a question: who asked may have missed them.
func (r *routes) told(from backend.ServerID, said []pb.Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := false
	for _, n := range said {
		if n.Term == 0 {
			continue // it knows nothing
		}
		now, fresh := r.known[n.Copyset].hears(from, n.Leader, n.Term)
		if fresh {
			r.known[n.Copyset] = now
			changed = true
		} else if now.leader != n.Leader || now.term != n.Term {
			continue
		}
		for _, w := range r.watchers {
			w.LeaderIs(n.Copyset, n.Leader, n.Term)
		}
	}
	if changed {
		close(r.news)
		r.news = make(chan struct{})
	}
}

func (r *routes) lost(id backend.ServerID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.watchers {
		w.ServerLost(id)
	}
}

// leader returns what is known of a copyset, and a channel that is closed at the next
// change of any.
func (r *routes) leader(id backend.CopysetID) (route, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[id], r.news
}
