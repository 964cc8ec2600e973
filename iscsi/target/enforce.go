package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// An order to the reservations may come in at any gateway, and counts once the one
// that has the volume enforces it. That one says so in a record beside the reservations:
// it enforces them up to that version, and under its epoch nobody else can write. Who
// has taken an order waits until the record says as much under the epoch that the volume
// has, which it looks up after the order was stored: whoever opens the volume later
// loads the reservations later, too.

// watchEvery is how often a gateway looks for reservations that others have changed.
const watchEvery = 200 * time.Millisecond

// enforcement is the record of what a gateway enforces.
type enforcement struct {
	Epoch   backend.Epoch `json:"epoch"`
	Version uint64        `json:"version"`
}

// enforced implements scsi.Options.
func (u *unit) enforced(ctx context.Context, version uint64) bool {
	if !u.sharesReservations() {
		return true
	}
	select {
	case u.asking <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-u.asking }()
	if u.sure >= version {
		return true
	}
	is, err := u.everywhere(ctx, version)
	if err != nil && ctx.Err() == nil {
		u.server.log.Debug("whether reservations are enforced is not known", "volume", u.from.Volume, "error", err)
	}
	if is {
		u.sure = version
	}
	return is
}

// sharesReservations says whether other gateways have the unit's reservations, too.
func (u *unit) sharesReservations() bool {
	return u.server.opts.Shared && u.server.keepsReservations(u.key)
}

// everywhere says whether the version is enforced by whoever may write now.
func (u *unit) everywhere(ctx context.Context, version uint64) (bool, error) {
	v, err := u.server.gateway.Volume(ctx, u.from.Volume)
	switch {
	case err != nil:
		return false, err
	case v.ID != u.key.volume:
		return false, errReplaced
	case v.Owner == "":
		tell(u.free) // it is ours, then
		return false, nil
	}
	m := u.medium.Load()
	if m == nil || m.Epoch() < v.Epoch || !m.hold() {
		u.isLost(m)
		e, _, err := u.server.enforcementOf(ctx, u.key.volume)
		return err == nil && e.Epoch == v.Epoch && e.Version >= version, err
	}
	defer m.letGo()
	// It is enforced here, since the order was taken over.
	err = m.FenceEarlier(ctx)
	return err == nil, err
}

// isLost says that another gateway has taken the volume from a medium, unless the unit
// knows.
func (u *unit) isLost(m *medium) {
	if m != nil && m == u.medium.Load() {
		tell(u.lost)
	}
}

// follow takes over what others make of the reservations, and says so if this gateway
// has the volume.
func (u *unit) follow(ctx context.Context) {
	var said enforcement
	for {
		err := u.catchUp(ctx, &said)
		if err != nil {
			tell(u.news) // once more
			select {
			case <-time.After(watchEvery):
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-u.news:
		case <-ctx.Done():
			return
		}
	}
}

// catchUp is one turn of follow; said is what the record says.
func (u *unit) catchUp(ctx context.Context, said *enforcement) error {
	version, err := u.Refresh(ctx)
	m := u.medium.Load()
	if err != nil || version == 0 || m == nil || !m.hold() {
		return err
	}
	defer m.letGo()
	now := enforcement{m.Epoch(), version}
	if now == *said {
		return nil
	}
	if err = m.FenceEarlier(ctx); err == nil {
		err = u.server.sayEnforced(ctx, u.key.volume, now)
	}
	if errors.Is(err, backend.ErrStaleEpoch) {
		u.isLost(m)
	}
	if err == nil {
		*said = now
	}
	return err
}

// enforcementOf returns the record of a volume, and its version: 0 if there is none.
func (s *Server) enforcementOf(ctx context.Context, id backend.VolumeID) (e enforcement, version uint64, err error) {
	r, err := s.opts.Records.Record(ctx, fmt.Sprint(enforcedPrefix, uint64(id)))
	if errors.Is(err, backend.ErrNotFound) {
		return e, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(r.Data, &e)
	}
	return e, r.Version, err
}

// sayEnforced writes the record. ErrStaleEpoch if a later open of the volume has.
func (s *Server) sayEnforced(ctx context.Context, id backend.VolumeID, now enforcement) error {
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	for {
		old, version, err := s.enforcementOf(ctx, id)
		switch {
		case err != nil:
			return err
		case old.Epoch > now.Epoch:
			return fmt.Errorf("%w: epoch %d of %v, another gateway enforces reservations under %d", backend.ErrStaleEpoch, now.Epoch, id, old.Epoch)
		}
		_, err = s.opts.Records.PutRecord(ctx, fmt.Sprint(enforcedPrefix, uint64(id)), b, version)
		if !errors.Is(err, backend.ErrConflict) {
			return err
		}
	}
}

// watchReservations tells the units of reservations that were changed, until ctx ends.
func (s *Server) watchReservations(ctx context.Context) {
	if !s.opts.Shared || s.opts.Records == nil {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	mark := uint64(0)
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if !s.units.any() {
			continue // one that opens looks for itself
		}
		records, next, err := s.opts.Records.RecordChanges(ctx, reservationPrefix, mark)
		if err != nil {
			continue // the next time
		}
		mark = next
		for _, r := range records {
			if id, ok := volumeOfRecord(r.Key); ok {
				s.units.tell(id)
			}
		}
	}
}

// any says whether there are units.
func (us *units) any() bool {
	us.mu.Lock()
	defer us.mu.Unlock()
	return len(us.open) > 0
}

// tell has the unit of a volume look at the reservations.
func (us *units) tell(id backend.VolumeID) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.open[unitKey{volume: id}]; u != nil {
		tell(u.news)
	}
}
