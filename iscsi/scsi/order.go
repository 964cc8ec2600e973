package scsi

import "slices"

// order is one PERSISTENT RESERVE OUT.
type order struct {
	action    int
	initiator string
	port      uint16
	// key is what the nexus says that it registered; actionKey the key to
	// register or to preempt.
	key, actionKey uint64
	kind           ReservationType
	persist        bool
	// ports and others are what a REGISTER covers beyond the nexus: target ports
	// (ALL_TG_PT), initiator ports (SPEC_I_PT).
	ports  []uint16
	others []string
	// specific: SPEC_I_PT was set.
	specific bool
	// REGISTER AND MOVE: where to, and whether the mover unregisters.
	toInitiator string
	toPort      uint16
	unregister  bool
}

// refusal is why an order was not carried out: a conflict, or sense data.
type refusal struct {
	conflict bool
	sense    *Sense
}

var conflict = &refusal{conflict: true}

func refuse(s *Sense) *refusal { return &refusal{sense: s} }

// apply returns the state after the order, or why it stays as it is.
func (r Reservations) apply(o *order) (Reservations, *refusal) {
	at := r.find(o.initiator, o.port)
	switch o.action {
	case saRegister:
		// A nexus without registration says key 0.
		if at < 0 && o.key != 0 || at >= 0 && r.Registrations[at].Key != o.key {
			return r, conflict
		}
		if at >= 0 && o.specific {
			return r, refuse(badData(20, 3))
		}
		return r.register(o, at)
	case saRegisterAndIgnore:
		return r.register(o, at)
	}
	if at < 0 || r.Registrations[at].Key != o.key {
		return r, conflict
	}
	switch o.action {
	case saReserve:
		return r.applyReserve(o)
	case saRelease:
		return r.applyRelease(o)
	case saClear:
		next := r.free()
		next.Registrations = nil
		next.Generation++
		return next, nil
	case saPreempt, saPreemptAndAbort:
		return r.applyPreempt(o)
	default:
		return r.applyMove(o)
	}
}

// covers says whether a REGISTER is about this nexus.
func (o *order) covers(g Registration) bool {
	initiator := g.Initiator == o.initiator || slices.Contains(o.others, g.Initiator)
	return initiator && (g.Port == o.port || slices.Contains(o.ports, g.Port))
}

func (r Reservations) register(o *order, at int) (Reservations, *refusal) {
	if o.actionKey == 0 {
		if at < 0 {
			return r, nil // nothing to unregister
		}
		next := r.without(o.covers)
		next.Generation++
		next.Persist = o.persist
		return next, nil
	}
	next := r
	next.Registrations = slices.Clone(r.Registrations)
	for _, initiator := range append([]string{o.initiator}, o.others...) {
		for _, port := range append([]uint16{o.port}, o.ports...) {
			next.set(Registration{Initiator: initiator, Port: port, Key: o.actionKey})
		}
	}
	if len(next.Registrations) > maxRegistrations {
		return r, refuse(sense(IllegalRequest, OutOfRegistrations))
	}
	next.Generation++
	next.Persist = o.persist
	return next, nil
}

// set registers a nexus. The slice must be the caller's own.
func (r *Reservations) set(g Registration) {
	if i := r.find(g.Initiator, g.Port); i >= 0 {
		r.Registrations[i] = g
		return
	}
	r.Registrations = append(r.Registrations, g)
}

func (r Reservations) applyReserve(o *order) (Reservations, *refusal) {
	switch {
	case r.Type == NoReservation:
		return r.reserve(o.kind, o.initiator, o.port), nil
	case r.holds(o.initiator, o.port) && r.Type == o.kind:
		return r, nil
	}
	return r, conflict
}

func (r Reservations) applyRelease(o *order) (Reservations, *refusal) {
	switch {
	case !r.holds(o.initiator, o.port):
		return r, nil
	case r.Type != o.kind:
		return r, refuse(sense(IllegalRequest, InvalidRelease))
	}
	return r.free(), nil
}

// applyPreempt removes the registrations with a key and, where that is the key of
// the holder, takes the reservation over (SPC-4, 5.12.11.4).
func (r Reservations) applyPreempt(o *order) (Reservations, *refusal) {
	takes := r.Type != NoReservation && !r.Type.allHold() && r.holderKey() == o.actionKey
	everybody := r.Type.allHold() && o.actionKey == 0
	if o.actionKey == 0 && !everybody {
		return r, refuse(badData(8, noBit))
	}
	matches := func(g Registration) bool { return everybody || g.Key == o.actionKey }
	if !slices.ContainsFunc(r.Registrations, matches) {
		return r, conflict
	}
	next := r
	if takes || everybody {
		next = r.reserve(o.kind, o.initiator, o.port)
	}
	// Who has the reservation then stays registered; who has not may name himself too.
	keeps := next.holds(o.initiator, o.port)
	next = next.without(func(g Registration) bool {
		return matches(g) && !(keeps && g.Initiator == o.initiator && g.Port == o.port)
	})
	next.Generation++
	if o.action == saPreemptAndAbort {
		next.Aborts++
	}
	return next, nil
}

// applyMove registers another nexus and makes it the holder.
func (r Reservations) applyMove(o *order) (Reservations, *refusal) {
	switch {
	case r.Type == NoReservation:
		return r, refuse(badCDB(1, 4)) // there is nothing to move
	case !r.holds(o.initiator, o.port), r.Type.allHold():
		return r, conflict
	case o.actionKey == 0:
		return r, refuse(badData(8, noBit))
	case o.toInitiator == o.initiator && o.toPort == o.port:
		return r, refuse(badData(24, noBit))
	}
	next := r
	next.Registrations = slices.Clone(r.Registrations)
	next.set(Registration{Initiator: o.toInitiator, Port: o.toPort, Key: o.actionKey})
	if len(next.Registrations) > maxRegistrations {
		return r, refuse(sense(IllegalRequest, OutOfRegistrations))
	}
	next = next.reserve(r.Type, o.toInitiator, o.toPort)
	if o.unregister {
		next = next.without(func(g Registration) bool { return g.Initiator == o.initiator && g.Port == o.port })
	}
	next.Generation++
	next.Persist = o.persist
	return next, nil
}
