package mds

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// RequestIDSize is the length of a request id, in bytes: long enough that
// clients may choose them at random.
const RequestIDSize = 16

const (
	// requestKeep is how long the outcome of a request is remembered. A client
	// must not send a request again that is older.
	requestKeep = 15 * time.Minute
	// requestSweep is how many remembered requests are looked at for each new
	// one. Ids are random, so those that follow a new id in key order are a fair
	// sample, and old ones go faster than new ones come.
	requestSweep = 8
)

// RequestID names a call that a client may send more than once because its
// answer was lost; zero is a call that is sent once.
type RequestID [RequestIDSize]byte

type requestKey struct{}

// WithRequest makes CreateVolume, OpenVolume, CloseVolume, RemoveVolume,
// RecoverVolume, PutRecord and DeleteRecord under ctx happen once for id: a repetition changes nothing and
// answers what the first one did. The memory of it is written in the transaction
// of the change, so neither a crash nor a race comes between the two.
func WithRequest(ctx context.Context, id RequestID) context.Context {
	if id == (RequestID{}) {
		return ctx
	}
	return context.WithValue(ctx, requestKey{}, id)
}

// requestKind is the call that a request was.
type requestKind uint8

const (
	requestCreate requestKind = iota + 1
	requestOpen
	requestClose
	requestRemove
	requestRecover
	requestPutRecord
	requestDeleteRecord
)

var requestNames = [...]string{"none", "create", "open", "close", "remove", "recover", "put a record", "delete a record"}

func (k requestKind) String() string {
	if int(k) < len(requestNames) {
		return requestNames[k]
	}
	return "unknown"
}

// requestRecord is the outcome of a request. It names the volume rather than
// describe it: a repetition is answered with what is true by then. For a front
// end's record there is its version, in place of the epoch.
type requestRecord struct {
	kind    requestKind
	at      int64 // unix time in nanoseconds
	volume  backend.VolumeID
	epoch   backend.Epoch     // requestOpen
	session backend.SessionID // requestOpen
}

const (
	requestVersion    = 1
	requestRecordSize = 34 // version:1 kind:1 at:8 volume:8 epoch:8 session:8
)

func (r requestRecord) encode() []byte {
	b := make([]byte, 0, requestRecordSize)
	b = append(b, requestVersion, byte(r.kind))
	b = binary.BigEndian.AppendUint64(b, uint64(r.at))
	b = binary.BigEndian.AppendUint64(b, uint64(r.volume))
	b = binary.BigEndian.AppendUint64(b, uint64(r.epoch))
	return binary.BigEndian.AppendUint64(b, uint64(r.session))
}

func decodeRequest(b []byte) (requestRecord, error) {
	switch {
	case len(b) != requestRecordSize:
		return requestRecord{}, fmt.Errorf("%w: request record of %d bytes: want %d", errDamaged, len(b), requestRecordSize)
	case b[0] != requestVersion:
		return requestRecord{}, fmt.Errorf("%w: request record of version %d: this program knows %d", errDamaged, b[0], requestVersion)
	case b[1] == 0 || int(b[1]) >= len(requestNames):
		return requestRecord{}, fmt.Errorf("%w: request record of kind %d", errDamaged, b[1])
	}
	return requestRecord{
		kind:    requestKind(b[1]),
		at:      int64(binary.BigEndian.Uint64(b[2:])),
		volume:  backend.VolumeID(binary.BigEndian.Uint64(b[10:])),
		epoch:   backend.Epoch(binary.BigEndian.Uint64(b[18:])),
		session: backend.SessionID(binary.BigEndian.Uint64(b[26:])),
	}, nil
}

func requestRecordKey(id RequestID) []byte { return append([]byte{keyRequest}, id[:]...) }

// doneBefore returns the outcome of the request that ctx names, if it was done
// before.
func (m *MDS) doneBefore(ctx context.Context, tx Txn, kind requestKind) (r requestRecord, done bool, err error) {
	id, ok := ctx.Value(requestKey{}).(RequestID)
	if !ok {
		return requestRecord{}, false, nil
	}
	b, err := tx.Get(requestRecordKey(id))
	if err != nil || b == nil {
		return requestRecord{}, false, err
	}
	if r, err = decodeRequest(b); err != nil {
		return requestRecord{}, false, err
	}
	if r.kind != kind {
		return requestRecord{}, false, fmt.Errorf("%w: request id % x was a request to %s, now to %s: choose a new id for each request", backend.ErrInvalid, id[:4], r.kind, kind)
	}
	return r, true, nil
}

// remember notes the outcome of the request that ctx names, and forgets some
// that are old.
func (m *MDS) remember(ctx context.Context, tx Txn, r requestRecord) error {
	id, ok := ctx.Value(requestKey{}).(RequestID)
	if !ok {
		return nil
	}
	now := m.now()
	r.at = now.UnixNano()
	key := requestRecordKey(id)
	oldest := now.Add(-requestKeep).UnixNano()
	var old [][]byte
	looked := 0
	err := tx.Scan([]byte{keyRequest}, key, func(k, value []byte) (bool, error) {
		found, err := decodeRequest(value)
		if err != nil {
			return false, err
		}
		if found.at < oldest {
			old = append(old, bytes.Clone(k))
		}
		looked++
		return looked < requestSweep, nil
	})
	if err != nil {
		return err
	}
	for _, k := range old {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return tx.Put(key, r.encode())
}
