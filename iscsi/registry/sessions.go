package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencurve/curve-nbd/backend"
)

// SessionInfo is an initiator that is logged in.
type SessionInfo struct {
	Target, Initiator string
	// User is whom it has proved to be, "" if no proof was asked for.
	User string
	// Address it comes from, HOST:PORT.
	Address string
	Since   time.Time
	Traffic
}

// Traffic is what an initiator has read and written since it logged in.
type Traffic struct {
	Reads, Writes, ReadBytes, WriteBytes uint64
}

// Sessions knows who is logged in to a target at this gateway.
type Sessions interface {
	Sessions(target string) []SessionInfo
}

// SetSessions says whom to ask before something is taken away; until then nobody
// is logged in.
func (r *Registry) SetSessions(s Sessions) { r.sessions.Store(&s) }

// SessionsOf lists who is logged in to a target at this gateway.
func (r *Registry) SessionsOf(target string) []SessionInfo {
	if s := r.sessions.Load(); s != nil && *s != nil {
		return (*s).Sessions(target)
	}
	return nil
}

// Unused reports, as backend.ErrBusy, which unit a volume is, if it is one. It does no
// IO.
func (r *Registry) Unused(volume backend.VolumeID) error {
	for _, t := range r.Targets() {
		for _, u := range t.Units {
			if u.ID == volume {
				return fmt.Errorf("%w: volume %q is unit %d of target %s: take it off first (lun rm %s %d)",
					backend.ErrBusy, u.Volume, u.Number, t.Name, t.Name, u.Number)
			}
		}
	}
	return nil
}

// inUse reports, as backend.ErrBusy, the initiators that are logged in and that
// affected picks.
func (r *Registry) inUse(target string, affected func(initiator string) bool) error {
	var who []string
	for _, s := range r.SessionsOf(target) {
		if !affected(s.Initiator) {
			continue
		}
		if text := fmt.Sprintf("%s (%s)", s.Initiator, s.Address); !slices.Contains(who, text) {
			who = append(who, text)
		}
	}
	if len(who) == 0 {
		return nil
	}
	const shown = 5
	text := strings.Join(who[:min(len(who), shown)], ", ")
	if len(who) > shown {
		text += fmt.Sprintf(" and %d more", len(who)-shown)
	}
	return fmt.Errorf("%w: logged in: %s: log out there first, or use force", backend.ErrBusy, text)
}
