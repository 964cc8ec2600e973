package mds

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Allocator chooses the copysets of new chunks.
type Allocator interface {
	// Place fills copysets, one for each chunk of a new segment of volume. It is
	// called inside a transaction, maybe more than once for one segment: it must
	// not wait.
	Place(volume backend.VolumeID, copysets []backend.CopysetID) error
}

// SingleCopyset is the Allocator of a cluster that has one copyset.
type SingleCopyset backend.CopysetID

// Place implements Allocator.
func (id SingleCopyset) Place(_ backend.VolumeID, copysets []backend.CopysetID) error {
	for i := range copysets {
		copysets[i] = backend.CopysetID(id)
	}
	return nil
}

// Options of an MDS. The zero value is good for one machine.
type Options struct {
	// Allocator is SingleCopyset(1) by default.
	Allocator Allocator
	// StoreID, when not empty, is what this store belongs to. It is written into
	// a new store and compared with an old one, so that the metadata of one
	// cluster is never taken for another's.
	StoreID string
	// Now is time.Now by default.
	Now func() time.Time
}

// MDS is the metadata of one cluster, a backend.Meta.
type MDS struct {
	store Store
	alloc Allocator
	now   func() time.Time
}

var _ backend.Meta = (*MDS)(nil)

// New serves what store holds; an empty store becomes an empty cluster. The MDS
// owns the store from then on, unless New fails.
func New(store Store, opts Options) (*MDS, error) {
	if opts.Allocator == nil {
		opts.Allocator = SingleCopyset(1)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	m := &MDS{store: store, alloc: opts.Allocator, now: opts.Now}
	if err := store.Update(context.Background(), func(tx Txn) error { return claim(tx, opts.StoreID) }); err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	return m, nil
}

// claim makes an empty store ours, and refuses one that is not.
func claim(tx Txn, storeID string) error {
	format, err := tx.Get([]byte(keyFormat))
	if err != nil {
		return err
	}
	if format == nil {
		if err := tx.Put([]byte(keyFormat), []byte{layoutVersion}); err != nil {
			return err
		}
		return tx.Put([]byte(keyStoreID), []byte(storeID))
	}
	if len(format) != 1 || format[0] != layoutVersion {
		return fmt.Errorf("%w: metadata layout % x: this program knows %d: use the program that wrote it", backend.ErrNotSupported, format, layoutVersion)
	}
	found, err := tx.Get([]byte(keyStoreID))
	if err != nil {
		return err
	}
	if storeID != "" && !bytes.Equal(found, []byte(storeID)) {
		return fmt.Errorf("%w: metadata of store %q, expected %q: put the right metadata file back", backend.ErrInvalid, found, storeID)
	}
	return nil
}

// Close implements backend.Meta.
func (m *MDS) Close() error { return m.store.Close() }

// getCounter returns the last id that a counter gave out, 0 before the first.
func getCounter(tx Txn, counter string) (uint64, error) {
	b, err := tx.Get([]byte(counter))
	switch {
	case err != nil:
		return 0, err
	case b == nil:
		return 0, nil
	case len(b) != 8:
		return 0, fmt.Errorf("%w: counter %q of %d bytes: want 8", errDamaged, counter, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func putCounter(tx Txn, counter string, last uint64) error {
	return tx.Put([]byte(counter), binary.BigEndian.AppendUint64(nil, last))
}

// takeIDs gives out n ids that were never given out before, and returns the
// first. It is part of the transaction that uses them.
func takeIDs(tx Txn, counter string, n uint64) (first uint64, err error) {
	last, err := getCounter(tx, counter)
	if err != nil {
		return 0, err
	}
	if last > math.MaxInt64-n {
		return 0, fmt.Errorf("%w: counter %q is used up", backend.ErrNoSpace, counter)
	}
	return last + 1, putCounter(tx, counter, last+n)
}
