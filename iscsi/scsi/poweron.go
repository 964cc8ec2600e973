package scsi

import (
	"context"
	"errors"
)

// PowerOn makes of what a store keeps what a unit keeps over a loss of power
// (SPC-4, 5.12.5): registrations and reservation if APTPL was asked for, else
// none. It is for before the first New on the store.
//
// With several gateways the unit has lost power only when none of them served it:
// one that starts while another is up, or may be, must not call this. In doubt
// keep what is there. A registration that has outlived its time costs somebody a
// CLEAR; one that is dropped while its host counts on it lets a host write that
// was fenced off.
func PowerOn(ctx context.Context, s ReservationStore) error {
	for range maxSwaps {
		b, version, err := s.Load(ctx)
		if err != nil {
			return err
		}
		now, err := DecodeReservations(b)
		if err != nil {
			return err
		}
		if now.Generation == 0 && (now.Persist || len(now.Registrations) == 0) {
			return nil
		}
		err = s.Swap(ctx, version, now.poweredOn().Encode())
		if !errors.Is(err, ErrReservationsChanged) {
			return err
		}
	}
	return ErrReservationsChanged
}

// poweredOn is what is left of r. A SANITIZE that was cut short still is.
func (r Reservations) poweredOn() Reservations {
	r.Generation = 0
	if !r.Persist {
		r = r.free()
		r.Registrations = nil
	}
	return r
}
