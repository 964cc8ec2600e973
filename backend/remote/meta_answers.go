package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// newRequestID returns 16 random bytes.
func newRequestID() []byte {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return id
}

// answers remembers what the MDS said. One that is fresh is given from memory; an
// old one is asked for again, by one call for all who want it, and serves for as
// long as the MDS cannot be reached.
type answers[K comparable, V any] struct {
	life  context.Context
	fresh time.Duration
	ask   func(context.Context, K) (V, error)

	asking sync.WaitGroup
	mu     sync.Mutex
	ended  bool               // guarded by mu: no new asking
	known  map[K]answer[V]    // guarded by mu; only what the MDS knows, so bounded
	flying map[K]*question[V] // guarded by mu
}

type answer[V any] struct {
	value V
	at    time.Time
}

// question is a call under way.
type question[V any] struct {
	done  chan struct{}
	value V     // valid once done is closed
	err   error // valid once done is closed
}

func newAnswers[K comparable, V any](life context.Context, fresh time.Duration, ask func(context.Context, K) (V, error)) *answers[K, V] {
	return &answers[K, V]{life: life, fresh: fresh, ask: ask, known: map[K]answer[V]{}, flying: map[K]*question[V]{}}
}

// wait ends with the last call under way; life is done.
func (a *answers[K, V]) wait() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.asking.Wait()
}

// get returns an answer that is not older than maxAge, or, where the MDS is not to
// be reached, the last one.
func (a *answers[K, V]) get(ctx context.Context, key K, maxAge time.Duration) (V, error) {
	a.mu.Lock()
	old, have := a.known[key]
	if a.ended || a.life.Err() != nil {
		a.mu.Unlock()
		var none V
		return none, errMetaClosed
	}
	if have && time.Since(old.at) < maxAge {
		a.mu.Unlock()
		return old.value, nil
	}
	q := a.flying[key]
	if q == nil {
		q = &question[V]{done: make(chan struct{})}
		a.flying[key] = q
		a.asking.Go(func() { a.fly(key, q) })
	}
	a.mu.Unlock()

	patience := (<-chan time.Time)(nil)
	if have {
		timer := time.NewTimer(staleWait)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-q.done:
		if have && errors.Is(q.err, backend.ErrUnreachable) {
			return old.value, nil
		}
		return q.value, q.err
	case <-patience:
		return old.value, nil
	case <-ctx.Done():
		if have {
			return old.value, nil
		}
		var none V
		if errors.Is(ctx.Err(), context.Canceled) {
			return none, fmt.Errorf("call to the MDS: %w", ctx.Err())
		}
		return none, fmt.Errorf("%w: no MDS answered in time: %w", backend.ErrUnreachable, ctx.Err())
	}
}

// fly asks and remembers.
func (a *answers[K, V]) fly(key K, q *question[V]) {
	q.value, q.err = a.ask(a.life, key)
	a.mu.Lock()
	switch {
	case q.err == nil:
		a.known[key] = answer[V]{value: q.value, at: time.Now()}
	case errors.Is(q.err, backend.ErrNotFound):
		delete(a.known, key)
	}
	delete(a.flying, key)
	a.mu.Unlock()
	close(q.done)
}
