package scsi

// accessClass is how a command stands to reservations: the columns of the tables
// in SPC-4 (5.12.1) and SBC-3 (4.17) boil down to these. A set of bits.
type accessClass uint32

const (
	// accessRead commands read the medium, or what the unit is set to: denied under
	// the exclusive access types.
	accessRead accessClass = 1 << iota
	// accessWrite commands change the medium: denied under all types.
	accessWrite
	// accessRegistered commands are denied as those that write, though they do
	// not: MODE SELECT and the like.
	accessRegistered
	// accessOther commands are denied under a RESERVE only.
	accessOther
	// accessPersist commands are those of persistent reservations themselves,
	// which do not mix with RESERVE.
	accessPersist
	// accessReserve and accessRelease are RESERVE and RELEASE, denied once there
	// are registrations.
	accessReserve
	accessRelease
)

// denied is what a nexus may not do under the persistent reservation.
func (r *Reservations) denied(initiator string, port uint16) (d accessClass) {
	if len(r.Registrations) > 0 {
		d |= accessReserve | accessRelease
	}
	if r.Type == NoReservation || r.mayAccess(initiator, port) {
		return d
	}
	d |= accessWrite | accessRegistered
	if r.Type.exclusive() {
		d |= accessRead
	}
	return d
}

// mayAccess says whether the reservation lets a nexus do everything.
func (r *Reservations) mayAccess(initiator string, port uint16) bool {
	if r.Type.forRegistrants() {
		return r.find(initiator, port) >= 0
	}
	return r.holds(initiator, port)
}

// startStopAccess: starting the unit is nobody's harm.
func startStopAccess(c *Command) accessClass {
	if c.cdb[4]&0xf1 == 1 {
		return 0
	}
	return accessRegistered
}

func preventAccess(c *Command) accessClass {
	if c.cdb[4]&3 == 0 {
		return 0
	}
	return accessRegistered
}

// executeReserve serves RESERVE(6) and (10): the whole unit for the nexus.
func executeReserve(u *Unit, c *Command) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reserved != nil && u.reserved != c.Nexus || len(u.persist.Registrations) > 0 {
		c.Status = ReservationConflict
		return done
	}
	u.reserved = c.Nexus
	u.refreshAccess()
	return done
}

// executeRelease ends a RESERVE of the same nexus; for others there is nothing
// to do.
func executeRelease(u *Unit, c *Command) verdict {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reserved == c.Nexus {
		u.reserved = nil
		u.refreshAccess()
	}
	return done
}
