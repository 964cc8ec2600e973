package mds

import (
	"context"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// forgetBatch is how many segments one transaction forgets.
const forgetBatch = 64

// RemoveVolume implements backend.Meta.
func (m *MDS) RemoveVolume(ctx context.Context, name string) (backend.VolumeInfo, error) {
	name, err := cleanName(name)
	if err != nil {
		return backend.VolumeInfo{}, err
	}
	var v *volumeRecord
	err = m.store.Update(ctx, func(tx Txn) error {
		done, again, err := m.doneBefore(ctx, tx, requestRemove)
		if err != nil {
			return err
		}
		if again {
			v, err = getVolume(tx, done.volume)
			return err
		}
		if v, err = lookup(tx, name); err != nil {
			return err
		}
		if v.Lease != nil && !v.Lease.abandoned("", m.owners.alive) {
			return fmt.Errorf("%w: %s: close it there first", backend.ErrBusy, v.Lease)
		}
		v.Lease = nil
		if err := unlink(tx, name); err != nil {
			return err
		}
		v.State, v.RecycledAt = backend.VolumeRecycled, m.now().UnixNano()
		if err := tx.Put(recycleKey(v.RecycledAt, v.ID), nil); err != nil {
			return err
		}
		if err := putVolume(tx, v); err != nil {
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestRemove, volume: v.ID})
	})
	if err != nil {
		return backend.VolumeInfo{}, fmt.Errorf("remove volume %q: %w", name, err)
	}
	return v.info(), nil
}

// Recycled implements backend.Meta. A volume stays in the list until PurgeDone.
func (m *MDS) Recycled(ctx context.Context) ([]backend.VolumeInfo, error) {
	var infos []backend.VolumeInfo
	err := m.eachRecycled(ctx, func(v *volumeRecord) { infos = append(infos, v.info()) })
	return infos, err
}

func (m *MDS) eachRecycled(ctx context.Context, fn func(*volumeRecord)) error {
	var found []*volumeRecord
	err := m.store.View(ctx, func(tx Txn) error {
		found = nil
		return tx.Scan([]byte{keyRecycle}, nil, func(key, _ []byte) (bool, error) {
			id, err := parseRecycleKey(key)
			if err != nil {
				return false, err
			}
			v, err := getVolume(tx, id)
			found = append(found, v)
			return true, err
		})
	})
	if err != nil {
		return fmt.Errorf("list the recycle bin: %w", err)
	}
	for _, v := range found {
		fn(v)
	}
	return nil
}

// RecoverVolume implements backend.Meta.
func (m *MDS) RecoverVolume(ctx context.Context, id backend.VolumeID, newName string) (backend.VolumeInfo, error) {
	if newName != "" {
		var err error
		if newName, err = cleanName(newName); err != nil {
			return backend.VolumeInfo{}, err
		}
	}
	var v *volumeRecord
	err := m.store.Update(ctx, func(tx Txn) error {
		_, again, err := m.doneBefore(ctx, tx, requestRecover)
		if err != nil {
			return err
		}
		if again {
			v, err = getVolume(tx, id)
			return err
		}
		if v, err = getRecycled(tx, id); err != nil {
			return err
		}
		if v.State == volumePurging {
			return fmt.Errorf("%w: its data is being deleted: it cannot come back", backend.ErrBusy)
		}
		if newName != "" {
			v.Name = newName
		}
		if err := link(tx, v.Name, id); err != nil {
			return err
		}
		if err := tx.Delete(recycleKey(v.RecycledAt, id)); err != nil {
			return err
		}
		v.State, v.RecycledAt = backend.VolumeActive, 0
		if err := putVolume(tx, v); err != nil {
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestRecover, volume: id})
	})
	if err != nil {
		return backend.VolumeInfo{}, fmt.Errorf("recover %s: %w", id, err)
	}
	return v.info(), nil
}

// getRecycled returns a volume of the recycle bin, one that is being purged too.
func getRecycled(tx Txn, id backend.VolumeID) (*volumeRecord, error) {
	v, err := getVolume(tx, id)
	if err == nil && v.State == backend.VolumeActive {
		err = fmt.Errorf("%w: it is active as %q: remove it first", backend.ErrInvalid, v.Name)
	}
	return v, err
}

// PurgeVolume implements backend.Meta. From here on the volume cannot be
// recovered. It may be called again, until PurgeDone.
func (m *MDS) PurgeVolume(ctx context.Context, id backend.VolumeID) ([]backend.Segment, error) {
	if err := m.markPurging(ctx, id, anyTime); err != nil {
		return nil, err
	}
	return m.Segments(ctx, id)
}

// anyTime lets every recycled volume be purged.
func anyTime(*volumeRecord) error { return nil }

// expiredBy lets volumes be purged that went to the recycle bin at or before
// cutoff, or are being purged already. backend.ErrBusy for younger ones: a
// volume may have been recovered and removed again since it was listed.
func expiredBy(cutoff time.Time) func(*volumeRecord) error {
	return func(v *volumeRecord) error {
		if at := time.Unix(0, v.RecycledAt); v.State != volumePurging && at.After(cutoff) {
			return fmt.Errorf("%w: recycled %s, kept until %s has passed", backend.ErrBusy, at, cutoff)
		}
		return nil
	}
}

// markPurging ends the time in which a volume can be recovered.
func (m *MDS) markPurging(ctx context.Context, id backend.VolumeID, allowed func(*volumeRecord) error) error {
	err := m.store.Update(ctx, func(tx Txn) error {
		v, err := getRecycled(tx, id)
		if err != nil {
			return err
		}
		if err := allowed(v); err != nil || v.State == volumePurging {
			return err
		}
		v.State = volumePurging
		return putVolume(tx, v)
	})
	if err != nil {
		return fmt.Errorf("purge %s: %w", id, err)
	}
	return nil
}

// PurgeDone implements backend.Meta. A volume that is gone already is no error,
// so that two may purge at once.
func (m *MDS) PurgeDone(ctx context.Context, id backend.VolumeID) error {
	for done := false; !done; {
		err := m.store.Update(ctx, func(tx Txn) (err error) {
			done, err = forgetSome(tx, id)
			return err
		})
		if err != nil {
			return fmt.Errorf("forget purged %s: %w", id, err)
		}
	}
	return nil
}

// forgetSome forgets some segments of a volume, or with the last of them the
// volume itself: a crash in between leaves a volume that can be purged again.
func forgetSome(tx Txn, id backend.VolumeID) (done bool, err error) {
	b, err := tx.Get(volumeKey(id))
	if err != nil {
		return false, err
	}
	if last, err := getCounter(tx, counterVolume); err != nil || (b == nil && uint64(id) <= last && id != 0) {
		return true, err // ids are not reused: it was there and is gone
	}
	v, err := getRecycled(tx, id)
	if err != nil {
		return false, err
	}
	if v.State != volumePurging {
		return false, fmt.Errorf("%w: it is in the recycle bin and may still be recovered: call PurgeVolume first", backend.ErrInvalid)
	}
	var keys [][]byte
	freed := map[backend.CopysetID]int64{}
	err = tx.Scan(segmentPrefix(id), nil, func(key, value []byte) (bool, error) {
		keys = append(keys, append([]byte(nil), key...))
		chunks, err := decodeSegment(value)
		for _, c := range chunks {
			freed[c.Copyset]++
		}
		return len(keys) < forgetBatch, err
	})
	if err != nil {
		return false, err
	}
	if err := giveBack(tx, freed); err != nil {
		return false, err
	}
	if done = len(keys) < forgetBatch; done {
		keys = append(keys, recycleKey(v.RecycledAt, id), volumeKey(id))
	}
	for _, key := range keys {
		if err := tx.Delete(key); err != nil {
			return false, err
		}
	}
	return done, nil
}

// Expired returns the volumes whose chunks are to be deleted: those recycled at
// or before cutoff, and those whose purge was interrupted. oldest is when the
// oldest of the others was recycled, zero if there is none.
func (m *MDS) Expired(ctx context.Context, cutoff time.Time) (due []backend.VolumeID, oldest time.Time, err error) {
	err = m.eachRecycled(ctx, func(v *volumeRecord) {
		at := time.Unix(0, v.RecycledAt)
		switch {
		case v.State == volumePurging || !at.After(cutoff):
			due = append(due, v.ID)
		case oldest.IsZero():
			oldest = at
		}
	})
	return due, oldest, err
}
