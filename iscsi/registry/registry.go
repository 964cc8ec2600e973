package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// DefaultPoll is how often a Registry looks for what others have changed.
const DefaultPoll = 2 * time.Second

// Meta is what a Registry needs of backend.Meta.
type Meta interface {
	Volume(ctx context.Context, name string) (backend.VolumeInfo, error)
	Record(ctx context.Context, key string) (backend.Record, error)
	RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error)
	PutRecord(ctx context.Context, key string, data []byte, version uint64) (uint64, error)
	DeleteRecord(ctx context.Context, key string, version uint64) error
}

// Options of a Registry. The zero value is good.
type Options struct {
	// Poll is DefaultPoll by default.
	Poll time.Duration
	// Logger is slog.Default() by default.
	Logger *slog.Logger
}

// Login is what a discovery session proves, and is proved to.
type Login struct {
	// Users may discover; without any, no proof is asked for.
	Users []Credential
	// Mutual is what the target proves itself with; nil if it cannot.
	Mutual *Credential
}

// Registry is the targets of a cluster.
type Registry struct {
	meta Meta
	log  *slog.Logger
	poll time.Duration

	picture  atomic.Pointer[picture]
	sessions atomic.Pointer[Sessions]

	// turn holds a token while somebody refreshes: the later of two listings is
	// the one that stays.
	turn    chan struct{}
	trouble bool   // guarded by turn: the last refresh failed
	mark    uint64 // guarded by turn: up to which changes the picture is

	mu       sync.Mutex
	watchers map[int]func(names []string) // guarded by mu
	watcher  int                          // guarded by mu: the last one's number

	stop    context.CancelFunc
	polling sync.WaitGroup
}

// picture is all that is stored, at some moment. Never changed.
type picture struct {
	targets map[string]*Target // by name
	sorted  []*Target
	login   Login
	// versions of all records by key, of those too that cannot be read.
	versions map[string]uint64
}

// New returns a Registry that knows no targets before its first Refresh, the first
// of which begins at once. Close it before the metadata.
func New(meta Meta, o Options) *Registry {
	r := &Registry{
		meta: meta, poll: cmp.Or(o.Poll, DefaultPoll), log: cmp.Or(o.Logger, slog.Default()),
		turn: make(chan struct{}, 1), watchers: make(map[int]func([]string)),
	}
	r.picture.Store(&picture{})
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.polling.Go(func() { r.pollUntil(ctx) })
	return r
}

// Close ends the polling; what is known stays readable.
func (r *Registry) Close() error {
	r.stop()
	r.polling.Wait()
	return nil
}

func (r *Registry) pollUntil(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			_ = r.Refresh(ctx) // it has said so itself
			timer.Reset(r.poll)
		}
	}
}

// Target returns a target by its name in the form of iscsi.ParseName. It does no
// IO.
func (r *Registry) Target(name string) (*Target, bool) {
	t, ok := r.picture.Load().targets[name]
	return t, ok
}

// Targets returns all targets by name. It does no IO. The slice is the caller's.
func (r *Registry) Targets() []*Target { return slices.Clone(r.picture.Load().sorted) }

// DiscoveryLogin is what a discovery session has to prove. It does no IO.
func (r *Registry) DiscoveryLogin() Login { return r.picture.Load().login }

// OnChange has fn called with the names of targets that were made, changed or
// removed, here or at another gateway, once Target and Targets show it. fn is
// called by whoever refreshes, one call at a time: it must return soon, and neither
// change anything in the Registry nor cancel. After cancel returned it is not called
// any more.
func (r *Registry) OnChange(fn func(names []string)) (cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watcher++
	number := r.watcher
	r.watchers[number] = fn
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, number)
	}
}

// Refresh looks at what is stored now. On an error all stays as it was known. A
// record that cannot be read is no error: its target is not there, and the log
// says why.
func (r *Registry) Refresh(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.turn }()
	records, mark, err := r.list(ctx)
	if err != nil {
		if !r.trouble && !errors.Is(err, context.Canceled) {
			r.trouble = true
			r.log.Log(ctx, r.weight(slog.LevelWarn), "iSCSI targets cannot be read from the metadata: they stay as they were", "error", err)
		}
		return fmt.Errorf("iSCSI targets: %w", err)
	}
	if r.trouble {
		r.trouble = false
		r.log.Log(ctx, r.weight(slog.LevelInfo), "iSCSI targets can be read from the metadata again")
	}
	if mark == r.mark && mark != 0 {
		return nil
	}
	r.mark = mark
	old := r.picture.Load()
	now := r.paint(old, records)
	r.picture.Store(now)
	if changed := changes(old, now); len(changed) > 0 {
		r.tell(changed)
	}
	return nil
}

// list returns all records and their mark, or no records with the mark that the picture
// has. With turn held.
func (r *Registry) list(ctx context.Context) ([]backend.Record, uint64, error) {
	records, mark, err := r.meta.RecordChanges(ctx, keyPrefix, r.mark)
	if err == nil && mark != r.mark && r.mark != 0 {
		// All of them, as what was deleted is among no changes.
		records, mark, err = r.meta.RecordChanges(ctx, keyPrefix, 0)
	}
	return records, mark, err
}

// weight makes less of what is said where there are no targets, as far as is known.
func (r *Registry) weight(level slog.Level) slog.Level {
	if p := r.picture.Load(); p.versions != nil && len(p.versions) == 0 {
		return slog.LevelDebug
	}
	return level
}

// paint makes a picture of records, from an older one where a record is the same.
func (r *Registry) paint(old *picture, records []backend.Record) *picture {
	now := &picture{targets: make(map[string]*Target, len(records)), versions: make(map[string]uint64, len(records))}
	for _, record := range records {
		name, isTarget := strings.CutPrefix(record.Key, targetPrefix)
		if !isTarget && record.Key != discoveryKey {
			continue // another record of this front end
		}
		now.versions[record.Key] = record.Version
		same := old.versions[record.Key] == record.Version
		switch {
		case same && isTarget:
			if t := old.targets[name]; t != nil {
				now.targets[name] = t
			}
			continue
		case same:
			now.login = old.login
			continue
		}
		var err error
		if isTarget {
			var t *Target
			if t, err = decodeTarget(record.Key, record.Data); err == nil {
				now.targets[name] = t
			}
		} else if now.login, err = decodeDiscovery(record.Data); err != nil {
			now.login = nobody
		}
		if err != nil {
			r.log.Error("an iSCSI record is not served", "error", err)
		}
	}
	now.sorted = slices.SortedFunc(maps.Values(now.targets), func(a, b *Target) int { return cmp.Compare(a.Name, b.Name) })
	return now
}

// nobody lets no one discover: a user without a secret proves nothing.
var nobody = Login{Users: []Credential{{}}}

// changes names the targets that differ.
func changes(old, now *picture) (names []string) {
	for name, t := range now.targets {
		if old.targets[name] != t {
			names = append(names, name)
		}
	}
	for name := range old.targets {
		if now.targets[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (r *Registry) tell(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(r.watchers)) {
		r.watchers[n](slices.Clone(names))
	}
}

// lookAgain bounds how long a change that was made waits to be seen.
const lookAgain = 2 * time.Second

// changed takes a change that was just made into the picture. It has been made
// whatever becomes of this: the next poll finds it.
func (r *Registry) changed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookAgain)
	defer cancel()
	if err := r.Refresh(ctx); err != nil {
		r.log.Debug("look at a change that was just made", "error", err)
	}
}
