package chunkstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/opencurve/curve-nbd/backend"
)

// Inventory is what a store that was closed in order hands to the one that opens the
// directory next, in the same breath: which chunks have a file, and that all of it is
// durable.
type Inventory struct{ ids []backend.ChunkID }

// MaxInventory is the longest encoded Inventory, in bytes: 8 million chunks, 128 TiB.
const MaxInventory = 64 << 20

// Inventory returns that of a store that was closed, nil if that failed, or if it were
// longer than MaxInventory.
func (s *Store) Inventory() *Inventory {
	if !s.orderly || 8*s.counters.chunks.Load() > MaxInventory {
		return nil
	}
	for i := range s.dirFailed {
		if s.dirFailed[i].Load() != nil {
			return nil
		}
	}
	return &Inventory{ids: s.index.ids()}
}

// inherit takes an inventory for the truth.
func (s *Store) inherit(inv *Inventory) {
	for _, id := range inv.ids {
		if s.index.setFile(id, true) {
			s.counters.chunks.Add(1)
		}
	}
}

// Encode appends the chunks' ids, 8 bytes each in network order, and a CRC32C of them.
func (inv *Inventory) Encode(to []byte) []byte {
	begin := len(to)
	for _, id := range inv.ids {
		to = binary.BigEndian.AppendUint64(to, uint64(id))
	}
	return binary.BigEndian.AppendUint32(to, crc32.Checksum(to[begin:], castagnoli))
}

// DecodeInventory is the reverse of Encode. backend.ErrChecksum for anything else.
func DecodeInventory(b []byte) (*Inventory, error) {
	n := len(b) - crc32.Size
	if n < 0 || n%8 != 0 || crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%w: inventory of %d bytes", backend.ErrChecksum, len(b))
	}
	inv := &Inventory{ids: make([]backend.ChunkID, 0, n/8)}
	for ; n > 0; b, n = b[8:], n-8 {
		inv.ids = append(inv.ids, backend.ChunkID(binary.BigEndian.Uint64(b)))
	}
	return inv, nil
}

// Settle brings what is in memory to disk while the store serves on, so that little is
// left for Close.
func (s *Store) Settle(ctx context.Context) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	defer s.gate.RUnlock()
	return s.eachShard(func(shard int) error {
		var errs []error
		for _, c := range s.index.appendOpen(nil, shard) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.sync.Lock()
			if err := s.clean(c); !errors.Is(err, errChanged) {
				errs = append(errs, err)
			}
			c.sync.Unlock()
		}
		return errors.Join(errs...)
	})
}
