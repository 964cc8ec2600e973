package mds

import (
	"context"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// PurgeExpired is what a Purger does first with a volume.
func PurgeExpired(ctx context.Context, m *MDS, id backend.VolumeID, cutoff time.Time) (struct{}, error) {
	return struct{}{}, m.markPurging(ctx, id, expiredBy(cutoff))
}
