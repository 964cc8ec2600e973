package scsi

import (
	"encoding/json"
	"fmt"
	"slices"
)

// ReservationType is the type of a persistent reservation (SPC-4, table 63).
type ReservationType byte

// Types. Registrants only and all registrants let everybody registered in; of
// the latter all registrants are holders.
const (
	NoReservation                  ReservationType = 0
	WriteExclusive                 ReservationType = 1
	ExclusiveAccess                ReservationType = 3
	WriteExclusiveRegistrantsOnly  ReservationType = 5
	ExclusiveAccessRegistrantsOnly ReservationType = 6
	WriteExclusiveAllRegistrants   ReservationType = 7
	ExclusiveAccessAllRegistrants  ReservationType = 8
)

func (t ReservationType) valid() bool {
	return t == WriteExclusive || t == ExclusiveAccess || t >= WriteExclusiveRegistrantsOnly && t <= ExclusiveAccessAllRegistrants
}

func (t ReservationType) exclusive() bool {
	return t == ExclusiveAccess || t == ExclusiveAccessRegistrantsOnly || t == ExclusiveAccessAllRegistrants
}

func (t ReservationType) forRegistrants() bool { return t >= WriteExclusiveRegistrantsOnly }

func (t ReservationType) allHold() bool {
	return t == WriteExclusiveAllRegistrants || t == ExclusiveAccessAllRegistrants
}

// Registration is the key of one I_T nexus.
type Registration struct {
	Initiator string `json:"initiator"`
	Port      uint16 `json:"port"`
	Key       uint64 `json:"key"`
}

// Reservations is the state of persistent reservations: a value. Its methods
// return a new one and never change what they were given, so it can be read
// without a lock and swapped whole.
type Reservations struct {
	// Generation is PRgeneration.
	Generation    uint32         `json:"generation"`
	Registrations []Registration `json:"registrations,omitempty"`
	// Type of the reservation, NoReservation for none.
	Type ReservationType `json:"type,omitempty"`
	// Initiator and Port are the holder, for the types that have one.
	Initiator string `json:"initiator,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	// Persist is APTPL: the state outlives a loss of power.
	Persist bool `json:"persist,omitempty"`
	// Aborts counts the PREEMPT AND ABORTs, so that a gateway that learns of the
	// new state knows what to do with the commands of those preempted.
	Aborts uint32 `json:"aborts,omitempty"`
	// Sanitize says that a SANITIZE was begun and has not come to its end: 2 if
	// the unit may be used all the same after EXIT FAILURE MODE, else 1. It is no
	// reservation, and it is here because it must outlive the same things.
	Sanitize byte `json:"sanitize,omitempty"`
}

// Bounds of what is stored.
const (
	maxRegistrations = 256
	maxPortName      = 255
	maxEncoded       = 256 << 10
)

// Encode returns the state as a store keeps it.
func (r Reservations) Encode() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// DecodeReservations is the inverse of Encode; of no bytes it makes the state of
// a new unit. It refuses what breaks the rules.
func DecodeReservations(b []byte) (Reservations, error) {
	var r Reservations
	if len(b) == 0 {
		return r, nil
	}
	if len(b) > maxEncoded {
		return r, fmt.Errorf("reservations of %d bytes: at most %d", len(b), maxEncoded)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return Reservations{}, fmt.Errorf("reservations: %w", err)
	}
	if err := r.validate(); err != nil {
		return Reservations{}, fmt.Errorf("reservations: %w", err)
	}
	return r, nil
}

func (r *Reservations) validate() error {
	if len(r.Registrations) > maxRegistrations {
		return fmt.Errorf("%d registrations: at most %d", len(r.Registrations), maxRegistrations)
	}
	for i, reg := range r.Registrations {
		if reg.Initiator == "" || len(reg.Initiator) > maxPortName || reg.Key == 0 {
			return fmt.Errorf("registration of %q at port %d with key %#x", reg.Initiator, reg.Port, reg.Key)
		}
		if r.find(reg.Initiator, reg.Port) != i {
			return fmt.Errorf("%q is registered twice at port %d", reg.Initiator, reg.Port)
		}
	}
	if r.Sanitize > byte(sanitizeMayExit) {
		return fmt.Errorf("sanitize %d", r.Sanitize)
	}
	switch {
	case r.Type == NoReservation && r.Initiator == "" && r.Port == 0:
		return nil
	case !r.Type.valid():
		return fmt.Errorf("type %d", r.Type)
	case r.Type.allHold() && r.Initiator == "" && r.Port == 0 && len(r.Registrations) > 0:
		return nil
	case !r.Type.allHold() && r.find(r.Initiator, r.Port) >= 0:
		return nil
	}
	return fmt.Errorf("type %d held by %q at port %d", r.Type, r.Initiator, r.Port)
}

// find returns the index of a nexus's registration, or -1.
func (r *Reservations) find(initiator string, port uint16) int {
	return slices.IndexFunc(r.Registrations, func(g Registration) bool {
		return g.Port == port && g.Initiator == initiator
	})
}

// holds says whether a nexus holds the reservation.
func (r *Reservations) holds(initiator string, port uint16) bool {
	switch {
	case r.Type == NoReservation:
		return false
	case r.Type.allHold():
		return r.find(initiator, port) >= 0
	}
	return r.Initiator == initiator && r.Port == port
}

// holderKey is the key that READ RESERVATION tells: 0 where all hold.
func (r *Reservations) holderKey() uint64 {
	if i := r.find(r.Initiator, r.Port); r.Type != NoReservation && !r.Type.allHold() && i >= 0 {
		return r.Registrations[i].Key
	}
	return 0
}

// without returns the state after the registrations that drop selects are gone,
// and the reservation with them where nobody is left to hold it.
func (r Reservations) without(drop func(Registration) bool) Reservations {
	r.Registrations = slices.DeleteFunc(slices.Clone(r.Registrations), drop)
	held := len(r.Registrations) > 0
	if !r.Type.allHold() {
		held = r.find(r.Initiator, r.Port) >= 0
	}
	if !held {
		r = r.free()
	}
	return r
}

func (r Reservations) free() Reservations {
	r.Type, r.Initiator, r.Port = NoReservation, "", 0
	return r
}

// reserve makes a nexus the holder.
func (r Reservations) reserve(t ReservationType, initiator string, port uint16) Reservations {
	r = r.free()
	r.Type = t
	if !t.allHold() {
		r.Initiator, r.Port = initiator, port
	}
	return r
}

// notice is a unit attention for a registered nexus.
type notice struct {
	initiator string
	port      uint16
	code      Code
	// aborted: its commands end without status too.
	aborted bool
}

// notices are what the registrants of r have to be told when the state becomes
// next. The nexus that ordered it, if it is known, is told nothing. That they
// follow from the two states alone lets a gateway tell its own initiators of
// what was ordered at another.
func (r *Reservations) notices(next *Reservations, initiator string, port uint16) (all []notice) {
	freed := next.Type == NoReservation && r.Type.forRegistrants()
	changed := next.Type != NoReservation && r.Type != NoReservation && next.Type != r.Type
	for _, g := range r.Registrations {
		n := notice{initiator: g.Initiator, port: g.Port}
		switch {
		case g.Initiator == initiator && g.Port == port:
			continue
		case next.find(g.Initiator, g.Port) < 0 && len(next.Registrations) == 0 && next.Aborts == r.Aborts:
			n.code = ReservationsPreempted
		case next.find(g.Initiator, g.Port) < 0:
			n.code = RegistrationsPreempted
			n.aborted = next.Aborts != r.Aborts
		case freed || changed:
			n.code = ReservationsReleased
		default:
			continue
		}
		all = append(all, n)
	}
	return all
}
