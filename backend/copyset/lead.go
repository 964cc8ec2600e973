package copyset

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
)

// A leader's life:
//
//	raft elects it ── net.Lead, a barrier command ──► barrier applied: ready ──► deposed
//
// raft's NotifyCh never skips a change, so that every leadership that was taken up
// is ended, and what was proposed in it and not seen applied is failed then. An
// entry that reaches raft after it has stepped down, but before that notice, is
// failed by that notice.

// leadership is one term of this replica as the leader.
type leadership struct {
	term uint64
	// ctx ends with the leadership.
	ctx    context.Context
	cancel context.CancelFunc
}

// hintWait bounds how long operations that were never sent wait, once leadership
// is lost, to be answered with who leads instead.
const hintWait = 50 * time.Millisecond

// leaderLife is who leads, as far as this replica knows. runLife owns current.
type leaderLife struct {
	notify chan bool
	// ready has leaderships whose barrier was applied.
	ready chan *leadership
	// change is signalled when leader or term have changed; changed tells waiters.
	change  chan struct{}
	changed news
	// elected is the term of the last election won; set on raft's main thread in
	// the moment that it wins, since nobody else can tell it later.
	elected atomic.Uint64
	current *leadership
	// transfer lets one transfer run at a time, members one change of the members,
	// which comes before transfer.
	transfer, members sync.Mutex

	mu     sync.Mutex
	leader backend.ServerID
	term   uint64

	toldLeader backend.ServerID
	toldTerm   uint64
}

// notifyDepth is more changes of leadership than there can be before runLife, which
// does nothing that waits, has taken them.
const notifyDepth = 16

func (f *leaderLife) init() {
	f.notify = make(chan bool, notifyDepth)
	f.ready = make(chan *leadership, notifyDepth)
	f.change = make(chan struct{}, 1)
}

// observe hears of raft's changes, on raft's own goroutines.
func (f *leaderLife) observe(o *raft.Observation) bool {
	switch data := o.Data.(type) {
	case raft.RaftState:
		if data == raft.Leader {
			f.elected.Store(o.Raft.CurrentTerm())
		}
	case raft.LeaderObservation:
		f.learn(o.Raft)
	}
	return false
}

// catchUp learns what happened before observe was registered.
func (f *leaderLife) catchUp(rf *raft.Raft) {
	if rf.State() == raft.Leader {
		f.elected.CompareAndSwap(0, rf.CurrentTerm())
	}
	f.learn(rf)
}

// learn takes over who leads. Raft is asked, rather than what was observed believed:
// raft changes its leader on its main thread and on those that bring heartbeats, and
// tells of two changes in either order. Whoever learns last has asked last.
func (f *leaderLife) learn(rf *raft.Raft) {
	f.mu.Lock()
	term := rf.CurrentTerm()
	_, id := rf.LeaderWithID()
	for again := rf.CurrentTerm(); again != term; again = rf.CurrentTerm() {
		term = again
		_, id = rf.LeaderWithID()
	}
	f.leader, f.term = raftnet.ParsePeer(id), term
	f.mu.Unlock()
	f.changed.tell()
	select {
	case f.change <- struct{}{}:
	default:
	}
}

// known is the leader, 0 for none, and the term.
func (f *leaderLife) known() (backend.ServerID, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leader, f.term
}

func (r *Replica) runLife() {
	for {
		select {
		case leads := <-r.life.notify:
			r.deposed()
			if leads {
				r.elected()
			}
		case l := <-r.life.ready:
			r.takeUp(l)
		case <-r.life.change:
		case <-r.closing:
			r.deposed()
			return
		}
		r.tellLeader()
	}
}

// elected begins a leadership that is not ready yet.
func (r *Replica) elected() {
	l := &leadership{term: r.life.elected.Load()}
	l.ctx, l.cancel = context.WithCancel(r.ctx)
	r.life.current = l
	if r.failure() != nil {
		r.spawn(r.resign)
		return
	}
	r.configureNet()
	r.net.Lead(l.term)
	r.prop.begin(func(err error) {
		if err == nil {
			r.life.ready <- l // never more than notifyDepth: one per notice
		}
	})
}

// takeUp makes a leadership ready to serve.
func (r *Replica) takeUp(l *leadership) {
	if r.life.current != l {
		return
	}
	r.prop.open()
	r.lead.Store(l)
	r.slog.Info("leads", "term", l.term)
	r.told(r.opts.Self, l.term)
}

// deposed ends the leadership, if there is one.
func (r *Replica) deposed() {
	l := r.life.current
	if l == nil {
		return
	}
	r.life.current = nil
	wasReady := r.lead.Swap(nil) != nil
	l.cancel()
	r.net.Follow()
	unsent := r.prop.depose(backend.ErrOutcomeUnknown)
	r.reads.kick()
	if wasReady {
		r.slog.Info("leads no longer", "term", l.term)
		r.told(0, l.term)
	}
	answer := func() {
		ctx, cancel := context.WithTimeout(r.ctx, hintWait)
		defer cancel()
		r.awaitLeader(ctx, l.term)
		r.prop.fail(unsent, r.notLeader())
	}
	if len(unsent) > 0 && !r.spawn(answer) {
		answer() // closing: it does not wait
	}
}

// awaitLeader waits for the leader of a term after the given one.
func (r *Replica) awaitLeader(ctx context.Context, after uint64) (backend.ServerID, bool) {
	for {
		changed := r.life.changed.wait()
		if leader, term := r.life.known(); leader != 0 && term > after {
			return leader, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false
		}
	}
}

// tellLeader passes on who leads, when it is another. That no leader is known is
// not news: the one of that term may well lead on, with the others.
func (r *Replica) tellLeader() {
	leader, term := r.life.known()
	if leader != 0 && leader != r.opts.Self {
		r.told(leader, term)
	}
}

func (r *Replica) told(leader backend.ServerID, term uint64) {
	f := &r.life
	if term < f.toldTerm || term == f.toldTerm && leader == f.toldLeader {
		return
	}
	f.toldLeader, f.toldTerm = leader, term
	r.opts.LeaderChanged(r.opts.ID, leader, term)
}

// news wakes all that wait for a change of something. The channel is taken before
// the thing is looked at, so that no change is missed.
type news struct {
	mu sync.Mutex
	ch chan struct{}
}

func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *news) tell() {
	n.mu.Lock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
	n.mu.Unlock()
}
