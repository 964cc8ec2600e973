package scsi

import (
	"github.com/opencurve/curve-nbd/backend"
	"github.com/opencurve/curve-nbd/volume"
)

// A removable unit is a drive with the volume as its medium, which initiators eject
// and load: START STOP UNIT, and PREVENT ALLOW MEDIUM REMOVAL against it. Nothing
// becomes of the volume by that: it is flushed, and shown to nobody until it is
// loaded again. Whether it is in the drive, this Unit alone knows.

// Bits of byte 4 of START STOP UNIT.
const (
	startUnit      = 0x01
	loadEject      = 0x02
	noFlush        = 0x04
	powerCondition = 0xf0 // of which there are none: other bits do not count then
)

// noMedium is what commands end with that need the medium where it is ejected.
func (u *Unit) noMedium() *Sense {
	if u.ejected.Load() {
		return sense(NotReady, MediumNotPresent)
	}
	return nil
}

func decodeStartStop(u *Unit, c *Command, _ uint64) *Sense {
	if c.cdb[4]&loadEject != 0 && !u.removable {
		return badCDB(4, 1)
	}
	return nil
}

// executeStartStop flushes where a drive would stop: a unit that several share
// is not for one of them to stop.
func executeStartStop(u *Unit, c *Command) verdict {
	how := c.cdb[4]
	if how&(loadEject|powerCondition) == loadEject {
		if how&startUnit != 0 {
			return u.load(c)
		}
		return u.eject(c)
	}
	if s := u.noMedium(); s != nil {
		return c.fail(s)
	}
	if how&(startUnit|noFlush) != 0 {
		return done
	}
	return executeFlush(u, c)
}

// executePrevent notes whether the nexus wants the medium to stay. Of a unit that is
// not removable nobody can take it.
func executePrevent(u *Unit, c *Command) verdict {
	if u.removable {
		u.mu.Lock()
		defer u.mu.Unlock()
		c.Nexus.prevents = c.cdb[4]&1 != 0
	}
	return done
}

// prevented says why the medium may not be moved. With u.mu held.
func (u *Unit) prevented() *Sense {
	for _, n := range u.nexuses {
		if n.prevents {
			return sense(IllegalRequest, RemovalPrevented)
		}
	}
	return nil
}

// load brings the medium back, and tells all but who has asked for it.
func (u *Unit) load(c *Command) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.ejecting:
		return u.afterEject(c)
	case !u.ejected.Load():
		return done
	}
	if s := u.prevented(); s != nil {
		return c.fail(s)
	}
	u.ejected.Store(false)
	u.notifyLocked(c.Nexus, MediumChanged)
	return done
}

// eject is over once the commands that had begun are, and what they wrote is flushed.
func (u *Unit) eject(c *Command) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.ejecting:
		return u.afterEject(c)
	case u.ejected.Load():
		return done
	}
	if s := u.prevented(); s != nil {
		return c.fail(s)
	}
	u.ejected.Store(true)
	if s := u.sanitize.sense(); s != nil { // of one that has begun since the command was planned
		u.ejected.Store(false)
		return c.fail(s)
	}
	u.ejecting = true
	c.inline = false
	u.background.Go(func() {
		s := u.calmDown(c)
		u.endEject(s == nil)
		if s != nil {
			c.fail(s)
		}
		u.complete(c)
	})
	return wait
}

// afterEject has the command begin again when the eject under way is over. With u.mu
// held.
func (u *Unit) afterEject(c *Command) verdict {
	c.inline = false
	c.next = executeStartStop
	u.movers = append(u.movers, c)
	return wait
}

func (u *Unit) endEject(out bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ejecting = false
	u.ejected.Store(out)
	for _, c := range u.movers {
		c.resume()
	}
	u.movers = nil
}

// calmDown goes on where the command is aborted: the medium is out by then.
func (u *Unit) calmDown(c *Command) *Sense {
	if err := u.quiesce(); err != nil {
		return standby()
	}
	flushed := make(flushDone, 1)
	r := volume.Request{Op: backend.OpFlush, Done: flushed}
	c.mount.Submit(&r)
	<-flushed
	if r.Err != nil {
		return c.failure(r.Op, r.Err)
	}
	return nil
}

type flushDone chan struct{}

// RequestDone implements volume.Completer.
func (d flushDone) RequestDone(*volume.Request) { d <- struct{}{} }
