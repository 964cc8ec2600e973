package mds

import "context"

// Limits of what a Store must take, in bytes. What is stored stays below them:
// the largest is a front end's record of backend.MaxRecordData.
const (
	MaxKeySize   = 512
	MaxValueSize = 257 << 10
)

// Store is an ordered key-value store with transactions. All methods may be
// called concurrently.
type Store interface {
	// View runs fn on a consistent snapshot. It waits for no Update.
	View(ctx context.Context, fn func(Txn) error) error

	// Update runs fn and makes its changes durable, all or none, before it
	// returns nil. Updates are serializable. Where fn fails nothing is changed
	// and its error is returned as it is. fn may be run more than once and must
	// have no effect but on the Txn and on variables it sets anew.
	//
	// An Update that failed otherwise may have happened: backend.ErrIO,
	// backend.ErrNoSpace (then it did not), backend.ErrReadOnly.
	Update(ctx context.Context, fn func(Txn) error) error

	// Close waits for what runs. Later calls fail with backend.ErrClosed.
	Close() error
}

// Counting is a Store that knows how often it was changed, ever.
type Counting interface {
	// Changes is larger after an Update that changed anything, by whichever process.
	Changes() (uint64, error)
}

// Txn is the inside of a transaction, valid until its function returns, and for
// one goroutine. Slices it hands out must not be changed or kept; slices given
// to it must not be changed until the transaction has ended.
type Txn interface {
	// Get returns nil for a key that is not there. A value is never nil.
	Get(key []byte) ([]byte, error)
	// Put and Delete fail with backend.ErrReadOnly in a View. Deleting what is
	// not there is no error.
	Put(key, value []byte) error
	Delete(key []byte) error
	// Scan calls fn for the keys that start with prefix and are not below from
	// (nil for the first), in ascending order, until fn says stop. fn must not
	// change the transaction.
	Scan(prefix, from []byte, fn func(key, value []byte) (more bool, err error)) error
}
