package pb

import (
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// RecordOf is a front end's record as it goes over the wire.
func RecordOf(r backend.Record) *Record {
	return &Record{Key: []byte(r.Key), Data: r.Data, Version: r.Version}
}

// Words is the record in words of package backend. ErrIO.
func (m *Record) Words() (backend.Record, error) {
	r := backend.Record{Key: string(m.GetKey()), Data: m.GetData(), Version: m.GetVersion()}
	if backend.CheckRecordKey(r.Key) != nil || len(r.Data) > backend.MaxRecordData || r.Version == 0 {
		return backend.Record{}, fmt.Errorf("%w: the MDS answered with record %.80q of %d bytes and version %d", backend.ErrIO, r.Key, len(r.Data), r.Version)
	}
	if r.Data == nil {
		r.Data = []byte{} // as every other Meta has it
	}
	return r, nil
}

// Words is the cluster's id. ErrIO.
func (m *ClusterID) Words() (string, error) {
	if !backend.ValidClusterID(m.GetId()) {
		return "", fmt.Errorf("%w: the MDS answered with cluster id %.80q", backend.ErrIO, m.GetId())
	}
	return m.GetId(), nil
}
