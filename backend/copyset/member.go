package copyset

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/copyset/raftnet"
)

const (
	// drainTimeout bounds how long a transfer holds changes back before it begins.
	drainTimeout = time.Second
	// probeRetry is the time between two looks whether a follower has got there.
	probeRetry = 2 * time.Millisecond
	// memberTimeout bounds one change of the configuration, and its probes.
	memberTimeout = 10 * time.Second
	probeTimeout  = 500 * time.Millisecond
)

func (r *Replica) rpcHeader() raft.RPCHeader {
	self := raftnet.PeerID(r.opts.Self)
	return raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax,
		ID:              []byte(self), Addr: r.net.EncodePeer(self, raftnet.PeerAddress(r.opts.Self)),
	}
}

// probe asks a member, behind all that was sent to it before, whether its log has
// the entry at index: an append of nothing after it. Only a leader may ask.
func (r *Replica) probe(ctx context.Context, l *leadership, server backend.ServerID, index, term uint64) bool {
	header := r.rpcHeader()
	req := &raft.AppendEntriesRequest{RPCHeader: header, Term: l.term, PrevLogEntry: index, PrevLogTerm: term}
	answer := make(chan bool, 1)
	r.spawn(func() {
		var resp raft.AppendEntriesResponse
		err := r.net.AppendEntries(raftnet.PeerID(server), raftnet.PeerAddress(server), req, &resp)
		answer <- err == nil && resp.Success && resp.Term == l.term
	})
	select {
	case ok := <-answer:
		return ok
	case <-ctx.Done():
		return false
	}
}

// termOf is the term of an entry.
func (r *Replica) termOf(index uint64) (uint64, error) {
	var entry raft.Log
	if err := r.log.GetLog(index, &entry); err != nil {
		return 0, fmt.Errorf("entry %d: %w", index, err)
	}
	return entry.Term, nil
}

// TransferLeadership hands leadership over to a voter, 0 for whichever is most up
// to date, and returns when that one leads.
func (r *Replica) TransferLeadership(ctx context.Context, to backend.ServerID) error {
	r.life.transfer.Lock()
	defer r.life.transfer.Unlock()
	l := r.lead.Load()
	if l == nil {
		return r.notLeader()
	}
	voters, _ := membersOf(r.raft.Load().GetConfiguration().Configuration())
	if to != 0 && !slices.Contains(voters, to) {
		return fmt.Errorf("%w: %v is not a voter of %v, which are %v", backend.ErrInvalid, to, r.opts.ID, voters)
	}
	if to == r.opts.Self {
		return nil
	}
	targets := []backend.ServerID{to}
	if to == 0 {
		targets = slices.DeleteFunc(voters, func(id backend.ServerID) bool { return id == r.opts.Self })
	}
	r.prop.hold(true)
	// Whatever comes of it: a new leadership begins unheld.
	defer r.prop.hold(false)
	if err := r.handOver(ctx, l, targets); err != nil {
		if r.lead.Load() == l {
			r.net.Lead(l.term)
			r.reads.kick()
		}
		return fmt.Errorf("hand %v over: %w", r.opts.ID, err)
	}
	leader, ok := r.awaitLeader(ctx, l.term)
	if !ok {
		return fmt.Errorf("%v: the new leader is not known yet: %w", r.opts.ID, ctx.Err())
	}
	if to != 0 && leader != to {
		return fmt.Errorf("%v is led by %v now, not by %v", r.opts.ID, leader, to)
	}
	return nil
}

// handOver does it: changes are held back already. A target that lacked an entry
// would campaign, be refused, and leave the group without a leader for an election
// timeout; so the target is chosen by what it has.
func (r *Replica) handOver(ctx context.Context, l *leadership, targets []backend.ServerID) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	select {
	case <-r.prop.drained():
	case <-ctx.Done():
		return r.lostOr(l, fmt.Errorf("%w: changes are still in flight", backend.ErrBusy))
	}
	target, err := r.upToDate(ctx, l, targets)
	if err != nil {
		return r.lostOr(l, err)
	}
	r.net.Release(ctx)
	req := &raft.TimeoutNowRequest{RPCHeader: r.rpcHeader()}
	if err := r.net.TimeoutNow(raftnet.PeerID(target), raftnet.PeerAddress(target), req, &raft.TimeoutNowResponse{}); err != nil {
		return r.lostOr(l, fmt.Errorf("%v: %w", target, err))
	}
	patience := time.NewTimer(r.opts.Heartbeat)
	defer patience.Stop()
	select {
	case <-l.ctx.Done():
		return nil
	case <-patience.C:
		return fmt.Errorf("%w: %v has not taken over within %v", backend.ErrUnreachable, target, r.opts.Heartbeat)
	}
}

// lostOr is nil when leadership is lost already, which was the aim.
func (r *Replica) lostOr(l *leadership, err error) error {
	if l.ctx.Err() != nil {
		return nil
	}
	return err
}

// upToDate waits for the first of the targets that has the whole log.
func (r *Replica) upToDate(ctx context.Context, l *leadership, targets []backend.ServerID) (backend.ServerID, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan backend.ServerID, len(targets))
	for _, id := range targets {
		r.spawn(func() {
			for ctx.Err() == nil {
				last := r.raft.Load().LastIndex()
				term, err := r.termOf(last)
				if err == nil && r.probe(ctx, l, id, last, term) && r.raft.Load().LastIndex() == last {
					found <- id
					return
				}
				pause := time.NewTimer(probeRetry)
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
				pause.Stop()
			}
		})
	}
	select {
	case id := <-found:
		return id, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: none of %v has the whole log", backend.ErrUnreachable, targets)
	}
}

// resign gives leadership away as it is: the replica cannot serve.
func (r *Replica) resign() {
	rf := r.raft.Load()
	if rf == nil || rf.State() != raft.Leader {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	r.net.Release(ctx)
	rf.LeadershipTransfer() // raft does it; should it fail, the next election may
}

// Reconcile, on the leader, takes the configuration one step towards want:
// damaged members out first, then missing ones in as learners, promoted once they
// have caught up, then members not wanted out (itself last, after handing over).
// On others it does nothing. done says that nothing is left to do.
func (r *Replica) Reconcile(ctx context.Context, want, rebuild []backend.ServerID) (done bool, err error) {
	l := r.lead.Load()
	if l == nil || len(want) == 0 {
		return false, nil
	}
	r.life.members.Lock()
	defer r.life.members.Unlock()
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	voters, learners := membersOf(r.raft.Load().GetConfiguration().Configuration())
	members := append(slices.Clone(voters), learners...)
	has := func(list []backend.ServerID, id backend.ServerID) bool { return slices.Contains(list, id) }
	for _, id := range rebuild {
		if has(members, id) && id != r.opts.Self {
			return false, r.remove(ctx, l, id, voters, want)
		}
	}
	for _, id := range want {
		switch {
		case has(rebuild, id), has(voters, id):
		case has(learners, id):
			return false, r.promote(ctx, l, id)
		default:
			return false, r.changeMember(l, func(rf *raft.Raft) raft.IndexFuture {
				return rf.AddNonvoter(raftnet.PeerID(id), raftnet.PeerAddress(id), 0, memberTimeout)
			})
		}
	}
	for _, id := range members {
		if !has(want, id) && id != r.opts.Self {
			return false, r.remove(ctx, l, id, voters, want)
		}
	}
	if !has(want, r.opts.Self) {
		return false, r.TransferLeadership(ctx, r.heir(voters, want))
	}
	return !slices.ContainsFunc(want, func(id backend.ServerID) bool { return !has(voters, id) }), nil
}

// heir is a voter that is wanted, 0 for none.
func (r *Replica) heir(voters, want []backend.ServerID) backend.ServerID {
	for _, id := range voters {
		if id != r.opts.Self && slices.Contains(want, id) {
			return id
		}
	}
	return 0
}

// changeMember makes one change of the configuration. The net must know of it before
// the next: majorities of neighbouring configurations meet, of others they may not.
func (r *Replica) changeMember(l *leadership, change func(*raft.Raft) raft.IndexFuture) error {
	result := make(chan error, 1)
	if !r.spawn(func() { result <- change(r.raft.Load()).Error() }) {
		return errClosing
	}
	defer r.configureNet()
	select {
	case err := <-result:
		return err
	case <-l.ctx.Done():
		return r.notLeader()
	}
}

// promote makes a learner a voter once it has what is applied here.
func (r *Replica) promote(ctx context.Context, l *leadership, id backend.ServerID) error {
	if !r.hasApplied(ctx, l, id) {
		return nil // the next call looks again
	}
	return r.changeMember(l, func(rf *raft.Raft) raft.IndexFuture {
		return rf.AddVoter(raftnet.PeerID(id), raftnet.PeerAddress(id), 0, memberTimeout)
	})
}

// hasApplied says whether a member's log has all that is applied here.
func (r *Replica) hasApplied(ctx context.Context, l *leadership, id backend.ServerID) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	index := r.applied.Load()
	term, err := r.termOf(index)
	return err == nil && r.probe(ctx, l, id, index, term)
}

// remove takes a member out, as long as those that remain and answer are a majority
// of what is wanted.
func (r *Replica) remove(ctx context.Context, l *leadership, id backend.ServerID, voters, want []backend.ServerID) error {
	if slices.Contains(voters, id) {
		healthy := 1 // this one
		for _, v := range voters {
			if v != r.opts.Self && v != id && r.hasApplied(ctx, l, v) {
				healthy++
			}
		}
		if need := len(want)/2 + 1; healthy < need {
			return fmt.Errorf("%w: without %v only %d of %v would be left in good health, expected %d", backend.ErrBusy, id, healthy, voters, need)
		}
	}
	return r.changeMember(l, func(rf *raft.Raft) raft.IndexFuture {
		return rf.RemoveServer(raftnet.PeerID(id), 0, memberTimeout)
	})
}
