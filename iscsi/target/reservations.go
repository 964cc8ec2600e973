package target

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// reservations returns the store of a unit's persistent reservations: a record of the
// metadata, so that every gateway that serves the volume has the same. A unit that
// only reads has none that would mean anything to others.
func (s *Server) reservations(key unitKey) scsi.ReservationStore {
	if s.opts.Records == nil || key.readOnly {
		return scsi.NewMemoryStore()
	}
	return &recordStore{records: s.opts.Records, key: fmt.Sprintf("iscsi-pr/%d", key.volume)}
}

// recordStore is a scsi.ReservationStore.
type recordStore struct {
	records Records
	key     string
}

// Load implements scsi.ReservationStore.
func (s *recordStore) Load(ctx context.Context) ([]byte, uint64, error) {
	r, err := s.records.Record(ctx, s.key)
	if errors.Is(err, backend.ErrNotFound) {
		return nil, 0, nil
	}
	return r.Data, r.Version, err
}

// Swap implements scsi.ReservationStore.
func (s *recordStore) Swap(ctx context.Context, version uint64, state []byte) (uint64, error) {
	version, err := s.records.PutRecord(ctx, s.key, state, version)
	if errors.Is(err, backend.ErrConflict) {
		err = scsi.ErrReservationsChanged
	}
	return version, err
}

// Durable implements scsi.ReservationStore.
func (s *recordStore) Durable() bool { return true }
