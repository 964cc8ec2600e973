package scsi

import (
	"context"
	"errors"
	"testing"
)

// durable is a store that says that it outlives a loss of power.
type durable struct{ *MemoryStore }

func (durable) Durable() bool { return true }

func TestPowerOn(t *testing.T) {
	for name, c := range map[string]struct {
		flags byte
		kept  bool
	}{
		"with APTPL":    {persistDurable, true},
		"without APTPL": {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			store := durable{NewMemoryStore()}
			r := newRig(t, rigOptions{unit: Options{Reservations: store}})
			cdb, list := prOut(saRegister, 0, 0, 5, c.flags)
			r.good(r.a, cdb, list, 0)
			r.pr(r.a, saReserve, WriteExclusive, 5, 0)
			for range 2 {
				if err := PowerOn(t.Context(), store); err != nil {
					t.Fatal(err)
				}
			}
			again := newRig(t, rigOptions{unit: Options{Reservations: store}})
			again.a.attentions.take()
			if b := again.good(again.b, []byte{opPersistentIn, saReadKeys, 0, 0, 0, 0, 0, 0, 64, 0}, nil, 64); (len(b) == 16) != c.kept || b[3] != 0 {
				t.Errorf("keys % x", b)
			}
			write := span16(opWrite16, 0, 0, 1)
			if c.kept {
				again.conflicts(again.b, write, filled(1, 1))
				again.good(again.a, write, filled(1, 1), 0)
			} else {
				again.good(again.b, write, filled(1, 1), 0)
			}
		})
	}
	t.Run("keeps what a SANITIZE has left", func(t *testing.T) {
		store := NewMemoryStore()
		if err := store.Swap(t.Context(), 0, Reservations{Generation: 3, Sanitize: 1}.Encode()); err != nil {
			t.Fatal(err)
		}
		if err := PowerOn(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, rigOptions{unit: Options{Reservations: store}})
		r.fails(r.a, turCDB, nil, 0, MediumError, SanitizeFailed)
	})
	t.Run("of what cannot be read", func(t *testing.T) {
		store := NewMemoryStore()
		if err := store.Swap(t.Context(), 0, []byte("{")); err != nil {
			t.Fatal(err)
		}
		if err := PowerOn(t.Context(), store); err == nil {
			t.Error("no error")
		}
	})
	t.Run("of a store that is always swapped by others", func(t *testing.T) {
		if err := PowerOn(t.Context(), contested{}); !errors.Is(err, ErrReservationsChanged) {
			t.Error(err)
		}
	})
}

// contested is a store that somebody else always swaps first.
type contested struct{}

func (contested) Load(context.Context) ([]byte, uint64, error) {
	return Reservations{Generation: 1}.Encode(), 1, nil
}
func (contested) Swap(context.Context, uint64, []byte) error { return ErrReservationsChanged }
func (contested) Durable() bool                              { return true }
