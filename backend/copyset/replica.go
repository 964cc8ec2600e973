package copyset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/chunkstore"
	"github.com/opencurve/curve-nbd/backend/copyset/raftlog"
)

// groupLog is what a replica needs of its log; *raftlog.Group.
type groupLog interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
	SetAll(...raftlog.Pair) error
	WaitDurable(index uint64) error
	// Bytes is the size of the entries.
	Bytes() int64
}

// snapLog is the log as raft sees it: with the entry that the raft snapshot ends
// with, of which only index and term are left. Raft looks for that one only where
// the log is empty; a follower with a tail to be dropped right behind its snapshot
// would refuse the leader's entries for ever.
type snapLog struct {
	groupLog
	snaps *snapshots
}

// GetLog implements raft.LogStore.
func (l snapLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.groupLog.GetLog(index, entry)
	if err != raft.ErrLogNotFound || index < 2 { // the first is a configuration, which raft reads
		return err
	}
	if m := l.snaps.newest(); m != nil && m.Index == index {
		*entry = raft.Log{Index: index, Term: m.Term, Type: raft.LogNoop}
		return nil
	}
	return err
}

// groupNet is what a replica needs of its links; *raftnet.Group.
type groupNet interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
	Configure(voters []backend.ServerID)
	OnPatience(func(time.Duration))
	Lead(term uint64)
	Follow()
	LeaseUntil() time.Time
	AwaitLease(ctx context.Context) error
	Release(ctx context.Context)
}

// Replica is this server's member of a copyset.
type Replica struct {
	opts  Options
	store *chunkstore.Store
	log   groupLog
	net   groupNet
	slog  *slog.Logger
	raft  atomic.Pointer[raft.Raft]

	// agreed is the configuration as of what is applied: committed, and durable here.
	agreed atomic.Pointer[raft.Configuration]

	fence  *fence
	chunks *chunkSet
	snaps  *snapshots
	prop   proposer
	reads  readers
	mend   mender

	// lead is this replica's leadership while it is ready to serve, else nil.
	lead atomic.Pointer[leadership]
	life leaderLife

	// applyMu is held while entries are applied, and by whoever needs them not to
	// be: repairs.
	applyMu sync.Mutex
	// applied is the last entry whose changes are all in the store; applying the
	// last one of which some may be. ceiling is like applying, for what was copied
	// from replicas that were ahead.
	applied, applying, ceiling atomic.Uint64
	appliedNews                news
	// redo is odd while changes are made again out of their turn: reads then, or
	// across a change of it, are repeated.
	redo atomic.Uint64
	full atomic.Bool
	// installing: a raft snapshot's chunks are being pulled. pulled counts the
	// blocks that travelled in all such pulls.
	installing atomic.Bool
	pulled     atomic.Int64
	trouble    atomic.Pointer[string]

	failOnce  sync.Once
	failed    atomic.Pointer[error]
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	// ctx ends with the replica; tasks are all goroutines it owns. taskMu orders
	// their start with its end.
	ctx    context.Context
	stop   context.CancelFunc
	taskMu sync.Mutex
	tasks  sync.WaitGroup
}

// Open starts the replica: it loads the last raft snapshot's state, replays the
// log and joins the group.
func Open(o Options) (*Replica, error) {
	if o.Log == nil || o.Net == nil {
		return nil, fmt.Errorf("%w: a replica needs a log and a net", backend.ErrInvalid)
	}
	return open(o, o.Log, o.Net)
}

func (o *Options) setDefaults() error {
	if o.ID == 0 || o.Self == 0 || o.Store == nil || o.FS == nil || o.Dir == "" || o.Peers == nil {
		return fmt.Errorf("%w: a replica needs ID, Self, Store, FS, Dir and Peers", backend.ErrInvalid)
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 500 * time.Millisecond
	}
	if o.InFlight == 0 {
		o.InFlight = 4
	}
	if o.InFlight < 1 || o.InFlight > maxInFlight {
		return fmt.Errorf("%w: %d entries in flight: use 1 to %d", backend.ErrInvalid, o.InFlight, maxInFlight)
	}
	if o.TrailingBytes == nil {
		o.TrailingBytes = func() int64 { return 16 << 20 }
	}
	if o.LeaderChanged == nil {
		o.LeaderChanged = func(backend.CopysetID, backend.ServerID, uint64) {}
	}
	if o.Failed == nil {
		o.Failed = func(backend.CopysetID, error) {}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("copyset", uint32(o.ID))
	return nil
}

func open(o Options, log groupLog, net groupNet) (*Replica, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &Replica{
		opts: o, store: o.Store, log: log, net: net, slog: o.Logger,
		fence: newFence(), chunks: newChunkSet(), closing: make(chan struct{}),
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.prop.init(rand.Uint64(), o.InFlight, r.propose)
	r.reads.init()
	r.mend.init()
	r.life.init()
	if err := r.restoreLocal(); err != nil {
		return nil, fmt.Errorf("open %v: %w", o.ID, err)
	}
	r.log = snapLog{groupLog: log, snaps: r.snaps}
	if err := r.startRaft(); err != nil {
		return nil, fmt.Errorf("open %v: %w", o.ID, err)
	}
	r.tasks.Go(r.runLife)
	r.tasks.Go(r.runReads)
	r.tasks.Go(r.runMender)
	return r, nil
}

// restoreLocal loads the newest raft snapshot and makes the log agree with it.
func (r *Replica) restoreLocal() error {
	var st *state
	var err error
	if r.snaps, st, err = openSnapshots(r.opts.FS, r.opts.Dir, r.opts.ID, r.slog); err != nil {
		return err
	}
	if err := r.loadMendMarks(); err != nil {
		return err
	}
	first, err := r.log.FirstIndex()
	if err != nil {
		return err
	}
	if err := r.checkWhole(first); err != nil {
		return err
	}
	if st == nil {
		return nil
	}
	r.agreeToSnapshot()
	r.fence, r.chunks = st.fence, st.chunks
	r.applied.Store(st.applied)
	r.applying.Store(st.applied)
	r.ceiling.Store(st.ceiling)
	return r.alignLog(first)
}

// checkWhole finds out whether an unreadable raft snapshot is missed. It is not when
// it was being written as the power went: then the one before is there, or the log
// begins with the first entry, or it was to end an installation, which is sent again.
func (r *Replica) checkWhole(first uint64) error {
	from := uint64(0)
	if m := r.snaps.newest(); m != nil {
		from = m.Index
	}
	if first > from+1 {
		return fmt.Errorf("%w: the log begins at entry %d, the newest readable raft snapshot is of entry %d: what lies between is lost here (%v)",
			backend.ErrChecksum, first, from, r.snaps.unreadable)
	}
	if r.snaps.unreadable != nil && from == 0 && first == 0 && !r.snaps.leftover {
		return fmt.Errorf("the only raft snapshot: %w", r.snaps.unreadable)
	}
	return nil
}

// alignLog drops a log that the raft snapshot has left behind: its entries were
// to be removed when the snapshot was installed, and a crash came first. The log
// would go on after a gap.
func (r *Replica) alignLog(first uint64) error {
	meta := r.snaps.newest()
	last, err := r.log.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	stale := last < meta.Index
	if !stale && first <= meta.Index {
		var entry raft.Log
		if err := r.log.GetLog(meta.Index, &entry); err != nil {
			return err
		}
		stale = entry.Term != meta.Term
	}
	if !stale {
		return nil
	}
	r.slog.Info("dropping the log that the raft snapshot has left behind", "first", first, "last", last, "snapshot", meta.Index)
	return r.log.DeleteRange(first, last)
}

// Submit serves op if this replica leads: op completes at op.Done with its
// outcome, or with ErrNotLeader (*backend.NotLeaderError with a hint),
// ErrOutcomeUnknown, ErrOverload, ErrNoSpace. Never blocks. A change's Data is
// not referenced any more when Submit returns.
func (r *Replica) Submit(op *backend.Op) {
	l := r.lead.Load()
	if l == nil {
		finish(op, r.notLeader())
		return
	}
	if err := op.Check(); err != nil {
		finish(op, err)
		return
	}
	switch {
	case op.Kind == backend.OpRead:
		r.submitRead(op)
	case op.Kind == backend.OpFlush || op.Len == 0:
		r.submitBarrier(op)
	default:
		r.submitChange(op)
	}
}

func finish(op *backend.Op, err error) {
	op.Err = err
	if op.Done != nil {
		op.Done.OpDone(op)
	}
}

func (r *Replica) notLeader() error {
	leader, term := r.life.known()
	if leader == r.opts.Self {
		leader = 0 // on the way there or from there, not ready to serve
	}
	return &backend.NotLeaderError{Copyset: r.opts.ID, Leader: leader, Term: term}
}

func (r *Replica) staleEpoch(volume backend.VolumeID, epoch backend.Epoch) error {
	return fmt.Errorf("%w: %v is at epoch %d, the operation at %d", backend.ErrStaleEpoch, volume, r.fence.epochOf(volume), epoch)
}

// fail stops the replica for good: nothing is applied or acknowledged any more
// until it is opened again. Its log goes on voting and storing, so that the group
// keeps its majority.
func (r *Replica) fail(err error) {
	r.failOnce.Do(func() {
		r.failed.Store(&err)
		r.slog.Error("replica failed: nothing is applied until a restart", "err", err)
		r.spawn(func() {
			r.opts.Failed(r.opts.ID, err)
			r.resign()
		})
	})
}

// spawn starts a goroutine of the replica; false when it is closing.
func (r *Replica) spawn(task func()) bool {
	r.taskMu.Lock()
	defer r.taskMu.Unlock()
	select {
	case <-r.closing:
		return false
	default:
	}
	r.tasks.Go(task)
	return true
}

func (r *Replica) failure() error {
	if p := r.failed.Load(); p != nil {
		return fmt.Errorf("%v has failed: %w", r.opts.ID, *p)
	}
	return nil
}

// Applied is the last entry whose changes are all in the chunks.
func (r *Replica) Applied() uint64 { return r.applied.Load() }

// Pulled counts the blocks that were copied from other replicas to catch up.
func (r *Replica) Pulled() int64 { return r.pulled.Load() }

// Trouble says in words what holds this replica up, "" for nothing.
func (r *Replica) Trouble() string {
	if err := r.failure(); err != nil {
		return err.Error()
	}
	if p := r.trouble.Load(); p != nil {
		return *p
	}
	return ""
}

func (r *Replica) setTrouble(what string) {
	if what == "" {
		if r.trouble.Swap(nil) != nil {
			r.slog.Info("trouble is over")
		}
		return
	}
	if p := r.trouble.Swap(&what); p == nil || *p != what {
		r.slog.Warn("in trouble", "what", what)
	}
}

// Full tells the replica that its disk is (or is no longer) too full for changes:
// as a leader it then answers them with ErrNoSpace. What frees space passes.
func (r *Replica) Full(full bool) { r.full.Store(full) }

// ChunkIDs lists the chunks that the copyset holds here.
func (r *Replica) ChunkIDs() []backend.ChunkID { return r.chunks.ids() }

// Status is what the chunkserver reports.
func (r *Replica) Status() backend.ReplicaStatus {
	s := backend.ReplicaStatus{Copyset: r.opts.ID, State: backend.ReplicaOK, Applied: r.applied.Load()}
	s.Leader, s.Term = r.life.known()
	if r.installing.Load() || r.unfinished() || r.failed.Load() != nil {
		s.State = backend.ReplicaCatchingUp
	}
	rf := r.raft.Load()
	s.Committed = rf.CommitIndex()
	// Not raft's own answer, which may be of an entry that is lost again: the MDS has
	// a member that the configuration has lost forget what it promised.
	if conf := r.agreed.Load(); conf != nil {
		s.Voters, s.Learners = membersOf(*conf)
	}
	return s
}

// agreeToSnapshot takes the configuration over from the newest raft snapshot.
func (r *Replica) agreeToSnapshot() {
	if m := r.snaps.newest(); m != nil {
		conf := m.Configuration.Clone()
		r.agreed.Store(&conf)
	}
}

// unfinished says that an installation was cut short and has not been made up for:
// by another one, or by the log.
func (r *Replica) unfinished() bool {
	index, pending := r.snaps.pending()
	if !pending {
		return false
	}
	rf := r.raft.Load()
	leader, _ := r.life.known()
	commit, applied := rf.CommitIndex(), rf.AppliedIndex()
	if leader == 0 || commit == 0 || applied < commit || applied < index {
		return true
	}
	if err := r.snaps.caughtUp(applied); err != nil {
		r.slog.Warn("removing the mark of an unfinished installation", "err", err)
	}
	return false
}

// Close stops the replica. Operations in flight complete with ErrOutcomeUnknown.
func (r *Replica) Close() error {
	r.closeOnce.Do(func() {
		r.taskMu.Lock()
		close(r.closing)
		r.taskMu.Unlock()
		r.stop()
		r.lead.Store(nil)
		r.prop.close(errClosing, r.notLeader())
		stopped := r.raft.Load().Shutdown()
		// raft waits for its replication, which may wait in the net for a peer that is
		// dead.
		netErr := r.net.Close()
		r.closeErr = errors.Join(stopped.Error(), netErr)
		r.tasks.Wait()
		r.reads.close()
	})
	return r.closeErr
}

var errClosing = fmt.Errorf("%w: the replica is closing", backend.ErrOutcomeUnknown)
