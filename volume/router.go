package volume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
)

// router takes operations to the leaders of their copysets and, when a leader
// changes, goes on with the next: nobody above sees more than a wait. It is what
// stands between dispatch and backend.Replicas.
//
//	         route known
//	submit ───────────────────────────────► Replicas.Submit ──► OpDone ──► done
//	  │ park                                     ▲                │
//	  ▼                                          │                │ error
//	copyset ◄── LeaderIs, ServerLost      dispatch worker         │
//	  │                                          ▲                │
//	  └─► sweep (the router's goroutine) ────────┴────────────────┘
//	        asks peers, takes operations back, backs off, gives up
//
// The router's goroutine decides and never waits: it calls Ask and Cancel, but
// leaves Submit, which may wait for a server that hangs, to the dispatch workers.
type router struct {
	replicas   backend.Replicas
	meta       backend.Meta
	volume     backend.VolumeID
	session    backend.SessionID
	tryTimeout time.Duration
	deadline   time.Duration
	stats      *Stats
	log        *slog.Logger
	lines      *rate.Limiter
	// again sends an operation once more, from its dispatch worker.
	again func(*piece)

	// copysets is replaced, never changed: readers take no lock.
	copysets atomic.Pointer[copysets]
	mu       sync.Mutex // guards replacing copysets, and below
	// heard are the routes of copysets that the volume has not used yet.
	heard map[backend.CopysetID]routeNews

	// end is what every operation fails with from now on: set once.
	end atomic.Pointer[error]

	wakeup chan struct{}
	// awake says that the router looks around again soon by itself.
	awake    atomic.Bool
	random   *rand.Rand // of the router's goroutine
	orders   orders     // of the router's goroutine
	muted    int        // log lines not written since the last, likewise
	ctx      context.Context
	cancel   context.CancelFunc
	runs     sync.WaitGroup
	fetchers sync.WaitGroup
}

// copysets are those that a volume has used. Immutable.
type copysets struct {
	byID    map[backend.CopysetID]*copyset
	inOrder []*copyset // by id
}

func (s *copysets) with(c *copyset) *copysets {
	grown := &copysets{byID: map[backend.CopysetID]*copyset{c.id: c}, inOrder: append(slices.Clone(s.inOrder), c)}
	maps.Copy(grown.byID, s.byID)
	slices.SortFunc(grown.inOrder, func(a, b *copyset) int { return cmp.Compare(a.id, b.id) })
	return grown
}

// DefaultTryTimeout is how long a leader may take before others are asked.
const DefaultTryTimeout = 300 * time.Millisecond

// Bounds of the log: lines about stalls, per second and at once.
const (
	linesPerSecond = 1
	linesAtOnce    = 8
)

func newRouter(replicas backend.Replicas, meta backend.Meta, lease backend.Lease, o Options, again func(*piece)) (*router, error) {
	if lease.Session == 0 {
		return nil, fmt.Errorf("%w: the lease of volume %q has no session: changes could not be told apart from another opener's",
			backend.ErrInvalid, lease.Volume.Name)
	}
	r := &router{
		replicas:   replicas,
		meta:       meta,
		volume:     lease.Volume.ID,
		session:    lease.Session,
		tryTimeout: o.TryTimeout,
		deadline:   o.Deadline,
		stats:      o.Stats,
		log:        o.Log.With("volume", lease.Volume.Name),
		lines:      rate.NewLimiter(linesPerSecond, linesAtOnce),
		again:      again,
		heard:      make(map[backend.CopysetID]routeNews),
		wakeup:     make(chan struct{}, 1),
	}
	seed := o.jitterSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	r.random = rand.New(rand.NewPCG(seed, uint64(lease.Session)))
	r.copysets.Store(&copysets{})
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

func (r *router) start() {
	r.stats.watch(r)
	r.runs.Go(r.run)
	r.replicas.Watch(r)
}

// stop ends the router, which has no operations left.
func (r *router) stop() {
	r.replicas.Unwatch(r)
	r.cancel()
	r.runs.Wait() // before the fetchers, which it starts
	r.fetchers.Wait()
	r.stats.unwatch(r)
}

// submit takes a new operation to its leader, now or later.
func (r *router) submit(p *piece) {
	t := trips.Get().(*trip)
	c := r.copyset(p.op.Chunk.Copyset)
	t.router, t.copyset, t.piece = r, c, p
	p.trip, p.op.Done = t, t
	send, wake, err := c.admit(t, p.sentAt)
	if err != nil {
		p.op.Err = err
		t.end(time.Now())
		return
	}
	if send {
		r.replicas.Submit(&p.op)
		t.unpin()
	}
	if wake || !r.awake.Load() {
		r.wake()
	}
}

// resubmit sends an operation once more.
func (r *router) resubmit(t *trip) {
	if t.copyset.departAgain(t, time.Now()) {
		r.replicas.Submit(&t.piece.op)
		t.unpin()
		return
	}
	r.wake()
}

// copyset finds the volume's view of a copyset, or begins one.
func (r *router) copyset(id backend.CopysetID) *copyset {
	if c := r.copysets.Load().byID[id]; c != nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.copysets.Load()
	if c := old.byID[id]; c != nil {
		return c
	}
	c := &copyset{router: r, id: id, dirty: true, news: r.heard[id]}
	c.route.illegal = r.illegalMove
	// The peers are learned before they are needed: MDS and leader may be away at
	// the same time.
	c.search.refresh = true
	delete(r.heard, id)
	r.copysets.Store(old.with(c))
	r.wake()
	return c
}

// LeaderIs implements backend.RouteWatcher.
func (r *router) LeaderIs(id backend.CopysetID, leader backend.ServerID, term uint64) {
	r.mu.Lock()
	c := r.copysets.Load().byID[id]
	if c == nil {
		n := r.heard[id]
		n.add(leader, term)
		r.heard[id] = n
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	c.mu.Lock()
	c.news.add(leader, term)
	c.dirty = true
	c.mu.Unlock()
	r.wake()
}

// ServerLost implements backend.RouteWatcher.
func (r *router) ServerLost(server backend.ServerID) {
	for _, c := range r.copysets.Load().inOrder {
		c.lose(server)
	}
	r.wake()
}

// wake has the router look around.
func (r *router) wake() {
	select {
	case r.wakeup <- struct{}{}:
	default:
	}
}

// run sweeps the copysets whenever something happened or is due.
func (r *router) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := false
	for {
		select {
		case <-r.wakeup:
		case <-timer.C:
		case <-r.ctx.Done():
			return
		}
		next := r.sweep(time.Now())
		if err := r.doomed(); err != nil && !said {
			said = true
			r.log.Error("volume gives no more service", "error", err)
		}
		if next.IsZero() {
			timer.Stop()
			continue
		}
		timer.Reset(max(time.Until(next), minNap))
	}
}

// minNap bounds how often the router looks around because of the time.
const minNap = time.Millisecond

// sweep does what is to be done for every copyset, and returns when to look
// again, zero for not before something happens.
func (r *router) sweep(now time.Time) time.Time {
	r.awake.Store(true)
	a := alarm{now: now}
	if busy := r.sweepAll(&a); busy {
		// What is submitted from now on wakes nobody, and wants an eye on it by
		// then.
		a.reached(now.Add(r.tryTimeout))
		return a.next
	}
	r.awake.Store(false)
	// Something may have been submitted just before that.
	for _, c := range r.copysets.Load().inOrder {
		c.mu.Lock()
		busy := c.count > 0
		c.mu.Unlock()
		if busy {
			r.wake()
			break
		}
	}
	return a.next
}

// sweepAll reports whether there are operations.
func (r *router) sweepAll(a *alarm) (busy bool) {
	for _, c := range r.copysets.Load().inOrder {
		c.sweep(a, &r.orders)
		r.carryOut(c, &r.orders)
		c.mu.Lock()
		busy = busy || c.count > 0
		c.mu.Unlock()
	}
	return busy
}

// carryOut does what a sweep decided.
func (r *router) carryOut(c *copyset, o *orders) {
	for _, t := range o.back {
		r.replicas.Cancel(&t.piece.op)
		t.unpin()
	}
	for _, server := range o.asks {
		r.replicas.Ask(server, c.id)
	}
	for _, p := range o.send {
		r.again(p)
	}
	for _, t := range o.failed {
		t.piece.op.Err = t.abandon
		t.end(time.Now())
	}
	if o.fetch {
		r.fetchPeers(c)
	}
	for _, n := range o.notes {
		r.note(c, n)
	}
	o.reset()
}

// persist repeats a question to the backend that has no operation of its own,
// for as long as its errors may pass: until ctx ends, the deadline, or the
// volume's end.
func (r *router) persist(ctx context.Context, ask func() error) error {
	began := time.Now()
	for n := 0; ; n++ {
		if err := r.doomed(); err != nil {
			return err
		}
		err := ask()
		if err == nil || ctx.Err() != nil || retryFor(err).action == retryNever || retryFor(err).action == retryLost {
			return err
		}
		if r.deadline > 0 && time.Since(began) >= r.deadline {
			return fmt.Errorf("gave up after %v: %w", r.deadline, err)
		}
		select {
		case <-time.After(doubled(overloadFirst, n, overloadLast)):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-r.ctx.Done():
			return backend.ErrClosed
		}
	}
}

// jitter is a number in [0, 1).
func (r *router) jitter() float64 { return r.random.Float64() }

// doom makes every operation fail with err from now on.
func (r *router) doom(err error) {
	if r.end.CompareAndSwap(nil, &err) {
		r.wake()
	}
}

// doomed returns the error that every operation fails with, or nil.
func (r *router) doomed() error {
	if err := r.end.Load(); err != nil {
		return *err
	}
	return nil
}

// illegalMove is told of a bug. The volume goes on: serving beats stopping.
func (r *router) illegalMove(from, to routeState) {
	r.stats.illegalMoves.Inc()
	if illegalMovePanics {
		panic(fmt.Sprintf("route went from %v to %v", from, to))
	}
	r.log.Error("bug: a route changed in a way that is not allowed", "from", from, "to", to)
}

// illegalMovePanics is set by tests.
var illegalMovePanics = false
