package chunkserver

import (
	"sync"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/pb"
)

// news is who leads each copyset, as far as this server knows, and the streams that
// are told of every change.
type news struct {
	// mu guards the fields below. A stream's own lock may be taken under it.
	mu      sync.Mutex
	known   map[backend.CopysetID]pb.Route
	streams map[*ioStream]struct{}
}

func newNews() *news {
	return &news{known: make(map[backend.CopysetID]pb.Route), streams: make(map[*ioStream]struct{})}
}

// leaderChanged is copyset.Options.LeaderChanged. It does not block: streams only
// note that there is something to tell.
func (n *news) leaderChanged(id backend.CopysetID, leader backend.ServerID, term uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.known[id]; term < old.Term {
		return
	}
	n.known[id] = pb.Route{Copyset: id, Leader: leader, Term: term}
	for st := range n.streams {
		st.tell(id)
	}
}

// forget drops a copyset whose replica is gone.
func (n *news) forget(id backend.CopysetID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.known, id)
}

// join adds a stream and returns what there is to begin with.
func (n *news) join(st *ioStream) []pb.Route {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[st] = struct{}{}
	routes := make([]pb.Route, 0, len(n.known))
	for _, r := range n.known {
		routes = append(routes, r)
	}
	return routes[:min(len(routes), pb.MaxRoutes)]
}

func (n *news) leave(st *ioStream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, st)
}

// of appends the routes of the copysets; one that is not here has no leader in term 0.
func (n *news) of(ids map[backend.CopysetID]struct{}, dst []pb.Route) []pb.Route {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range ids {
		r := n.known[id]
		r.Copyset = id
		dst = append(dst, r)
	}
	return dst
}

// ledCopyset is a copyset that this server leads in term.
type ledCopyset struct {
	id   backend.CopysetID
	term uint64
}

// led lists the copysets that self leads.
func (n *news) led(self backend.ServerID) []ledCopyset {
	n.mu.Lock()
	defer n.mu.Unlock()
	var led []ledCopyset
	for id, r := range n.known {
		if r.Leader == self {
			led = append(led, ledCopyset{id, r.Term})
		}
	}
	return led
}
