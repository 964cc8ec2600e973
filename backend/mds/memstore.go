package mds

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/opencurve/curve-nbd/backend"
)

// memStore keeps everything in RAM, in a treap whose nodes never change: a
// snapshot is a pointer to the root, a transaction is rolled back by forgetting
// its root, and a View waits for nobody.
type memStore struct {
	root   atomic.Pointer[node]
	closed atomic.Bool
	update sync.Mutex // held by the one Update that runs
}

// NewMemStore returns an empty Store that lives as long as the process.
func NewMemStore() Store { return &memStore{} }

func (s *memStore) View(ctx context.Context, fn func(Txn) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return fn(&memTxn{root: s.root.Load()})
}

func (s *memStore) Update(ctx context.Context, fn func(Txn) error) error {
	s.update.Lock()
	defer s.update.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	tx := &memTxn{root: s.root.Load(), writable: true}
	if err := fn(tx); err != nil {
		return err
	}
	s.root.Store(tx.root)
	return nil
}

func (s *memStore) Close() error {
	s.update.Lock()
	defer s.update.Unlock()
	s.closed.Store(true)
	s.root.Store(nil)
	return nil
}

func (s *memStore) ready(ctx context.Context) error {
	if s.closed.Load() {
		return fmt.Errorf("metadata store: %w", backend.ErrClosed)
	}
	return ctx.Err()
}

type memTxn struct {
	root     *node
	writable bool
}

func (tx *memTxn) Get(key []byte) ([]byte, error) {
	for n := tx.root; n != nil; {
		switch c := bytes.Compare(key, n.key); {
		case c == 0:
			return n.value, nil
		case c < 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil, nil
}

func (tx *memTxn) Put(key, value []byte) error {
	if err := checkPut(tx.writable, key, value); err != nil {
		return err
	}
	// Copies: nodes outlive the transaction, the caller's slices may not.
	fresh := &node{key: bytes.Clone(key), value: append([]byte{}, value...), priority: rand.Uint64()}
	low, high := tx.root.split(key)
	_, high = high.splitAfter(key)
	tx.root = merge(merge(low, fresh), high)
	return nil
}

func (tx *memTxn) Delete(key []byte) error {
	if !tx.writable {
		return errViewChanges
	}
	if old, _ := tx.Get(key); old == nil {
		return nil
	}
	low, high := tx.root.split(key)
	_, high = high.splitAfter(key)
	tx.root = merge(low, high)
	return nil
}

func (tx *memTxn) Scan(prefix, from []byte, fn func(key, value []byte) (bool, error)) error {
	start := prefix
	if bytes.Compare(from, prefix) > 0 {
		start = from
	}
	_, err := tx.root.scan(start, prefix, fn)
	return err
}

// errViewChanges is the answer to a change in a View.
var errViewChanges = fmt.Errorf("%w transaction: use Update to change metadata", backend.ErrReadOnly)

// checkPut is what every Txn checks before a Put.
func checkPut(writable bool, key, value []byte) error {
	switch {
	case !writable:
		return errViewChanges
	case len(key) == 0 || len(key) > MaxKeySize:
		return fmt.Errorf("%w: metadata key of %d bytes: use 1 to %d", backend.ErrInvalid, len(key), MaxKeySize)
	case len(value) > MaxValueSize:
		return fmt.Errorf("%w: metadata value of %d bytes: at most %d", backend.ErrInvalid, len(value), MaxValueSize)
	}
	return nil
}

// node is one pair in a treap: a search tree by key and a heap by priority,
// which random priorities keep shallow.
type node struct {
	key, value  []byte
	priority    uint64
	left, right *node
}

// split returns the nodes below key, and those from it on.
func (n *node) split(key []byte) (low, high *node) {
	if n == nil {
		return nil, nil
	}
	c := *n
	if bytes.Compare(n.key, key) < 0 {
		c.right, high = n.right.split(key)
		return &c, high
	}
	low, c.left = n.left.split(key)
	return low, &c
}

// splitAfter returns the nodes up to and with key, and those above it.
func (n *node) splitAfter(key []byte) (low, high *node) {
	return n.split(append(bytes.Clone(key), 0)) // key+"\0" is the next key there can be
}

// merge joins two treaps; every key of low is below every key of high.
func merge(low, high *node) *node {
	switch {
	case low == nil:
		return high
	case high == nil:
		return low
	case low.priority > high.priority:
		c := *low
		c.right = merge(low.right, high)
		return &c
	}
	c := *high
	c.left = merge(low, high.left)
	return &c
}

func (n *node) scan(start, prefix []byte, fn func(key, value []byte) (bool, error)) (more bool, err error) {
	if n == nil {
		return true, nil
	}
	if bytes.Compare(n.key, start) >= 0 {
		if more, err = n.left.scan(start, prefix, fn); !more || err != nil {
			return false, err
		}
		if !bytes.HasPrefix(n.key, prefix) {
			return false, nil // keys only grow from here
		}
		if more, err = fn(n.key, n.value); !more || err != nil {
			return false, err
		}
	}
	return n.right.scan(start, prefix, fn)
}
