package mds_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/backend/mds"
)

func TestAllRecordsTogetherHaveABound(t *testing.T) {
	for name, c := range map[string]struct{ fit, size int }{
		"in bytes":  {backend.MaxRecordBytes/backend.MaxRecordData - 1, backend.MaxRecordData}, // keys take room too
		"in number": {backend.MaxRecords, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMDS(t, mds.NewMemStore(), mds.Options{})
			data := make([]byte, c.size)
			put := func(i int) (uint64, error) { return m.PutRecord(t.Context(), fmt.Sprint("k", i), data, 0) }
			var first uint64
			for i := range c.fit {
				version, err := put(i)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = version
				}
			}
			if _, err := put(c.fit); !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("one more than there may be: %v, want ErrInvalid", err)
			}
			if err := m.DeleteRecord(t.Context(), "k0", first); err != nil {
				t.Fatal(err)
			}
			if _, err := put(c.fit); err != nil {
				t.Errorf("after a delete: %v", err)
			}
		})
	}
}

func TestClusterIDComesFromTheStore(t *testing.T) {
	ids := map[string]bool{}
	for _, storeID := range []string{"of-a-directory", "", ""} {
		store := mds.NewMemStore()
		id, err := newMDS(t, store, mds.Options{StoreID: storeID}).ClusterID(t.Context())
		if err != nil || storeID != "" && id != storeID || ids[id] {
			t.Errorf("store %q: cluster %q, %v", storeID, id, err)
		}
		ids[id] = true
		if again, err := newMDS(t, store, mds.Options{}).ClusterID(t.Context()); err != nil || again != id {
			t.Errorf("store %q opened again: cluster %q, %v, was %q", storeID, again, err, id)
		}
	}
}
