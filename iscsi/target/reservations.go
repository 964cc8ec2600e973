package target

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/iscsi/scsi"
)

// reservations returns the store of a unit's persistent reservations: a record of the
// metadata, so that every gateway that serves the volume has the same.
func (s *Server) reservations(key unitKey) scsi.ReservationStore {
	if !s.keepsReservations(key) {
		return scsi.NewMemoryStore()
	}
	return &recordStore{records: s.opts.Records, key: fmt.Sprint(reservationPrefix, uint64(key.volume))}
}

// keepsReservations says whether a unit's reservations are in a record. One that only
// reads has none that would mean anything to others.
func (s *Server) keepsReservations(key unitKey) bool { return s.opts.Records != nil && !key.readOnly }

// Records about reservations have these before the volume's number: the reservations
// themselves, and what is enforced of them (enforce.go).
const (
	recordPrefix      = "iscsi-pr"
	reservationPrefix = recordPrefix + "/"
	enforcedPrefix    = recordPrefix + "-enforced/"
)

// volumeOfRecord is the volume that a record about reservations is of.
func volumeOfRecord(key string) (backend.VolumeID, bool) {
	for _, prefix := range []string{reservationPrefix, enforcedPrefix} {
		if number, ok := strings.CutPrefix(key, prefix); ok {
			id, err := strconv.ParseUint(number, 10, 64)
			return backend.VolumeID(id), err == nil
		}
	}
	return 0, false
}

// sweepEvery is how often records of volumes that are gone are looked for. They take a
// little room, and bother nobody.
const sweepEvery = time.Hour

// sweepReservations deletes such records until ctx ends.
func (s *Server) sweepReservations(ctx context.Context) {
	if s.opts.Records == nil {
		return
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if err := s.dropForgotten(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("reservations of removed volumes are still there", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// dropForgotten deletes the records of volumes that are gone for good. A volume in the
// recycle bin keeps its own: whoever was fenced off it is, should it come back.
func (s *Server) dropForgotten(ctx context.Context) error {
	// In this order: a record is younger than its volume.
	records, err := s.opts.Records.Records(ctx, recordPrefix)
	if err != nil || len(records) == 0 {
		return err
	}
	there, err := s.volumeIDs(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		id, ok := volumeOfRecord(r.Key)
		if !ok || there[id] {
			continue
		}
		if err := s.opts.Records.DeleteRecord(ctx, r.Key, r.Version); err != nil && !errors.Is(err, backend.ErrConflict) {
			return err
		}
		s.log.Info("record of a removed volume deleted", "record", r.Key)
	}
	return nil
}

// volumeIDs are those of all volumes, and of the recycle bin. They are listed twice, as
// one may be moved from list to list meanwhile.
func (s *Server) volumeIDs(ctx context.Context) (map[backend.VolumeID]bool, error) {
	ids := make(map[backend.VolumeID]bool)
	for range 2 {
		volumes, err := s.gateway.Volumes(ctx, "")
		if err != nil {
			return nil, err
		}
		recycled, err := s.gateway.Recycled(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range append(volumes, recycled...) {
			ids[v.ID] = true
		}
	}
	return ids, nil
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
