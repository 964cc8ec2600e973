package mds

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// Allocator chooses the copysets of new chunks.
type Allocator interface {
	// Place fills copysets, one for each chunk of a new segment of volume. It is
	// called inside the transaction of the allocation, maybe more than once for
	// one segment: it must not wait.
	Place(tx Txn, volume backend.VolumeID, copysets []backend.CopysetID) error
}

// SingleCopyset is the Allocator of a cluster that has one copyset.
type SingleCopyset backend.CopysetID

// Place implements Allocator.
func (id SingleCopyset) Place(_ Txn, _ backend.VolumeID, copysets []backend.CopysetID) error {
	for i := range copysets {
		copysets[i] = backend.CopysetID(id)
	}
	return nil
}

// Options of an MDS. The zero value is good for one machine.
type Options struct {
	// Allocator is, by default, the copysets of a Cluster, and SingleCopyset(1)
	// without one.
	Allocator Allocator
	// LeaseTTL is how long an owner of a lease may be silent before others may
	// take its volumes; 0 for ever, where a lease's owners are in this process.
	LeaseTTL time.Duration
	// Cluster makes this the metadata of chunkservers, a backend.Topology; nil
	// for one machine.
	Cluster *ClusterOptions
	// StoreID, when not empty, is what this store belongs to. It is written into
	// a new store and compared with an old one, so that the metadata of one
	// cluster is never taken for another's. It is the cluster's id, too; without,
	// the store makes one.
	StoreID string
	// Now is time.Now by default.
	Now func() time.Time
	// Log is slog.Default() by default.
	Log *slog.Logger
}

// MDS is the metadata of one cluster, a backend.Meta and a backend.Topology.
type MDS struct {
	store   Store
	alloc   Allocator
	now     func() time.Time
	log     *slog.Logger
	owners  *owners
	cluster *cluster // nil on one machine
}

var (
	_ backend.Meta     = (*MDS)(nil)
	_ backend.Topology = (*MDS)(nil)
)

// New serves what store holds; an empty store becomes an empty cluster. The MDS
// owns the store from then on, unless New fails.
func New(store Store, opts Options) (*MDS, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.LeaseTTL < 0 {
		return nil, fmt.Errorf("%w: lease time %s: use 0 for leases that do not end", backend.ErrInvalid, opts.LeaseTTL)
	}
	m := &MDS{store: store, alloc: opts.Allocator, now: opts.Now, log: opts.Log, owners: newOwners(opts.LeaseTTL, opts.Now)}
	var layout byte
	err := store.Update(context.Background(), func(tx Txn) (err error) {
		if layout, err = claim(tx, opts.StoreID); err != nil {
			return err
		}
		return nameCluster(tx)
	})
	if err == nil && opts.Cluster != nil {
		m.cluster, err = openCluster(store, *opts.Cluster, opts.Now, opts.Log)
	}
	switch {
	case err != nil:
	case opts.Cluster == nil && layout == layoutCluster:
		err = fmt.Errorf("%w: it belongs to a cluster of chunkservers: serve it with `curve-nbd mds`", backend.ErrInvalid)
	case m.alloc == nil && m.cluster != nil:
		m.alloc = m.cluster
	case m.alloc == nil:
		m.alloc = SingleCopyset(1)
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	return m, nil
}

// claim makes an empty store ours, and refuses one that is not.
func claim(tx Txn, storeID string) (layout byte, err error) {
	format, err := tx.Get([]byte(keyFormat))
	if err != nil {
		return 0, err
	}
	if format == nil {
		if err := tx.Put([]byte(keyFormat), []byte{layoutVersion}); err != nil {
			return 0, err
		}
		return layoutVersion, tx.Put([]byte(keyStoreID), []byte(storeID))
	}
	if len(format) != 1 || format[0] < layoutVersion || format[0] > layoutCluster {
		return 0, fmt.Errorf("%w: metadata layout % x: this program knows %d to %d: use the program that wrote it", backend.ErrNotSupported, format, layoutVersion, layoutCluster)
	}
	found, err := tx.Get([]byte(keyStoreID))
	if err != nil {
		return 0, err
	}
	if storeID != "" && !bytes.Equal(found, []byte(storeID)) {
		return 0, fmt.Errorf("%w: metadata of store %q, expected %q: put the right metadata file back", backend.ErrInvalid, found, storeID)
	}
	return format[0], nil
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
