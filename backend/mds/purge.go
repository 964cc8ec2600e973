package mds

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/opencurve/curve-nbd/backend"
)

const (
	// DefaultRecycleKeep is how long a removed volume can be recovered.
	DefaultRecycleKeep = 7 * 24 * time.Hour
	// PurgeAtOnce, as PurgeOptions.Keep, deletes removed volumes right away.
	PurgeAtOnce = time.Duration(-1)

	// purgeRetry is how long a failed purge waits: long enough for a full or
	// failing disk to be looked after, short enough that freed space is not missed.
	purgeRetry = time.Minute
	// purgeForever is how long an empty recycle bin sleeps: until it is woken.
	purgeForever = time.Duration(math.MaxInt64)

	// purgeRate paces deletion, in chunks a second, so that it does not crowd out
	// the volumes' own IO; purgeBatch go in one call.
	purgeRate  = 1000
	purgeBatch = 64
)

// PurgeOptions of a Purger.
type PurgeOptions struct {
	// Keep is how long removed volumes stay recoverable. 0 is DefaultRecycleKeep,
	// below 0 is PurgeAtOnce.
	Keep time.Duration
	// Delete frees chunks of a volume that is gone, as backend.Chunks does: those
	// that do not exist are skipped, and it is durable when it returns.
	Delete func(ctx context.Context, volume backend.VolumeID, chunks []backend.ChunkRef) error
	// Log is slog.Default() by default.
	Log *slog.Logger
}

// Purger deletes volumes whose time in the recycle bin is over, and those whose
// purge was cut short.
type Purger struct {
	mds    *MDS
	keep   time.Duration
	delete func(context.Context, backend.VolumeID, []backend.ChunkRef) error
	log    *slog.Logger
	pace   *rate.Limiter
	wake   chan struct{} // holds a token when the recycle bin has changed
}

// NewPurger makes a Purger that does nothing before Run.
func NewPurger(m *MDS, opts PurgeOptions) *Purger {
	p := &Purger{
		mds: m, keep: max(cmp.Or(opts.Keep, DefaultRecycleKeep), 0), delete: opts.Delete, log: opts.Log,
		pace: rate.NewLimiter(purgeRate, purgeBatch),
		wake: make(chan struct{}, 1),
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	return p
}

// Wake makes the purger look at the recycle bin: a volume was removed.
func (p *Purger) Wake() {
	select {
	case p.wake <- struct{}{}:
	default: // a token waits already
	}
}

// Run purges until ctx is done, and sleeps until the next volume's time is over.
func (p *Purger) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		wait, err := p.purgeDue(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.log.Error("purge of the recycle bin failed", "retry_in", purgeRetry, "err", err)
			wait = purgeRetry
		}
		timer.Reset(wait)
	}
}

// purgeDue purges all that is due and returns how long nothing more will be. One
// volume that cannot be purged does not keep the others.
func (p *Purger) purgeDue(ctx context.Context) (time.Duration, error) {
	now := p.mds.now()
	due, oldest, err := p.mds.Expired(ctx, now.Add(-p.keep))
	if err != nil {
		return 0, err
	}
	var failed []error
	for _, id := range due {
		failed = append(failed, p.purge(ctx, id, now.Add(-p.keep)))
	}
	if oldest.IsZero() {
		return purgeForever, errors.Join(failed...)
	}
	// At most an hour: timers do not notice that the wall clock was set.
	return min(oldest.Add(p.keep).Sub(now), time.Hour), errors.Join(failed...)
}

// purge deletes one volume of the recycle bin for good. Any part of it may be
// repeated after a crash.
func (p *Purger) purge(ctx context.Context, id backend.VolumeID, cutoff time.Time) error {
	err := p.mds.markPurging(ctx, id, expiredBy(cutoff))
	switch {
	case errors.Is(err, backend.ErrBusy), errors.Is(err, backend.ErrInvalid), errors.Is(err, backend.ErrNotFound):
		return nil // recovered, or purged by somebody else, since it was listed
	case err != nil:
		return err
	}
	segments := 0
	err = p.mds.eachSegment(ctx, segmentPrefix(id), func(_ backend.VolumeID, s backend.Segment) error {
		segments++
		return p.DeletePaced(ctx, id, s.Chunks)
	})
	if err != nil {
		return err
	}
	if err := p.mds.PurgeDone(ctx, id); err != nil {
		return err
	}
	p.log.Info("volume purged", "volume", uint64(id), "segments", segments)
	return nil
}

// DeletePaced deletes chunks at the pace of background work.
func (p *Purger) DeletePaced(ctx context.Context, id backend.VolumeID, chunks []backend.ChunkRef) error {
	for len(chunks) > 0 {
		n := min(len(chunks), purgeBatch)
		if err := p.pace.WaitN(ctx, n); err != nil {
			return err
		}
		if err := p.delete(ctx, id, chunks[:n]); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}
