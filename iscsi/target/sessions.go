package target

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/opencurve/curve-nbd/iscsi"
	"github.com/opencurve/curve-nbd/iscsi/registry"
)

// nexusID is what makes two sessions the same I_T nexus (4.4): the later one
// takes the place of the earlier.
type nexusID struct {
	initiator, target string
	isid              iscsi.ISID
}

// sessions is the table of all that are not over.
type sessions struct {
	mu     sync.Mutex // guards all below
	byTSIH map[uint16]*session
	byID   map[nexusID]*session // not of discovery
	last   uint16               // TSIH given last
}

// maxSessions leaves session handles free, so that a search for one is short.
const maxSessions = 1 << 15

// open gives a session its handle. A session of the same nexus is ended first (session
// reinstatement, 6.3.5), and leaves its units, which wait for what it has in execution; with
// tsih set it must be that one, whose connection is then reinstated in the same way (6.3.4),
// since there is only one.
func (t *sessions) open(ctx context.Context, s *session, tsih uint16) error {
	for {
		t.mu.Lock()
		old, err := t.predecessor(s, tsih)
		if err != nil || old == nil {
			if err == nil {
				err = t.add(s, tsih)
			}
			t.mu.Unlock()
			return err
		}
		t.mu.Unlock()
		old.conn.abort("its initiator logged in again")
		select {
		case <-old.over:
			if s.joined {
				s.inherited = &old.params
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: the session before this one does not end", iscsi.ErrUnavailable)
		}
		// What was joined is gone: the handle is free for this session, which is the
		// only one to ask for it.
	}
}

// predecessor returns the session that has to end first.
func (t *sessions) predecessor(s *session, tsih uint16) (*session, error) {
	if s.discovery {
		if tsih != 0 {
			return nil, iscsi.ErrNoSession
		}
		return nil, nil
	}
	old := t.byID[s.id]
	if tsih == 0 || s.joined {
		return old, nil
	}
	switch {
	case old == nil || old.tsih != tsih:
		return nil, iscsi.ErrNoSession
	case old.cid != s.cid:
		return nil, iscsi.ErrTooManyConnections
	}
	s.joined = true
	return old, nil
}

func (t *sessions) add(s *session, tsih uint16) error {
	if len(t.byTSIH) >= maxSessions {
		return iscsi.ErrOutOfResources
	}
	if tsih == 0 || t.byTSIH[tsih] != nil {
		if tsih != 0 {
			return iscsi.ErrNoSession
		}
		for t.last++; t.last == 0 || t.byTSIH[t.last] != nil; t.last++ {
		}
		tsih = t.last
	}
	if t.byTSIH == nil {
		t.byTSIH, t.byID = make(map[uint16]*session), make(map[nexusID]*session)
	}
	s.tsih = tsih
	t.byTSIH[tsih] = s
	if !s.discovery {
		t.byID[s.id] = s
	}
	return nil
}

// remove forgets a session that is over.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byTSIH[s.tsih] == s {
		delete(t.byTSIH, s.tsih)
	}
	if t.byID[s.id] == s {
		delete(t.byID, s.id)
	}
}

// of returns the sessions with a target, or all but those of discovery.
func (t *sessions) of(target string) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*session
	for _, s := range t.byID {
		if target == "" || s.target == target {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *session) int { return int(a.tsih) - int(b.tsih) })
	return all
}

// Sessions lists the sessions with a target, or with all for "".
func (s *Server) Sessions(target string) []registry.SessionInfo {
	var infos []registry.SessionInfo
	for _, x := range s.sessions.of(target) {
		infos = append(infos, registry.SessionInfo{
			Target: x.target, Initiator: x.initiator, User: x.user, Address: remoteName(x.conn.nc), Since: x.since,
			Traffic: x.traffic.soFar(),
		})
	}
	return infos
}
