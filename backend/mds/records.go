package mds

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	recordVersion    = 1
	recordHeaderSize = 9 // version of the format:1 version of the record:8
	recordUseSize    = 16
)

func recordKey(key string) []byte { return append([]byte{keyRecord}, key...) }

func encodeDocument(r backend.Record) []byte {
	b := make([]byte, 0, recordHeaderSize+len(r.Data))
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	return append(b, r.Data...)
}

// decodeDocument takes apart what stands under a recordKey. The result owns its
// data.
func decodeDocument(key, b []byte) (backend.Record, error) {
	switch {
	case len(key) == 0 || key[0] != keyRecord || backend.CheckRecordKey(string(key[1:])) != nil:
		return backend.Record{}, fmt.Errorf("%w: key % x of a front end's record", errDamaged, key)
	case len(b) < recordHeaderSize || len(b) > recordHeaderSize+backend.MaxRecordData:
		return backend.Record{}, fmt.Errorf("%w: record %q of %d bytes: want %d to %d", errDamaged, key[1:], len(b), recordHeaderSize, recordHeaderSize+backend.MaxRecordData)
	case b[0] != recordVersion:
		return backend.Record{}, fmt.Errorf("%w: record %q of version %d: this program knows %d", errDamaged, key[1:], b[0], recordVersion)
	}
	r := backend.Record{
		Key: string(key[1:]), Version: binary.BigEndian.Uint64(b[1:]),
		Data: append([]byte{}, b[recordHeaderSize:]...),
	}
	if r.Version == 0 {
		return backend.Record{}, fmt.Errorf("%w: record %q of version 0", errDamaged, r.Key)
	}
	return r, nil
}

// getRecord returns the record of a key, and one of version 0 if there is none.
func getRecord(tx Txn, key string) (backend.Record, error) {
	b, err := tx.Get(recordKey(key))
	if err != nil || b == nil {
		return backend.Record{Key: key}, err
	}
	return decodeDocument(recordKey(key), b)
}

// recordUse is how much room all records take.
type recordUse struct{ records, bytes uint64 }

func getRecordUse(tx Txn) (recordUse, error) {
	b, err := tx.Get([]byte(keyRecordUse))
	switch {
	case err != nil || b == nil:
		return recordUse{}, err
	case len(b) != recordUseSize:
		return recordUse{}, fmt.Errorf("%w: use of records in %d bytes: want %d", errDamaged, len(b), recordUseSize)
	}
	return recordUse{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

func (u recordUse) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, u.records), u.bytes)
}

// add is u with one more record, sub with one less.
func (u recordUse) add(r backend.Record) recordUse {
	return recordUse{u.records + 1, u.bytes + uint64(len(r.Key)+len(r.Data))}
}

func (u recordUse) sub(r backend.Record) (recordUse, error) {
	size := uint64(len(r.Key) + len(r.Data))
	if u.records == 0 || u.bytes < size {
		return recordUse{}, fmt.Errorf("%w: %d records of %d bytes, and one has %d", errDamaged, u.records, u.bytes, size)
	}
	return recordUse{u.records - 1, u.bytes - size}, nil
}

// exchangeRecord puts a record in the place of old, which is of version 0 where
// there is none; now is nil where none shall be.
func exchangeRecord(tx Txn, old backend.Record, now *backend.Record) error {
	use, err := getRecordUse(tx)
	if err != nil {
		return err
	}
	if old.Version != 0 {
		if use, err = use.sub(old); err != nil {
			return err
		}
	}
	if now == nil {
		err = tx.Delete(recordKey(old.Key))
	} else {
		use = use.add(*now)
		if use.records > backend.MaxRecords || use.bytes > backend.MaxRecordBytes {
			return fmt.Errorf("%w: %d records of %d bytes in all: at most %d and %d: delete some first", backend.ErrInvalid,
				use.records, use.bytes, backend.MaxRecords, backend.MaxRecordBytes)
		}
		err = tx.Put(recordKey(now.Key), encodeDocument(*now))
	}
	if err != nil {
		return err
	}
	return tx.Put([]byte(keyRecordUse), use.encode())
}

// Record implements backend.Meta.
func (m *MDS) Record(ctx context.Context, key string) (r backend.Record, err error) {
	if err := backend.CheckRecordKey(key); err != nil {
		return backend.Record{}, err
	}
	err = m.store.View(ctx, func(tx Txn) (err error) {
		r, err = getRecord(tx, key)
		return err
	})
	switch {
	case err != nil:
		return backend.Record{}, fmt.Errorf("record %q: %w", key, err)
	case r.Version == 0:
		return backend.Record{}, fmt.Errorf("%w: no record %q", backend.ErrNotFound, key)
	}
	return r, nil
}

// Records implements backend.Meta; they are of one moment.
func (m *MDS) Records(ctx context.Context, prefix string) ([]backend.Record, error) {
	records, _, err := m.RecordChanges(ctx, prefix, 0)
	return records, err
}

// RecordChanges implements backend.Meta; they are of one moment.
func (m *MDS) RecordChanges(ctx context.Context, prefix string, mark uint64) ([]backend.Record, uint64, error) {
	page, err := m.recordsAfter(ctx, prefix, "", mark, backend.MaxRecordBytes)
	return page.records, page.mark, err
}

// recordPage is a part of a listing.
type recordPage struct {
	records []backend.Record
	more    bool   // there are others behind these
	mark    uint64 // what the next change gets as version, or more
}

// recordsAfter lists records behind a key whose versions are from since on, until they
// have at least bytes.
func (m *MDS) recordsAfter(ctx context.Context, prefix, after string, since uint64, bytes int) (p recordPage, err error) {
	for _, text := range []string{prefix, after} {
		if err := backend.CheckRecordPrefix(text); err != nil {
			return p, err
		}
	}
	var from []byte
	if after != "" {
		from = append(recordKey(after), 0) // the next key there can be
	}
	err = m.store.View(ctx, func(tx Txn) error {
		last, err := getCounter(tx, counterRecord)
		p = recordPage{mark: last + 1}
		if err != nil || since == p.mark {
			return err
		}
		if since > p.mark { // it is not of these metadata
			since = 0
		}
		size := 0
		return tx.Scan(recordKey(prefix), from, func(key, value []byte) (bool, error) {
			if versionOf(value) < since {
				return true, nil
			}
			if size >= bytes {
				p.more = true
				return false, nil
			}
			r, err := decodeDocument(key, value)
			if err != nil {
				return false, err
			}
			p.records = append(p.records, r)
			size += len(r.Key) + len(r.Data)
			return true, nil
		})
	})
	if err != nil {
		return recordPage{}, fmt.Errorf("list records %q: %w", prefix, err)
	}
	return p, nil
}

// versionOf is the version of what encodeDocument made; of anything else it is one that
// has decodeDocument look.
func versionOf(b []byte) uint64 {
	if len(b) < recordHeaderSize {
		return math.MaxUint64
	}
	return binary.BigEndian.Uint64(b[1:])
}

// PutRecord implements backend.Meta.
func (m *MDS) PutRecord(ctx context.Context, key string, data []byte, version uint64) (uint64, error) {
	if err := backend.CheckRecordKey(key); err != nil {
		return 0, err
	}
	if len(data) > backend.MaxRecordData {
		return 0, fmt.Errorf("%w: record %q of %d bytes: at most %d", backend.ErrInvalid, key, len(data), backend.MaxRecordData)
	}
	now := backend.Record{Key: key, Data: data}
	err := m.store.Update(ctx, func(tx Txn) error {
		done, again, err := m.doneBefore(ctx, tx, requestPutRecord)
		if err != nil || again {
			now.Version = uint64(done.epoch)
			return err
		}
		old, err := expectRecord(tx, key, version)
		if err != nil {
			return err
		}
		if now.Version, err = takeIDs(tx, counterRecord, 1); err != nil {
			return err
		}
		if err := exchangeRecord(tx, old, &now); err != nil {
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestPutRecord, epoch: backend.Epoch(now.Version)})
	})
	if err != nil {
		return 0, fmt.Errorf("put record %q: %w", key, err)
	}
	return now.Version, nil
}

// expectRecord returns the record of a key if it has that version. ErrConflict.
func expectRecord(tx Txn, key string, version uint64) (backend.Record, error) {
	found, err := getRecord(tx, key)
	switch {
	case err != nil:
		return backend.Record{}, err
	case found.Version == version:
		return found, nil
	case found.Version == 0:
		return backend.Record{}, fmt.Errorf("%w: it is gone, expected version %d", backend.ErrConflict, version)
	case version == 0:
		return backend.Record{}, fmt.Errorf("%w: it exists, in version %d", backend.ErrConflict, found.Version)
	}
	return backend.Record{}, fmt.Errorf("%w: found version %d, expected %d", backend.ErrConflict, found.Version, version)
}

// DeleteRecord implements backend.Meta.
func (m *MDS) DeleteRecord(ctx context.Context, key string, version uint64) error {
	if err := backend.CheckRecordKey(key); err != nil {
		return err
	}
	if version == 0 {
		return fmt.Errorf("%w: delete record %q of version 0: read it first", backend.ErrInvalid, key)
	}
	err := m.store.Update(ctx, func(tx Txn) error {
		_, again, err := m.doneBefore(ctx, tx, requestDeleteRecord)
		if err != nil || again {
			return err
		}
		old, err := expectRecord(tx, key, version)
		if err != nil {
			return err
		}
		if err := exchangeRecord(tx, old, nil); err != nil {
			return err
		}
		if _, err := takeIDs(tx, counterRecord, 1); err != nil { // it is a change, too
			return err
		}
		return m.remember(ctx, tx, requestRecord{kind: requestDeleteRecord})
	})
	if err != nil {
		return fmt.Errorf("delete record %q: %w", key, err)
	}
	return nil
}
