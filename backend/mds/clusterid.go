package mds

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/opencurve/curve-nbd/backend"
)

// nameCluster gives the cluster an id, once, where the store has none that its
// owner chose. Stores from before there were such ids get theirs here.
func nameCluster(tx Txn) error {
	id, err := clusterID(tx)
	if err != nil || id != "" {
		return err
	}
	return tx.Put([]byte(keyClusterID), []byte(rand.Text()))
}

// clusterID returns the id, "" if there is none yet.
func clusterID(tx Txn) (string, error) {
	for _, key := range []string{keyStoreID, keyClusterID} {
		id, err := tx.Get([]byte(key))
		if err != nil || len(id) > 0 {
			return string(id), err
		}
	}
	return "", nil
}

// ClusterID implements backend.Meta.
func (m *MDS) ClusterID(ctx context.Context) (id string, err error) {
	err = m.store.View(ctx, func(tx Txn) (err error) {
		id, err = clusterID(tx)
		return err
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("id of the cluster: %w", err)
	case !backend.ValidClusterID(id):
		return "", fmt.Errorf("%w: id of the cluster of %d bytes", errDamaged, len(id))
	}
	return id, nil
}
