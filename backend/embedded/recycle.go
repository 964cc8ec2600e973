package embedded

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// purgeRetry is how long a failed purge waits: long enough for a full or failing
// disk to be looked after, short enough that freed space is not missed.
const purgeRetry = time.Minute

// forever is how long an empty recycle bin sleeps: until it is woken.
const forever = time.Duration(math.MaxInt64)

// wakePurger makes the purger look at the recycle bin.
func (b *Backend) wakePurger() {
	select {
	case b.purgeWake <- struct{}{}:
	default: // a token waits already
	}
}

// purgeExpired deletes volumes whose time in the recycle bin is over, and sleeps
// until the next one's is.
func (b *Backend) purgeExpired() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.background.Done():
			return
		case <-b.purgeWake:
		case <-timer.C:
		}
		wait, err := b.purgeDue()
		switch {
		case b.background.Err() != nil:
			return
		case err != nil:
			b.log.Error("purge of the recycle bin failed", "retry_in", purgeRetry, "err", err)
			wait = purgeRetry
		}
		timer.Reset(wait)
	}
}

// purgeDue purges all that is due and returns how long nothing more will be.
func (b *Backend) purgeDue() (time.Duration, error) {
	now := time.Now()
	due, oldest, err := b.mds.Expired(b.background, now.Add(-b.recycleKeep))
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, id := range due {
		failed = append(failed, b.purge(id, now.Add(-b.recycleKeep)))
	}
	if oldest.IsZero() {
		return forever, errors.Join(failed...)
	}
	// At most an hour: timers do not notice that the wall clock was set.
	return min(oldest.Add(b.recycleKeep).Sub(now), time.Hour), errors.Join(failed...)
}

// purge deletes one volume of the recycle bin for good. Any part of it may be
// repeated after a crash.
func (b *Backend) purge(id backend.VolumeID, cutoff time.Time) error {
	segments, err := b.mds.PurgeExpired(b.background, id, cutoff)
	switch {
	case errors.Is(err, backend.ErrBusy), errors.Is(err, backend.ErrInvalid), errors.Is(err, backend.ErrNotFound):
		return nil // recovered, or purged by somebody else, since it was listed
	case err != nil:
		return err
	}
	for _, s := range segments {
		if err := b.deletePaced(id, s.Chunks); err != nil {
			return err
		}
	}
	if err := b.mds.PurgeDone(b.background, id); err != nil {
		return err
	}
	b.log.Info("volume purged", "volume", uint64(id), "segments", len(segments))
	return nil
}

// deletePaced deletes chunks at the pace of background work.
func (b *Backend) deletePaced(id backend.VolumeID, chunks []backend.ChunkRef) error {
	for len(chunks) > 0 {
		n := min(len(chunks), deleteBatch)
		if err := b.deletes.WaitN(b.background, n); err != nil {
			return context.Cause(b.background)
		}
		if err := b.chunks.Delete(b.background, id, chunks[:n]); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}
