package chunkserver

import (
	"context"
	"slices"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// ordersAtOnce bounds the copysets that are being made, removed or reconciled at
	// one time.
	ordersAtOnce = 8
	// orderTimeout bounds one step for one copyset; what is left is ordered again.
	orderTimeout = 30 * time.Second
)

// obey takes in what the MDS answered. It does not wait for what takes long: each
// copyset has one task at a time, and orders are repeated with every heartbeat.
func (s *Server) obey(orders backend.Orders) {
	if s.book.update(orders.Servers) {
		s.net.SetAddresses(s.book.peerAddresses())
		if err := s.book.save(s.dir); err != nil {
			s.log.Error("saving the address book", "err", err)
		}
	}
	n := len(orders.Replicas)
	for i := range n {
		at := (s.hosts.turn + i) % n
		o := orders.Replicas[at]
		if !s.concerned(o) || !s.hosts.begin(o.Copyset) {
			continue
		}
		select {
		case s.hosts.slots <- struct{}{}:
		default:
			s.hosts.end(o.Copyset)
			s.hosts.turn = at // the rest comes with the next heartbeat, and comes first
			return
		}
		s.background.Go(func() {
			defer func() { <-s.hosts.slots; s.hosts.end(o.Copyset) }()
			ctx, cancel := context.WithTimeout(s.life, orderTimeout)
			defer cancel()
			if err := s.follow(ctx, o); err != nil && s.life.Err() == nil {
				s.log.Warn("carrying out an order of the MDS; it will be tried again", "copyset", uint32(o.Copyset), "err", err)
			}
		})
	}
}

// concerned says, cheaply, whether there may be something to do.
func (s *Server) concerned(o backend.ReplicaOrder) bool {
	r := s.replicas.get(o.Copyset)
	wanted := slices.Contains(o.Peers, s.ID())
	if r == nil {
		return o.Wipe || wanted && !s.hosts.has(o.Copyset)
	}
	st := r.Status()
	return o.Wipe || st.Leader == s.ID() && (len(o.Rebuild) > 0 || len(st.Learners) > 0 || !sameServers(st.Voters, o.Peers))
}

// sameServers compares without regard to order. A server is in neither list twice.
func sameServers(a, b []backend.ServerID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(id backend.ServerID) bool { return !slices.Contains(b, id) })
}

// follow takes one step towards what the MDS wants of a copyset:
//
//	replica here  wanted  Wipe
//	     yes       any    yes   forget it; if wanted, start again empty
//	     no        yes     -    make it: founding, or waiting to be added
//	   leading     any    no    reconcile the raft configuration
//	    other      any    no    nothing
func (s *Server) follow(ctx context.Context, o backend.ReplicaOrder) error {
	wanted := slices.Contains(o.Peers, s.ID())
	switch here := s.hosts.has(o.Copyset); {
	case here && o.Wipe:
		// Chunks of a replica that comes back are compared block by block rather
		// than copied again.
		if err := s.remove(ctx, o.Copyset, !wanted); err != nil {
			return err
		}
		if wanted {
			if err := s.create(o.Copyset, nil); err != nil {
				return err
			}
		}
		s.reportSoon()
	case !here && wanted:
		var found []backend.ServerID
		if o.Founding {
			found = o.Peers
		}
		if err := s.create(o.Copyset, found); err != nil {
			return err
		}
		s.reportSoon()
	case here:
		r := s.replicas.get(o.Copyset)
		if r == nil || r.Status().Leader != s.ID() {
			return nil
		}
		_, err := r.Reconcile(ctx, o.Peers, o.Rebuild)
		return err
	}
	return nil
}
